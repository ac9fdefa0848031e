"""transformers encoders: CLIP, SigLIP, DINO and DINOv2 folders, equal to the library by hand."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import CONTEXT, IMAGE, write_transformers

from dbbench.errors import UserError
from dbbench.evaluation.encoder import load_encoder

KINDS = ("clip", "siglip", "dino", "dinov2")
TEXTS = ["a dog in the jungle", "A teapot in the snow."]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: write_transformers(tmp_path_factory.mktemp(kind), kind) for kind in KINDS}


def images(count: int, size: tuple[int, int] = (50, 40)) -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, size=(count, 9, 9, 3), dtype=np.uint8)
    return [Image.fromarray(p).resize(size, Image.Resampling.BICUBIC) for p in pixels]


def unit(rows: torch.Tensor) -> np.ndarray:
    return (rows / rows.norm(dim=1, keepdim=True)).numpy()


@torch.inference_mode()
def by_hand(folder: Path, kind: str, drawn: list[Image.Image]) -> np.ndarray:
    """Resize with Pillow, normalize by hand, and ask the model's own class."""
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    rows = []
    for image in drawn:
        side = settings["size"].get("shortest_edge")
        width, height = image.size
        if side is None:
            resized = image.resize((IMAGE, IMAGE), Image.Resampling(settings["resample"]))
        else:
            scale = side / min(width, height)
            target = (int(width * scale), int(height * scale))
            resized = image.resize(target, Image.Resampling(settings["resample"]))
            left, top = (target[0] - IMAGE) // 2, (target[1] - IMAGE) // 2
            resized = resized.crop((left, top, left + IMAGE, top + IMAGE))
        pixels = np.asarray(resized, dtype=np.float32) / 255
        mean, std = np.float32(settings["image_mean"]), np.float32(settings["image_std"])
        rows.append(torch.from_numpy((pixels - mean) / std).permute(2, 0, 1))
    batch = torch.stack(rows)
    if kind in {"clip", "siglip"}:
        model = transformers.AutoModel.from_pretrained(folder).eval()
        return unit(model(pixel_values=batch, input_ids=torch.zeros(1, 4).long()).image_embeds)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    return unit(model(pixel_values=batch).last_hidden_state[:, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_image_features_equal_the_models_own(kind: str, folders: dict[str, Path]) -> None:
    encoder = load_encoder(f"hf:{folders[kind]}", device="cpu")
    drawn = images(3)
    found = encoder.encode_images(drawn)
    assert found.dtype == np.float32
    assert found == pytest.approx(by_hand(folders[kind], kind, drawn), abs=1e-5)
    assert found.shape[1] == encoder.dim == (20 if kind == "clip" else 32)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_text_features_equal_the_models_own(kind: str, folders: dict[str, Path]) -> None:
    encoder = load_encoder(f"hf:{folders[kind]}", device="cpu")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[kind])
    model = transformers.AutoModel.from_pretrained(folders[kind]).eval()
    tokens = tokenizer(TEXTS, padding="max_length", max_length=CONTEXT, return_tensors="pt")
    with torch.inference_mode():
        seen = torch.zeros(1, 3, IMAGE, IMAGE)
        expected = unit(model(pixel_values=seen, **tokens).text_embeds)
    assert encoder.encode_texts(TEXTS) == pytest.approx(expected, abs=1e-5)
    assert encoder.encode_texts([" ".join(["dog"] * 99)]).shape == (1, encoder.dim)


@pytest.mark.parametrize("kind", KINDS)
def test_features_do_not_depend_on_batch_or_order(kind: str, folders: dict[str, Path]) -> None:
    encoder = load_encoder(f"hf:{folders[kind]}", device="cpu")
    drawn = images(7)
    whole = encoder.encode_images(drawn)
    encoder.batch_size = 2  # type: ignore[attr-defined]
    assert encoder.encode_images(drawn) == pytest.approx(whole, abs=1e-5)
    assert encoder.encode_images(drawn[::-1])[::-1] == pytest.approx(whole, abs=1e-5)


def test_weights_from_a_file_take_the_place_of_the_folders(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    for kind in ("clip", "dino"):
        tensors = load_file(folders[kind] / "model.safetensors")
        key = next(k for k in tensors if "layernorm" in k and "weight" in k)
        save_file(tensors | {key: tensors[key] * 2}, tmp_path / "other.safetensors")
        shutil.copy(folders[kind] / "model.safetensors", tmp_path / "same.safetensors")
        own = load_encoder(f"hf:{folders[kind]}", device="cpu")
        same = load_encoder(f"hf:{folders[kind]}@{tmp_path / 'same.safetensors'}", device="cpu")
        other = load_encoder(f"hf:{folders[kind]}@{tmp_path / 'other.safetensors'}", device="cpu")
        assert own.fingerprint == same.fingerprint != other.fingerprint


def test_preprocessing_is_in_the_fingerprint(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["dinov2"], tmp_path / "copy")
    config = tmp_path / "copy" / "preprocessor_config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"resample": 2}))
    one = load_encoder(f"hf:{folders['dinov2']}", device="cpu").fingerprint
    assert one != load_encoder(f"hf:{tmp_path / 'copy'}", device="cpu").fingerprint


def test_a_missing_tensor_is_refused_not_left_random(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders["dino"], tmp_path / "cut")
    tensors = load_file(folders["dino"] / "model.safetensors")
    key = next(k for k in tensors if "layer.1" in k)
    del tensors[key]
    save_file(tensors, tmp_path / "cut" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"do not fit: .*layers?\.1"):
        load_encoder(f"hf:{tmp_path / 'cut'}", device="cpu")


def test_code_in_a_folder_is_never_run(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["dino"], tmp_path / "own")
    marker = tmp_path / "it was run"
    (tmp_path / "own" / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    config |= {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"},
    }
    (tmp_path / "own" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        load_encoder(f"hf:{tmp_path / 'own'}", device="cpu")
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_pickles_and_what_is_no_model_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a folder nor a hub id"):
        load_encoder("hf:/nowhere/at/all", device="cpu")
    with pytest.raises(UserError, match=r"has no config\.json"):
        load_encoder(f"hf:{tmp_path}", device="cpu")
    for file in folders["dino"].glob("*.json"):
        shutil.copy(file, tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="a pickle can run code"):
        load_encoder(f"hf:{tmp_path}", device="cpu")
    with pytest.raises(UserError, match="a pickle can run code"):
        load_encoder(f"hf:{tmp_path}@{tmp_path / 'pytorch_model.bin'}", device="cpu")
    with pytest.raises(UserError, match="cannot encode texts"):
        load_encoder(f"hf:{folders['dino']}", device="cpu").encode_texts(["a dog"])


def test_without_a_network_the_remedy_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"not in the local cache") as caught:
        load_encoder("hf:facebook/dinov2-small", device="cpu")
    assert "\n" not in str(caught.value)

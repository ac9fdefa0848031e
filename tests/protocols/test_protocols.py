"""A protocol is data: every choice is named, sourced, and refused by name where it is wrong."""

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dbbench.errors import UserError
from dbbench.evaluation.encoder import load_encoder
from dbbench.evaluation.metric import load_metric
from dbbench.protocols.protocol import CHOICES, Protocol, load_protocol, protocol_names

PUBLISHED = ["custom-diffusion", "dreambench++", "kosmos-g", "oft", "textual-inversion"]


def written(folder: Path, *, without: str = "", extra: str = "") -> str:
    """Return the path of a copy of `paper` that lacks a line, or begins with another one."""
    protocol = load_protocol("paper")
    lines = [
        f'name = "{protocol.name}"',
        'description = "d"',
        'source = "s"',
        'metrics = ["dino"]',
        "[encoders]",
        'dino = "mini-dino"',
        "[reasons]",
        *(f'{choice} = "because"' for choice in CHOICES),
    ]
    path = folder / "own.toml"
    path.write_text("\n".join([extra, *(x for x in lines if not without or without not in x)]))
    return str(path)


def test_paper_comes_first_and_every_published_reading_is_there() -> None:
    assert list(protocol_names()) == ["paper", *PUBLISHED]


@pytest.mark.parametrize("name", protocol_names())
def test_every_choice_of_every_protocol_has_a_reason_and_a_source(name: str) -> None:
    protocol = load_protocol(name)
    assert protocol.name == name
    assert "arXiv" in protocol.source
    assert set(protocol.reasons) == set(CHOICES)
    for metric in map(load_metric, protocol.metrics):
        assert metric.role in protocol.encoders
        assert not metric.flag


def test_the_readings_differ_in_what_was_published() -> None:
    read = {name: load_protocol(name) for name in protocol_names()}
    assert {n for n, p in read.items() if p.references == "first"} == {"kosmos-g", "dreambench++"}
    assert read["oft"].encoders["clip"].startswith("open_clip:ViT-L-14")
    assert "patch8" in read["dreambench++"].encoders["dino"]
    assert read["kosmos-g"].encoders["dino"] != read["paper"].encoders["dino"]
    assert read["textual-inversion"].metrics == ("clip-i", "clip-t")
    assert read["custom-diffusion"].scale == {"clip-t": 2.5}
    assert set(read["dreambench++"].scale.values()) == {100.0}
    assert read["paper"].rule_of_thumb == {"dino": 0.1, "clip-t": 0.05}
    assert read["paper"].real is not None
    assert read["paper"].real.scores == {"dino": 0.774, "clip-i": 0.885}


def test_scale_and_floor_are_those_of_clip_score() -> None:
    protocol = load_protocol("custom-diffusion")
    assert protocol.value("clip-t", 0.3) == pytest.approx(0.75)
    assert protocol.value("clip-t", -0.2) == 0.0
    assert protocol.value("dino", -0.2) == -0.2
    assert math.isnan(load_protocol("paper").value("dino", float("nan")))


def test_unknown_protocol_names_the_nearest() -> None:
    with pytest.raises(UserError, match='did you mean "kosmos-g"'):
        load_protocol("kosmosg")
    with pytest.raises(UserError, match="no protocol file"):
        load_protocol("my/own.toml")


def test_own_protocol_comes_from_a_file(tmp_path: Path) -> None:
    assert load_protocol(written(tmp_path)).encoders == {"dino": "mini-dino"}


@pytest.mark.parametrize(
    ("without", "extra", "reason"),
    [
        ("text =", "", '"text" has no reason'),
        ("", "refrences = 'all'", 'did you mean "references"'),
        ("", "references = 'some'", "references = 'some'"),
        ("", "scale = { clip-t = 2.5 }", '"clip-t" is not one of its metrics'),
        ("", "= 3", "not valid TOML"),
    ],
)
def test_a_wrong_protocol_is_refused_in_one_line(
    tmp_path: Path, without: str, extra: str, reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        load_protocol(written(tmp_path, without=without, extra=extra))


def test_resize_that_a_protocol_names_is_what_the_encoder_does(tmp_path: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save_file
    from torchvision.transforms import functional

    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=0).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    file = f"@{tmp_path}/w.safetensors"
    config = model.pretrained_cfg
    plain = load_encoder(f"timm:test_vit.r160_in1k{file}", device="cpu")
    other = load_encoder(f"timm:test_vit.r160_in1k?crop_pct=0.8{file}", device="cpu")
    assert plain.fingerprint != other.fingerprint
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    # 160 / 0.8: resized to 200 by the weights' own filter, then the middle 160.
    filters = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
    small = image.resize((200, 200), filters[config["interpolation"]]).crop((20, 20, 180, 180))
    tensor = functional.normalize(functional.to_tensor(small), config["mean"], config["std"])
    with torch.inference_mode():
        feature = torch.nn.functional.normalize(model(tensor[None]), dim=1)[0].numpy()
    assert other.encode_images([image])[0] == pytest.approx(feature, abs=1e-5)
    assert np.abs(plain.encode_images([image])[0] - feature).max() > 1e-4
    for wrong in ("crop_pct=2", "crop=0.9", "interpolation=magic"):
        with pytest.raises(UserError, match="write crop_pct"):
            load_encoder(f"timm:test_vit.r160_in1k?{wrong}{file}", device="cpu")


def test_protocols_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Protocol.__setattr__(load_protocol("paper"), "references", "first")

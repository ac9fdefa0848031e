"""Encoders own their preprocessing, say what they are, and refuse weights that do not fit."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from tiny_models import write_tokenizer

from dbbench.errors import UserError
from dbbench.evaluation.encoder import Preparing, load_encoder
from dbbench.evaluation.encoders import open_clip as open_clip_encoder
from dbbench.evaluation.encoders import timm as timm_encoder

SMALL_VIT = "vit_tiny_patch16_224"
SMALL_CLIP = {"layers": 1, "width": 32}


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random ViT in timm's own folder format."""
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(0)
    arguments = {"img_size": 64, "patch_size": 16, "embed_dim": 48, "depth": 2, "num_heads": 3}
    model = timm.create_model(SMALL_VIT, num_classes=0, **arguments)
    chosen = {"input_size": [3, 64, 64], "interpolation": "bicubic", "crop_pct": 1.0}
    chosen |= {"mean": [0.5] * 3, "std": [0.5] * 3, "crop_mode": "center"}
    model.pretrained_cfg |= chosen
    save_for_hf(model, str(folder), model_args=arguments, safe_serialization=True)
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random CLIP in open_clip's own folder format, with a word-level tokenizer."""
    return make_clip(tmp_path_factory.mktemp("clip"))


def make_clip(folder: Path) -> Path:
    size = write_tokenizer(folder)
    vision = {"image_size": 64, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    text = {"context_length": 24, "vocab_size": size, "hf_tokenizer_name": "local"}
    text |= {"width": 32, "heads": 2, "layers": 1}
    model = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    preprocess = {"size": 64, "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    config = {"model_cfg": model, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    save_file(open_clip.CLIP(**model).state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def siglip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SigLIP 2 as open_clip describes it, narrow and shallow, with a word-level tokenizer."""
    folder = tmp_path_factory.mktemp("siglip2")
    size = write_tokenizer(folder)
    model = open_clip.get_model_config("ViT-B-16-SigLIP2")
    model["embed_dim"] = 64
    model["vision_cfg"] |= {"timm_model_name": "test_vit", "image_size": 160}
    model["text_cfg"] |= {"vocab_size": size, "hf_tokenizer_name": "local", "context_length": 24}
    model["text_cfg"] |= {"width": 64, "heads": 2, "layers": 1}
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic"}
    config = {"model_cfg": model, "preprocess_cfg": preprocess | {"resize_mode": "squash"}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    made = {key: value for key, value in model.items() if key != "custom_text"}
    network = open_clip.CustomTextCLIP(**made)
    save_file(network.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture
def small_clip(monkeypatch: pytest.MonkeyPatch) -> type[open_clip.CLIP]:
    """Make open_clip build ViT-B-32 with one thin layer, so that the real loader takes no time."""
    genuine = open_clip.factory.get_model_config

    def shrunk(name: str) -> dict[str, object] | None:
        config = genuine(name)
        if name.startswith("ViT-B-32"):
            config["embed_dim"] = 24
            config["vision_cfg"] |= SMALL_CLIP | {"head_width": 16, "image_size": 64}
            config["text_cfg"] |= SMALL_CLIP | {"heads": 2}
        return config

    monkeypatch.setattr(open_clip.factory, "get_model_config", shrunk)
    monkeypatch.setattr(open_clip, "get_model_config", shrunk)
    return open_clip.CLIP


def images(count: int, size: int = 64) -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, size=(count, 9, 9, 3), dtype=np.uint8)
    return [Image.fromarray(p).resize((size, size), Image.Resampling.BICUBIC) for p in pixels]


def test_timm_features_equal_the_networks_own_class_token(dino: Path) -> None:
    encoder = load_encoder(f"timm:local-dir:{dino}", device="cpu")
    drawn = images(3)
    # By hand: 64 px needs neither resizing nor cropping, so only the normalization is left.
    pixels = np.stack([np.asarray(image, dtype=np.float32) for image in drawn])
    batch = torch.from_numpy((pixels / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)
    model = timm.create_model(f"local-dir:{dino}", pretrained=True, num_classes=0).eval()
    with torch.inference_mode():
        token = model.forward_features(batch)[:, 0]
    expected = (token / token.norm(dim=1, keepdim=True)).numpy()
    found = encoder.encode_images(drawn)
    assert found.dtype == np.float32
    assert found.shape == (3, encoder.dim) == (3, 48)
    assert found == pytest.approx(expected, abs=1e-5)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("kind", "dim"), [("clip", 24), ("siglip2", 64)])
def test_clip_features_equal_the_networks_own(
    kind: str, dim: int, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(kind)
    encoder = load_encoder(f"open_clip:local-dir:{folder}", device="cpu")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    drawn, texts = images(3, 80), ["a dog in the jungle", "A teapot in the snow."]
    with torch.inference_mode():
        model.eval()
        seen = model.encode_image(torch.stack([transform(i) for i in drawn]), normalize=True)
        read = model.encode_text(tokenizer(texts), normalize=True)
    assert encoder.encode_images(drawn) == pytest.approx(seen.numpy(), abs=1e-5)
    assert encoder.encode_texts(texts) == pytest.approx(read.numpy(), abs=1e-5)
    assert encoder.dim == dim


@pytest.mark.parametrize("kind", ["timm", "open_clip"])
def test_features_do_not_depend_on_batch_or_order(kind: str, dino: Path, clip: Path) -> None:
    encoder = load_encoder(f"{kind}:local-dir:{dino if kind == 'timm' else clip}", device="cpu")
    drawn = images(7, 90)
    whole = encoder.encode_images(drawn)
    encoder.batch_size = 2  # type: ignore[attr-defined]
    assert encoder.encode_images(drawn) == pytest.approx(whole, abs=1e-5)
    assert encoder.encode_images(drawn[::-1])[::-1] == pytest.approx(whole, abs=1e-5)
    assert encoder.encode_images([]).shape == (0, encoder.dim)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["timm", "open_clip"])
def test_features_do_not_depend_on_the_device(kind: str, dino: Path, clip: Path) -> None:
    reference = f"{kind}:local-dir:{dino if kind == 'timm' else clip}"
    here, there = (load_encoder(reference, device=device) for device in ("cpu", "cuda"))
    drawn = images(7, 90)
    assert there.encode_images(drawn) == pytest.approx(here.encode_images(drawn), abs=1e-5)
    assert here.fingerprint == there.fingerprint
    if kind == "open_clip":
        texts = ["a dog in the jungle"]
        assert there.encode_texts(texts) == pytest.approx(here.encode_texts(texts), abs=1e-5)


@pytest.mark.parametrize("kind", ["timm", "open_clip"])
def test_what_is_prepared_ahead_gives_the_same_bits(kind: str, dino: Path, clip: Path) -> None:
    encoder = load_encoder(f"{kind}:local-dir:{dino if kind == 'timm' else clip}", device="cpu")
    assert isinstance(encoder, Preparing)
    drawn = [*images(2, 90), *images(1, 300), Image.new("RGB", (40, 200), "red")]
    prepared = [encoder.prepare(image) for image in drawn]
    assert {image.size for image in prepared} == {(64, 64)}
    assert np.array_equal(encoder.encode_prepared(prepared), encoder.encode_images(drawn))


def test_any_image_mode_is_taken_as_rgb(dino: Path) -> None:
    encoder = load_encoder(f"timm:local-dir:{dino}", device="cpu")
    grey = images(1)[0].convert("L")
    as_rgb = encoder.encode_images([grey.convert("RGB")])
    for mode in ("L", "LA", "RGBA", "CMYK"):
        assert encoder.encode_images([grey.convert(mode)]) == pytest.approx(as_rgb, abs=0.02)


def test_fingerprint_holds_weights_and_preprocessing(dino: Path, tmp_path: Path) -> None:
    one = load_encoder(f"timm:local-dir:{dino}", device="cpu").fingerprint
    assert one == load_encoder(f"timm:local-dir:{dino}", device="cpu").fingerprint
    config = json.loads((dino / "config.json").read_text())
    tensors = load_file(dino / "model.safetensors")
    seen = {one}
    for change in ({"interpolation": "bilinear"}, {"crop_pct": 0.9}, {"mean": [0.4] * 3}, {}):
        folder = tmp_path / str(len(seen))
        folder.mkdir()
        config["pretrained_cfg"] |= change
        (folder / "config.json").write_text(json.dumps(config))
        if not change:
            tensors["norm.bias"] = tensors["norm.bias"] + 1e-6
        save_file(tensors, folder / "model.safetensors")
        seen.add(load_encoder(f"timm:local-dir:{folder}", device="cpu").fingerprint)
    assert len(seen) == 5


def test_clip_fingerprint_holds_the_tokenizer(clip: Path, tmp_path: Path) -> None:
    other = make_clip(tmp_path)
    one = load_encoder(f"open_clip:local-dir:{clip}", device="cpu").fingerprint
    assert one == load_encoder(f"open_clip:local-dir:{other}", device="cpu").fingerprint
    text = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(text.replace('"Lowercase"', '"NFKC"'))
    assert one != load_encoder(f"open_clip:local-dir:{other}", device="cpu").fingerprint


def test_timm_weights_from_a_file_keep_the_models_own_preprocessing(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = timm.create_model(SMALL_VIT, num_classes=1000)
    file = tmp_path / "weights@home.safetensors"
    save_file(model.state_dict(), file)
    name = f"timm:{SMALL_VIT}.augreg_in21k@{file}"
    encoder = timm_encoder.load(name.removeprefix("timm:"), device="cpu")
    drawn = images(1, 300)
    chosen = timm.data.resolve_model_data_config(model)
    transform = timm.data.create_transform(**chosen, is_training=False)
    with torch.inference_mode():
        token = model.eval().forward_features(transform(drawn[0])[None])[:, 0]
    assert encoder.name == name
    expected = (token / token.norm()).numpy()
    assert encoder.encode_images(drawn) == pytest.approx(expected, abs=1e-5)


def test_a_missing_tensor_is_refused_not_left_random(dino: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    tensors = timm.create_model(SMALL_VIT).state_dict()
    del tensors["blocks.3.mlp.fc1.weight"]
    file = tmp_path / "cut.safetensors"
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"do not fit.*blocks.3.mlp.fc1.weight"):
        load_encoder(f"timm:{SMALL_VIT}@{file}", device="cpu")
    with pytest.raises(UserError, match="do not fit"):
        load_encoder(f"timm:{SMALL_VIT}@{dino / 'model.safetensors'}", device="cpu")


def write_clip(
    kind: type[open_clip.CLIP], file: Path, *, half: bool, quick: bool
) -> open_clip.CLIP:
    torch.manual_seed(2)
    model = kind(**open_clip.get_model_config("ViT-B-32"), quick_gelu=quick).eval()
    if half:
        model = model.half().float()
    save_file(model.state_dict(), file)
    return model


@pytest.mark.parametrize("reference", ["ViT-B-32:openai", "ViT-B-32-quickgelu"])
def test_openai_weights_get_quickgelu_also_from_a_file(
    reference: str, tmp_path: Path, small_clip: type[open_clip.CLIP]
) -> None:
    file = tmp_path / "weights.safetensors"
    model = write_clip(small_clip, file, half=True, quick=True)
    encoder = open_clip_encoder.load(f"{reference}@{file}", device="cpu")
    assert encoder.quick_gelu
    texts = ["a dog in the jungle"]
    drawn = images(2)
    with torch.inference_mode():
        transform = open_clip.image_transform(64, is_train=False, resize_mode="shortest")
        seen = model.encode_image(torch.stack([transform(i) for i in drawn]), normalize=True)
        expected = model.encode_text(open_clip.tokenize(texts), normalize=True).numpy()
    assert encoder.encode_texts(texts) == pytest.approx(expected, abs=1e-5)
    assert encoder.encode_images(drawn) == pytest.approx(seen.numpy(), abs=1e-5)
    # The same weights under plain GELU are silently somewhere else.
    plain = small_clip(**open_clip.get_model_config("ViT-B-32"), quick_gelu=False).eval()
    plain.load_state_dict(model.state_dict())
    with torch.inference_mode():
        wrong = plain.encode_text(open_clip.tokenize(texts), normalize=True).numpy()
    assert np.abs(encoder.encode_texts(texts) - wrong).max() > 1e-3


def test_weights_that_may_be_openais_are_not_loaded_under_plain_gelu(
    tmp_path: Path, small_clip: type[open_clip.CLIP], caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "weights.safetensors"
    write_clip(small_clip, file, half=True, quick=True)
    with pytest.raises(UserError, match="QuickGELU.*open_clip:ViT-B-32:openai@") as caught:
        load_encoder(f"open_clip:ViT-B-32@{file}", device="cpu")
    assert "\n" not in str(caught.value)
    write_clip(small_clip, file, half=False, quick=False)
    with caplog.at_level(logging.WARNING, logger="dbbench"):
        assert not open_clip_encoder.load(f"ViT-B-32@{file}", device="cpu").quick_gelu
    assert "plain GELU, as in the architecture's configuration" in caplog.text
    assert open_clip_encoder.load(f"ViT-B-32-quickgelu@{file}", device="cpu").quick_gelu
    assert "QuickGELU, as in the architecture's configuration" in caplog.text


def test_activation_is_in_the_fingerprint(tmp_path: Path, small_clip: type[open_clip.CLIP]) -> None:
    file = tmp_path / "weights.safetensors"
    write_clip(small_clip, file, half=False, quick=False)
    plain = load_encoder(f"open_clip:ViT-B-32@{file}", device="cpu")
    quick = load_encoder(f"open_clip:ViT-B-32-quickgelu@{file}", device="cpu")
    assert plain.fingerprint != quick.fingerprint


@pytest.mark.parametrize("scheme", [f"timm:{SMALL_VIT}", "open_clip:ViT-B-32"])
@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth"])
def test_pickled_weights_are_refused_with_the_remedy(
    scheme: str, suffix: str, tmp_path: Path
) -> None:
    file = tmp_path / f"weights{suffix}"
    torch.save({}, file)
    with pytest.raises(UserError, match="dbbench data convert") as caught:
        load_encoder(f"{scheme}@{file}", device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["timm", "open_clip"])
def test_a_folder_with_only_a_pickle_is_refused(
    kind: str, dino: Path, clip: Path, tmp_path: Path
) -> None:
    source = dino if kind == "timm" else clip
    for file in source.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(UserError, match="no weights at"):
        load_encoder(f"{kind}:local-dir:{tmp_path}", device="cpu")
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="a pickle can run code"):
        load_encoder(f"{kind}:local-dir:{tmp_path}", device="cpu")
    with pytest.raises(UserError, match=r"config\.json"):
        load_encoder(f"{kind}:local-dir:{tmp_path / 'nowhere'}", device="cpu")


@pytest.mark.parametrize("scheme", [f"timm:{SMALL_VIT}", "open_clip:ViT-B-32"])
def test_damaged_and_missing_files_are_one_line(scheme: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    with pytest.raises(UserError, match="no weights at"):
        load_encoder(f"{scheme}@{file}", device="cpu")
    file.write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{cut")
    with pytest.raises(UserError, match="cannot be read") as caught:
        load_encoder(f"{scheme}@{file}", device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("timm:vit_smal_patch16_224.dino", 'did you mean "vit_small_patch16_224"'),
        ("timm:vit_small_patch16_224.dyno", 'did you mean "vit_small_patch16_224.dino"'),
        ("open_clip:ViT-B32:openai", 'did you mean "ViT-B-32"'),
        ("open_clip:ViT-B-32:opnai", 'did you mean "ViT-B-32:openai"'),
        ("open_clip:ViT-B-32", "cannot be downloaded as safetensors; use open_clip"),
        ("mini-dino:large", "takes no argument"),
        ("tim:vit_small_patch16_224.dino", 'did you mean "timm"'),
    ],
)
def test_unknown_names_suggest_the_nearest(reference: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_encoder(reference, device="cpu")


@pytest.mark.parametrize(
    "reference", ["timm:vit_small_patch16_224.dino", "open_clip:ViT-B-32-quickgelu:openai"]
)
def test_without_a_network_the_remedy_is_one_line(
    reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"not in the local cache .*@/path/") as caught:
        load_encoder(reference, device="cpu")
    assert "\n" not in str(caught.value)


def test_timm_encoder_says_that_it_reads_no_texts(dino: Path) -> None:
    encoder = load_encoder(f"timm:local-dir:{dino}", device="cpu")
    with pytest.raises(UserError, match="cannot encode texts"):
        encoder.encode_texts(["a dog"])


@pytest.mark.parametrize("name", ["mini-dino", "mini-clip"])
def test_embedded_encoders_use_the_same_loaders(
    name: str, dino: Path, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {"dino": dino, "clip": clip}
    monkeypatch.setattr("dbbench.evaluation.encoders.mini.weights", folders.__getitem__)
    encoder = load_encoder(name, device="cpu")
    assert encoder.name == name
    kind = "timm" if name == "mini-dino" else "open_clip"
    same = load_encoder(f"{kind}:local-dir:{folders[name.partition('-')[2]]}", device="cpu")
    assert encoder.fingerprint == same.fingerprint


def test_weights_that_open_clip_would_stretch_do_not_fit(clip: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(clip, tmp_path / "clip"))
    file = folder / "open_clip_model.safetensors"
    state = load_file(file)
    state["positional_embedding"] = state["positional_embedding"][:20].clone()
    save_file(state, file)
    with pytest.raises(UserError, match=r"do not fit: positional_embedding is \(20, 32\)"):
        load_encoder(f"open_clip:local-dir:{folder}", device="cpu")


@pytest.mark.parametrize(
    ("name", "line"),
    [("pos_embed", r"pos_embed is \(1, 10, 48\)"), ("reg_token", ".*reg_token")],
)
def test_weights_that_timm_would_bend_do_not_fit(
    dino: Path, tmp_path: Path, name: str, line: str
) -> None:
    folder = Path(shutil.copytree(dino, tmp_path / "dino"))
    file = folder / "model.safetensors"
    state = load_file(file)
    state[name] = torch.zeros(1, 10, 48)
    save_file(state, file)
    with pytest.raises(UserError, match=f"do not fit: {line}"):
        load_encoder(f"timm:local-dir:{folder}", device="cpu")

"""No silent path: of every kind of given weights, each tensor is placed, or a line names it.

Each format is written as its tool writes it, read once whole, and then once with a tensor renamed,
missing, of another shape, and not a number, and once with metadata that nobody knows.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import single_file
import tiny_backbone
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from tiny_adapter import write_adapter
from torch import Tensor

from dbbench.baselines.dreambooth import DreamBooth
from dbbench.baselines.dreambooth_lora import DreamBoothLora
from dbbench.baselines.textual_inversion import TextualInversion
from dbbench.baselines.zero_shot import ZeroShot
from dbbench.errors import UserError
from dbbench.generation.backbone import Backbone, load_backbone
from dbbench.generation.method import Checkpoint, Concept, Method
from dbbench.generation.pipelines.loading import load_pipeline

CONCEPT = Concept(name="toy", class_noun="dog", images=tuple(tiny_backbone.images(3)))
LAYERS = ("to_q", "to_k", "to_v", "to_out.0")
SIZE = tiny_backbone.RESOLUTION


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    kinds: list[tiny_backbone.Kind] = ["sd", "sdxl"]
    return {kind: tiny_backbone.write(tmp_path_factory.mktemp(kind), kind=kind) for kind in kinds}


@pytest.fixture(scope="module")
def backbones(folders: dict[str, Path]) -> dict[str, Backbone]:
    return {
        kind: load_backbone(str(folder), resolution=SIZE, device="cpu")
        for kind, folder in folders.items()
    }


@dataclass(frozen=True)
class Given:
    """A format: how it is written, which of its files to spoil, and who reads it."""

    write: Callable[[Path, Path, Backbone], Path]
    """Folder to write into, the backbone's folder, the backbone -> the file to spoil."""
    read: Callable[[Path, Path, Backbone], object]
    """The folder written, the spoiled file, the backbone -> anything, or an error."""
    kind: str = "sd"


def pairs(backbone: Backbone, rank: int = 4) -> dict[str, tuple[Tensor, Tensor]]:
    """A LoRA beside the attention of the UNet: layer -> (down, up)."""
    torch.manual_seed(0)
    return {
        name: (torch.randn(rank, m.in_features), torch.randn(m.out_features, rank))
        for name, m in backbone.module("unet").named_modules()
        if isinstance(m, torch.nn.Linear) and name.endswith(LAYERS)
    }


def lora(name: Callable[[str, str], str], *, alpha: bool = False) -> Given:
    """A LoRA whose keys are name(layer, "down" or "up")."""

    def write(folder: Path, source: Path, backbone: Backbone) -> Path:
        state = {}
        for layer, (down, up) in pairs(backbone).items():
            state |= {name(layer, "down"): down, name(layer, "up"): up}
            if alpha:
                state[f"{name(layer, 'down').partition('.')[0]}.alpha"] = torch.tensor(1.0)
        return save(state, folder / "lora.safetensors")

    return Given(write, lambda _, file, backbone: fit(DreamBoothLora, file, backbone))


def attn_procs(layer: str, half: str) -> str:
    block, _, rest = layer.rpartition(".attn")
    number, _, projection = rest.partition(".")
    return f"{block}.attn{number}.processor.{projection.removesuffix('.0')}_lora.{half}.weight"


def kohya(layer: str, half: str) -> str:
    return f"lora_unet_{layer.replace('.', '_')}.lora_{half}.weight"


def peft(layer: str, half: str) -> str:
    return f"{layer}.lora_{'A' if half == 'down' else 'B'}.weight"


def write_peft(folder: Path, source: Path, backbone: Backbone) -> Path:
    file = lora(lambda n, h: f"base_model.model.{peft(n, h)}").write(folder, source, backbone)
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
    return file.rename(folder / "adapter_model.safetensors")


def write_fine_tuned(folder: Path, source: Path, backbone: Backbone) -> Path:
    shutil.copytree(source, folder / "mine")
    return folder / "mine" / "unet" / "diffusion_pytorch_model.safetensors"


def write_text_encoder(folder: Path, source: Path, backbone: Backbone) -> Path:
    write_fine_tuned(folder, source, backbone)
    return folder / "mine" / "text_encoder" / "model.safetensors"


def write_vae(folder: Path, source: Path, backbone: Backbone) -> Path:
    write_fine_tuned(folder, source, backbone)
    return folder / "mine" / "vae" / "diffusion_pytorch_model.safetensors"


def write_shards(folder: Path, source: Path, backbone: Backbone) -> Path:
    backbone.pipeline.unet.save_pretrained(folder / "mine" / "unet", max_shard_size="200KB")
    return min((folder / "mine" / "unet").glob("*-00001-of-*"))


def write_single(folder: Path, source: Path, backbone: Backbone) -> Path:
    pipe = StableDiffusionPipeline.from_pretrained(source)
    return single_file.write(pipe, folder / "model.safetensors")


def read_single(folder: Path, file: Path, backbone: Backbone) -> object:
    source = str(backbone.pipeline.config["_name_or_path"])
    return load_pipeline(str(file), config=source)


def write_two_files(folder: Path, source: Path, backbone: Backbone) -> Path:
    save({"<cat-toy>": torch.randn(1, 24)}, folder / "mine" / "learned_embeds_2.safetensors")
    return save({"<cat-toy>": torch.randn(1, 32)}, folder / "mine" / "learned_embeds.safetensors")


def embeds(key: str) -> Callable[[Path, Path, Backbone], Path]:
    return lambda folder, *_: save({key: torch.randn(2, 32)}, folder / "toy.safetensors")


def whole_folder(method: Any) -> Callable[[Path, Path, Backbone], object]:
    return lambda folder, _, backbone: fit(method, folder / "mine", backbone)


FORMATS = {
    "lora-diffusers": lora(lambda n, h: f"unet.{n}.lora.{h}.weight"),
    "lora-attn-procs": lora(attn_procs),
    "lora-comfyui": lora(lambda n, h: f"diffusion_model.{peft(n, h)}"),
    "lora-kohya": lora(kohya, alpha=True),
    "lora-peft": Given(write_peft, lambda f, _, backbone: fit(DreamBoothLora, f, backbone)),
    "pipeline": Given(write_fine_tuned, lambda f, *_: load_pipeline(str(f / "mine"))),
    "pipeline-vae": Given(write_vae, lambda f, *_: load_pipeline(str(f / "mine"))),
    "pipeline-text": Given(write_text_encoder, lambda f, *_: load_pipeline(str(f / "mine"))),
    "single-file": Given(write_single, read_single),
    "fine-tuned": Given(write_fine_tuned, whole_folder(DreamBooth)),
    "fine-tuned-text": Given(write_text_encoder, whole_folder(DreamBooth)),
    "fine-tuned-vae": Given(write_vae, whole_folder(DreamBooth)),
    "fine-tuned-shards": Given(write_shards, whole_folder(DreamBooth)),
    "inversion-diffusers": Given(embeds("<toy>"), lambda _, f, b: fit(TextualInversion, f, b)),
    "inversion-a1111": Given(embeds("emb_params"), lambda _, f, b: fit(TextualInversion, f, b)),
    "inversion-two-files": Given(write_two_files, whole_folder(TextualInversion), "sdxl"),
    "inversion-one-file": Given(
        lambda folder, *_: save(
            {"clip_l": torch.randn(1, 32), "clip_g": torch.randn(1, 24)}, folder / "toy.safetensors"
        ),
        lambda _, file, backbone: fit(TextualInversion, file, backbone),
        "sdxl",
    ),
    "ip-adapter": Given(
        lambda folder, _, backbone: write_adapter(folder / "adapter", backbone),
        lambda folder, _, backbone: show(folder, backbone),
    ),
    "ip-adapter-plus": Given(
        lambda folder, _, backbone: write_adapter(folder / "adapter", backbone, plus=True),
        lambda folder, _, backbone: show(folder, backbone),
    ),
}
# One word's name is free: a renamed tensor is another word.
FREE_NAME = {"inversion-diffusers", "inversion-a1111"}


def fit(method: Any, path: Path, backbone: Backbone) -> Checkpoint:
    word = {} if method is TextualInversion else {"identifier": "sks"}
    made: Method = method(method.Settings(checkpoint=str(path), **word))
    return made.fit(CONCEPT, backbone, seed=0, progress=lambda *_: None)


def show(folder: Path, backbone: Backbone) -> Checkpoint:
    """Read an adapter as a run does: the references first, then it is put into the UNet."""
    from dbbench.generation.checkpoints.adapter_file import load_adapter

    method = ZeroShot(ZeroShot.Settings(adapter=str(folder / "adapter")))
    checkpoint = method.fit(CONCEPT, backbone, seed=0, progress=lambda *_: None)
    try:
        load_adapter(folder / "adapter" / "models" / "ip-adapter_sd15.safetensors", backbone)
    finally:
        backbone.pipeline.unload_ip_adapter()
        backbone.restore()
    return checkpoint


def save(
    state: Mapping[str, Tensor], file: Path, metadata: Mapping[str, str] | None = None
) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.clone().contiguous() for name, tensor in state.items()}
    save_file(tensors, file, metadata={"format": "pt", **(metadata or {})})
    return file


def spoil(state: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    # The number of an adapter's latents is free.
    name = next(n for n in sorted(state) if state[n].ndim > 1 and "latents" not in n)
    tensor = state.pop(name)
    if how == "renamed":
        state[f"another_{name}"] = tensor
    elif how == "extra":
        state |= {name: tensor, f"another_{name}": tensor + 1}
    elif how == "other-shape":
        state[name] = tensor.repeat(1, 3, *([1] * (tensor.ndim - 2)))
    elif how == "nan":
        state[name] = torch.full_like(tensor, float("nan"))
    return state


@pytest.mark.parametrize("name", FORMATS)
def test_whole_weights_are_read_and_all_others_are_named(
    tmp_path: Path, folders: dict[str, Path], backbones: dict[str, Backbone], name: str
) -> None:
    given = FORMATS[name]
    backbone = backbones[given.kind]
    before = backbone.weights("unet")
    file = given.write(tmp_path, folders[given.kind], backbone)
    given.read(tmp_path, file, backbone)
    good = load_file(file)
    for how in ("renamed", "missing", "extra", "other-shape", "nan"):
        if how == "renamed" and name in FREE_NAME:
            continue
        save(spoil(dict(good), how), file)
        with pytest.raises(UserError) as caught:
            given.read(tmp_path, file, backbone)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 700, how
    after = backbone.weights("unet")
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


@pytest.mark.parametrize(
    "name", ["lora-kohya", "single-file", "inversion-diffusers", "ip-adapter", "fine-tuned"]
)
def test_metadata_that_nobody_knows_is_one_line(
    tmp_path: Path,
    folders: dict[str, Path],
    backbones: dict[str, Backbone],
    name: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    given = FORMATS[name]
    file = given.write(tmp_path, folders[given.kind], backbones[given.kind])
    save(load_file(file), file, {"secret_sauce": "2", "ss_steps": "100"})
    with caplog.at_level(logging.WARNING):
        given.read(tmp_path, file, backbones[given.kind])
    lines = [r.getMessage() for r in caplog.records if "secret_sauce" in r.getMessage()]
    assert len(lines) == 1
    assert "no effect (1 such keys)" in lines[0]


@pytest.mark.parametrize(
    ("metadata", "line"),
    [
        ({"modelspec.prediction_type": "v"}, "prediction type v_prediction"),
        ({"ss_v_parameterization": "True"}, "prediction type v_prediction"),
        ({"ss_zero_terminal_snr": "True"}, "zero terminal SNR True"),
        ({"ss_clip_skip": "2"}, "clip skip 2"),
        ({"lora_adapter_metadata": '{"unet.use_dora": true}'}, "use_dora"),
    ],
)
def test_metadata_that_contradicts_the_backbone_is_refused(
    tmp_path: Path,
    folders: dict[str, Path],
    backbones: dict[str, Backbone],
    metadata: dict[str, str],
    line: str,
) -> None:
    given = FORMATS["lora-kohya"]
    file = given.write(tmp_path, folders["sd"], backbones["sd"])
    save(load_file(file), file, metadata)
    with pytest.raises(UserError, match=line):
        given.read(tmp_path, file, backbones["sd"])


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("scheduler/scheduler_config.json", "prediction_type", "v_prediction"),
        ("scheduler/scheduler_config.json", "rescale_betas_zero_snr", True),
        ("scheduler/scheduler_config.json", "beta_end", 0.02),
        ("scheduler/scheduler_config.json", "timestep_spacing", "trailing"),
        ("unet/config.json", "attention_head_dim", 4),
        ("text_encoder/config.json", "hidden_act", "gelu"),
    ],
)
def test_a_fine_tuned_folder_that_says_otherwise_is_refused(
    tmp_path: Path,
    folders: dict[str, Path],
    backbones: dict[str, Backbone],
    file: str,
    key: str,
    value: object,
) -> None:
    folder = shutil.copytree(folders["sd"], tmp_path / "mine")
    config = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(config | {key: value}))
    with pytest.raises(UserError, match="betas" if key == "beta_end" else key):
        fit(DreamBooth, folder, backbones["sd"])


def test_half_precision_of_the_same_autoencoder_is_the_same(
    tmp_path: Path, folders: dict[str, Path], backbones: dict[str, Backbone]
) -> None:
    folder = shutil.copytree(folders["sd"], tmp_path / "mine")
    for file in folder.rglob("*.safetensors"):
        save({name: tensor.half() for name, tensor in load_file(file).items()}, file)
    assert fit(DreamBooth, folder, backbones["sd"]).files


def test_a_missing_shard_is_counted(
    tmp_path: Path, folders: dict[str, Path], backbones: dict[str, Backbone]
) -> None:
    write_shards(tmp_path, folders["sd"], backbones["sd"]).unlink()
    with pytest.raises(UserError, match="number 1 is missing"):
        fit(DreamBooth, tmp_path / "mine", backbones["sd"])


def test_peft_without_its_scale_is_refused(
    tmp_path: Path, folders: dict[str, Path], backbones: dict[str, Backbone]
) -> None:
    file = write_peft(tmp_path, folders["sd"], backbones["sd"])
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"adapter_config\.json, which is missing"):
        fit(DreamBoothLora, file, backbones["sd"])


def test_the_same_lora_is_the_same_from_every_tool(
    tmp_path: Path, folders: dict[str, Path], backbones: dict[str, Backbone]
) -> None:
    def ups(name: str) -> dict[str, Tensor]:
        given = FORMATS[name]
        file = given.write(tmp_path / name, folders["sd"], backbones["sd"])
        read: Any = given.read(tmp_path / name, file, backbones["sd"])
        (state,) = read.files.values()
        return {key: value for key, value in state.items() if "lora_B" in key}

    plain = ups("lora-diffusers")
    assert len(plain) == len(pairs(backbones["sd"]))
    for name, scale in (
        ("lora-attn-procs", 1.0), ("lora-comfyui", 1.0), ("lora-kohya", 0.25), ("lora-peft", 2.0),
    ):  # fmt: skip
        found = ups(name)
        assert found.keys() == plain.keys()
        assert all(torch.allclose(found[key], plain[key] * scale) for key in plain)


def test_a_lora_with_the_original_names_of_layers_finds_them(
    tmp_path: Path, backbones: dict[str, Backbone]
) -> None:
    state = {}
    for name, layer in (
        ("input_blocks_1_1_transformer_blocks_0_attn1_to_q", "down_blocks.0.attentions.0"),
        ("output_blocks_2_1_transformer_blocks_0_attn1_to_q", "up_blocks.1.attentions.0"),
        ("middle_block_1_transformer_blocks_0_attn1_to_q", "mid_block.attentions.0"),
    ):
        target: Any = (
            backbones["sd"].module("unet").get_submodule(f"{layer}.transformer_blocks.0.attn1.to_q")
        )
        state[f"lora_unet_{name}.lora_down.weight"] = torch.ones(2, target.in_features)
        state[f"lora_unet_{name}.lora_up.weight"] = torch.ones(target.out_features, 2)
    file = save(state, tmp_path / "lora.safetensors")
    (found,) = fit(DreamBoothLora, file, backbones["sd"]).files.values()
    assert {key.removeprefix("unet.").partition(".attentions")[0] for key in found} == {
        "down_blocks.0", "up_blocks.1", "mid_block",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ending", "kind"),
    [("hada_w1_a", "LoHa"), ("lokr_w1", "LoKr"), ("dora_scale", "DoRA"), ("diff", "differences")],
)
def test_other_kinds_of_adapter_are_refused_by_name(
    tmp_path: Path, folders: dict[str, Path], backbones: dict[str, Backbone], ending: str, kind: str
) -> None:
    file = FORMATS["lora-kohya"].write(tmp_path, folders["sd"], backbones["sd"])
    state = load_file(file)
    layer = next(iter(state)).partition(".")[0]
    save(state | {f"{layer}.{ending}": torch.ones(2, 2)}, file)
    with pytest.raises(UserError, match=f"does not fit this backbone.*{kind}"):
        fit(DreamBoothLora, file, backbones["sd"])


def test_an_inversion_of_two_files_has_its_own_word(
    tmp_path: Path, folders: dict[str, Path], backbones: dict[str, Backbone]
) -> None:
    file = write_two_files(tmp_path, folders["sdxl"], backbones["sdxl"])
    for path in (tmp_path / "mine", file):  # the folder, or its first file
        checkpoint = fit(TextualInversion, path, backbones["sdxl"])
        assert checkpoint.metadata["token"] == "<cat-toy>"
        (state,) = checkpoint.files.values()
        assert {name: tuple(t.shape) for name, t in state.items()} == {
            "clip_l": (1, 32), "clip_g": (1, 24),
        }  # fmt: skip


def test_face_adapters_and_pickled_ones_are_refused(
    tmp_path: Path, backbones: dict[str, Backbone]
) -> None:
    file = write_adapter(tmp_path / "adapter", backbones["sd"])
    save(load_file(file) | {"image_proj.proj.3.weight": torch.ones(2)}, file)
    with pytest.raises(UserError, match="Full Face adapter, which is not read"):
        show(tmp_path, backbones["sd"])
    method = ZeroShot(ZeroShot.Settings(adapter=str(tmp_path / "adapter"), weight_name="ip.bin"))
    with pytest.raises(UserError, match=r"ip\.bin is pickled"):
        method.fit(CONCEPT, backbones["sd"], seed=0, progress=lambda *_: None)

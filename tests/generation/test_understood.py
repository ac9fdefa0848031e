"""What a pipeline's configs say is honoured or refused by name, and what is not needed may lack."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import single_file
import tiny_backbone
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from dbbench.baselines.custom_diffusion import CustomDiffusion
from dbbench.errors import UserError
from dbbench.generation.backbone import Backbone, load_backbone
from dbbench.generation.method import Concept
from dbbench.generation.pipelines.loading import load_pipeline
from dbbench.suites.sampling import SampleSettings

SIZE = tiny_backbone.RESOLUTION


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    kinds: list[tiny_backbone.Kind] = ["sd", "sdxl", "sd3"]
    return {kind: tiny_backbone.write(tmp_path_factory.mktemp(kind), kind=kind) for kind in kinds}


@pytest.fixture
def folder(written: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(written["sd"], tmp_path / "backbone"))


def load(folder: Path) -> Backbone:
    return load_backbone(str(folder), resolution=SIZE, device="cpu")


def edit(file: Path, changes: dict[str, Any], *, remove: str = "") -> None:
    document = json.loads(file.read_text()) | changes
    document.pop(remove, None)
    file.write_text(json.dumps(document))


def fp16_only(folder: Path) -> None:
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))


def draw(backbone: Backbone, *, scheduler: Any = "euler", guidance: float = 3.0) -> np.ndarray:
    settings = SampleSettings(scheduler=scheduler, steps=3, guidance=guidance, batch_size=1)
    return np.asarray(next(backbone.sample(["a dog"], seeds=[3], settings=settings)), dtype=float)


def theirs(folder: Path) -> np.ndarray:
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    call = {"height": SIZE, "width": SIZE, "num_inference_steps": 3, "guidance_scale": 3.0}
    return np.asarray(pipe("a dog", generator=generator, **call).images[0], dtype=float)


@pytest.mark.parametrize(
    ("file", "changes", "line"),
    [
        ("scheduler", {"_class_name": "EDMEulerScheduler"}, "scheduler is a EDMEulerScheduler"),
        ("scheduler", {"_class_name": "LCMScheduler"}, "scheduler is a LCMScheduler"),
        ("scheduler", {"prediction_type": "flow_prediction"}, "prediction_type flow_prediction"),
        ("vae", {"latents_mean": [0, 0, 0, 1]}, "latents_mean"),
        ("vae", {"latents_std": [1, 1, 1, 2]}, "latents_std"),
        ("text_encoder", {"use_attention_mask": True}, "use_attention_mask"),
    ],
)
def test_what_is_not_rebuilt_is_refused_by_name(
    folder: Path, file: str, changes: dict[str, Any], line: str
) -> None:
    name = "scheduler_config.json" if file == "scheduler" else "config.json"
    if "_class_name" in changes:
        scheduler = ["diffusers", changes["_class_name"]]
        edit(folder / "model_index.json", {"scheduler": scheduler})
    edit(folder / file / name, changes)
    with pytest.raises(UserError, match=f"cannot be used: .*{line}"):
        load_pipeline(str(folder))


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"in_channels": 9}, "in_channels 9 and its autoencoder 4"),
        ({"out_channels": 8}, "out_channels 8 and its autoencoder 4"),
        ({"time_cond_proj_dim": 8}, "time_cond_proj_dim 8"),
    ],
)
def test_a_denoiser_with_other_inputs_is_refused(
    folder: Path, config: dict[str, Any], line: str
) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    type(pipe.unet).from_config({**pipe.unet.config, **config}).save_pretrained(folder / "unet")
    with pytest.raises(UserError, match=line):
        load_pipeline(str(folder))


def test_statistics_of_an_autoencoders_latents_are_used(
    written: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(written["sdxl"], tmp_path / "backbone"))
    plain = theirs(folder)
    statistics = {"latents_mean": [0.5, -1.0, 2.0, 0.3], "latents_std": [2.0, 0.5, 1.5, 3.0]}
    edit(folder / "vae" / "config.json", statistics)
    backbone = load(folder)
    assert np.abs(draw(backbone) - theirs(folder)).max() <= 1
    assert np.abs(draw(backbone) - plain).mean() > 1
    bare = load(written["sdxl"]).encode_posterior(tiny_backbone.images(1)).mean
    found = backbone.encode_posterior(tiny_backbone.images(1)).mean
    factor = backbone.pipeline.vae.config.scaling_factor
    mean, std = (torch.tensor(s).view(1, -1, 1, 1) for s in statistics.values())
    assert torch.allclose(found, (bare / factor - mean) * factor / std, atol=1e-5)


@pytest.mark.parametrize("missing", [True, False])
def test_a_tokenizer_gets_its_encoders_length(folder: Path, missing: bool) -> None:
    before = load(folder).fingerprint
    file = folder / "tokenizer" / "tokenizer_config.json"
    edit(file, {"model_max_length": 512}, remove="model_max_length" if missing else "")
    backbone = load(folder)
    assert backbone.tokenize(["a dog"]).ids[0].shape == (1, 24)
    assert backbone.fingerprint == before


def test_parts_that_are_not_needed_may_lack(folder: Path) -> None:
    edit(
        folder / "model_index.json",
        {
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
            "feature_extractor": ["transformers", "CLIPImageProcessor"],
            "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
        },
    )
    assert load_pipeline(str(folder)).safety_checker is None


def test_the_only_variant_is_taken_and_several_are_a_choice(folder: Path) -> None:
    before = load(folder).fingerprint
    fp16_only(folder)
    assert load(folder).fingerprint == before
    unet = folder / "unet"
    name = "diffusion_pytorch_model"
    shutil.copy(unet / f"{name}.fp16.safetensors", unet / f"{name}.non_ema.safetensors")
    with pytest.raises(UserError, match=r"variants fp16, non_ema .*backbone\.variant=NAME"):
        load_pipeline(str(folder))
    chosen = load_backbone(str(folder), resolution=SIZE, device="cpu", variant="fp16")
    assert chosen.fingerprint == before


def test_a_sharded_backbone_is_the_same(folder: Path) -> None:
    before = load(folder)
    shutil.rmtree(folder / "unet")
    before.pipeline.unet.save_pretrained(folder / "unet", max_shard_size="200KB")
    assert load(folder).fingerprint == before.fingerprint
    max((folder / "unet").glob("*-of-*")).unlink()
    with pytest.raises(UserError, match="is missing; copy the whole folder"):
        load(folder)


@pytest.mark.parametrize("file", ["text_encoder/model.safetensors", "tokenizer/tokenizer.json"])
def test_a_pointer_of_git_lfs_is_named(folder: Path, file: str) -> None:
    (folder / file).write_bytes(b"version https://git-lfs" + b"\noid sha256:aa\nsize 1\n")
    with pytest.raises(UserError, match=r"git-lfs pointer.*git lfs pull"):
        load_pipeline(str(folder))


@pytest.mark.parametrize("empty", [True, False])
def test_a_single_file_says_how_it_predicts(folder: Path, tmp_path: Path, empty: bool) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    file = single_file.write(pipe, tmp_path / "model.safetensors")
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)} if empty else {}
    metadata = {} if empty else {"modelspec.prediction_type": "v"}
    save_file(load_file(file) | marks, file, metadata=metadata)
    config = load_pipeline(str(file), config=str(folder)).scheduler.config
    assert config.prediction_type == "v_prediction"
    assert bool(config.get("rescale_betas_zero_snr")) is empty
    assert (config.timestep_spacing == "trailing") is empty
    backbone = load_backbone(str(file), config=str(folder), resolution=SIZE, device="cpu")
    draw(backbone, scheduler="ddim")
    if empty:
        with pytest.raises(UserError, match='"pndm" does not support.*zero terminal SNR.*ddim'):
            draw(backbone, scheduler="pndm")


@pytest.mark.parametrize("kind", ["sdxl", "sd3"])
def test_pooled_text_with_a_new_word_still_reads_the_text(
    written: dict[str, Path], kind: str
) -> None:
    backbone = load(written[kind])
    texts = ["a <toy> in the jungle", "a <toy> in the snow"]
    plain = backbone.encode_prompts(["a dog in the jungle", "a dog in the snow"])
    vectors = [
        backbone.module(part).get_input_embeddings().weight[:1]  # type: ignore[operator]
        for part in backbone.text_encoders
    ]
    with backbone.added_tokens({"<toy>": vectors}):
        pooled = backbone.encode_prompts(texts).pooled
    assert pooled is not None
    assert plain.pooled is not None
    assert (pooled[0] - pooled[1]).abs().max() > 1e-3
    # Without new words it is what transformers' old rule gives, the highest id's vector.
    second: Any = backbone.pipeline.text_encoder_2
    second.eos_token_id = 2
    old = backbone.encode_prompts(["a dog in the jungle", "a dog in the snow"]).pooled
    assert torch.equal(plain.pooled, old)


def test_custom_diffusion_refuses_a_transformer_with_a_second_attention(
    written: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(written["sd3"], tmp_path / "backbone"))
    pipe = DiffusionPipeline.from_pretrained(folder)
    config = {**pipe.transformer.config, "dual_attention_layers": (0,)}  # as in 3.5 medium
    type(pipe.transformer).from_config(config).save_pretrained(folder / "transformer")
    backbone = load(folder)
    assert backbone.trainable("transformer", ending=(".attn2.to_k.weight",))
    concept = Concept("toy", "dog", tuple(tiny_backbone.images(3)), tuple(tiny_backbone.images(3)))
    with pytest.raises(UserError, match="this backbone is a transformer; use dreambooth_lora"):
        CustomDiffusion().fit(concept, backbone, seed=0, progress=lambda *_: None)

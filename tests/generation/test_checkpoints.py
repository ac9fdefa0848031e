"""What a method learned is a file that diffusers itself loads, and draws the same images from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_backbone
import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_adapter import write_adapter

from dbbench.baselines.custom_diffusion import CustomDiffusion
from dbbench.baselines.dreambooth import DreamBooth
from dbbench.baselines.dreambooth_lora import DreamBoothLora
from dbbench.baselines.textual_inversion import TextualInversion
from dbbench.baselines.zero_shot import ZeroShot
from dbbench.data.prompt import PromptTemplate
from dbbench.errors import UserError
from dbbench.generation.backbone import Backbone, Frozen, load_backbone
from dbbench.generation.method import Checkpoint, Concept, Method
from dbbench.generation.noise import build_solver
from dbbench.suites.sampling import SampleSettings

CONCEPT = Concept(
    name="plushie",
    class_noun="stuffed animal",
    images=tuple(tiny_backbone.images(3)),
    prior_images=tuple(tiny_backbone.images(4, seed=1)),
)
PROMPTS = (
    PromptTemplate("jungle", "a {token} {class_noun} in the jungle", "recontextualization"),
    PromptTemplate("red", "a red {token} {class_noun}", "property"),
)
SAMPLE = SampleSettings(scheduler="euler", steps=3, guidance=3.0, batch_size=2)
QUICK: dict[str, Any] = {"steps": 4, "learning_rate": 2e-2, "batch_size": 2}
KINDS: list[tiny_backbone.Kind] = ["sd", "sdxl", "sd3"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: tiny_backbone.write(tmp_path_factory.mktemp(kind), kind=kind) for kind in KINDS}


@pytest.fixture(scope="module")
def backbones(folders: dict[str, Path]) -> dict[str, Backbone]:
    size = tiny_backbone.RESOLUTION
    return {
        kind: load_backbone(str(folder), resolution=size, device="cpu")
        for kind, folder in folders.items()
    }


def fit(method: Method, backbone: Backbone) -> Checkpoint:
    before = {part: backbone.weights(part) for part in backbone.parts}
    checkpoint = method.fit(CONCEPT, backbone, seed=1, progress=lambda *_: None)
    for part, state in before.items():
        after = backbone.weights(part)
        assert after.keys() == state.keys()
        assert all(torch.equal(after[name], tensor) for name, tensor in state.items())
    return checkpoint


def ours(method: Method, folder: Path, backbone: Backbone) -> np.ndarray:
    """Images from the checkpoint as the disk keeps it; the backbone is as before afterwards."""
    before = backbone.weights(backbone.denoiser)
    images = method.generate(
        Checkpoint.load(folder), PROMPTS, "stuffed animal", backbone, seeds=[4, 5], sample=SAMPLE
    )
    drawn = pixels(list(images))
    after = backbone.weights(backbone.denoiser)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    return drawn


def theirs(pipe: Any, texts: Sequence[str], **call: Any) -> np.ndarray:
    pipe.scheduler = build_solver("euler", pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    size = tiny_backbone.RESOLUTION
    return pixels(
        [
            pipe(
                text, height=size, width=size, num_inference_steps=3, guidance_scale=3.0,
                generator=torch.Generator().manual_seed(seed), **call,
            ).images[0]
            for text, seed in zip(texts, (4, 5), strict=True)
        ]
    )  # fmt: skip


def pixels(images: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image, dtype=np.float64) for image in images])


def texts(word: str, noun: str = "stuffed animal") -> list[str]:
    return [prompt.render(word, noun) for prompt in PROMPTS]


def assert_alike(drawn: np.ndarray, expected: np.ndarray, plain: np.ndarray) -> None:
    assert np.abs(drawn - expected).max() <= 1
    assert np.abs(drawn - plain).mean() > 0.3  # or what was learned would not be in them


@pytest.mark.parametrize("with_text", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_loads_the_lora(
    tmp_path: Path, folders: dict[str, Path], backbones: dict[str, Backbone], kind: str,
    with_text: bool,
) -> None:  # fmt: skip
    settings = DreamBoothLora.Settings(
        **QUICK, identifier="sks", rank=4, train_text_encoder=with_text
    )
    method = DreamBoothLora(settings)
    fit(method, backbones[kind]).save(tmp_path)
    pipe = DiffusionPipeline.from_pretrained(folders[kind])
    plain = theirs(pipe, texts("sks"))
    pipe.load_lora_weights(tmp_path, weight_name="pytorch_lora_weights.safetensors")
    assert_alike(ours(method, tmp_path, backbones[kind]), theirs(pipe, texts("sks")), plain)


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_diffusers_loads_custom_diffusion(
    tmp_path: Path, folders: dict[str, Path], backbones: dict[str, Backbone], kind: str
) -> None:
    method = CustomDiffusion(CustomDiffusion.Settings(**QUICK))
    fit(method, backbones[kind]).save(tmp_path)
    pipe = DiffusionPipeline.from_pretrained(folders[kind])
    plain = theirs(pipe, texts(""))
    # diffusers 0.42 puts the layers in where it is given the pipeline, and else does nothing.
    pipe.unet.load_attn_procs(
        tmp_path, weight_name="pytorch_custom_diffusion_weights.safetensors", _pipeline=pipe
    )
    load_word(pipe, tmp_path / "learned_embeds.safetensors")
    assert_alike(ours(method, tmp_path, backbones[kind]), theirs(pipe, texts("<plushie>")), plain)


def test_custom_diffusion_refuses_a_backbone_without_cross_attention(
    backbones: dict[str, Backbone],
) -> None:
    with pytest.raises(UserError, match=r"this backbone is a transformer; use dreambooth_lora"):
        fit(CustomDiffusion(), backbones["sd3"])


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_diffusers_loads_the_new_word(
    tmp_path: Path, folders: dict[str, Path], backbones: dict[str, Backbone], kind: str
) -> None:
    method = TextualInversion(TextualInversion.Settings(**QUICK | {"learning_rate": 0.3}))
    fit(method, backbones[kind]).save(tmp_path)
    pipe = DiffusionPipeline.from_pretrained(folders[kind])
    plain = theirs(pipe, texts(""))
    load_word(pipe, tmp_path / "learned_embeds.safetensors")
    expected = theirs(pipe, texts("<plushie>", noun=""))
    assert_alike(ours(method, tmp_path, backbones[kind]), expected, plain)


def load_word(pipe: Any, file: Path) -> None:
    """As diffusers' documentation shows it for one text encoder and for two."""
    if not hasattr(pipe, "text_encoder_2"):
        pipe.load_textual_inversion(file)
        return
    state = load_file(file)
    for name, number in (("clip_l", ""), ("clip_g", "_2")):
        pipe.load_textual_inversion(
            state[name],
            token="<plushie>",
            text_encoder=getattr(pipe, f"text_encoder{number}"),
            tokenizer=getattr(pipe, f"tokenizer{number}"),
        )
    for module in pipe.text_encoder_2.modules():  # its old config would pool at the new word
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = pipe.tokenizer_2.eos_token_id


def test_the_whole_denoiser_is_a_folder_of_diffusers(
    tmp_path: Path, folders: dict[str, Path], backbones: dict[str, Backbone]
) -> None:
    method = DreamBooth(DreamBooth.Settings(**QUICK, identifier="sks", prior_weight=0))
    fit(method, backbones["sdxl"]).save(tmp_path)
    pipe = DiffusionPipeline.from_pretrained(folders["sdxl"])
    plain = theirs(pipe, texts("sks"))
    pipe.unet = UNet2DConditionModel.from_pretrained(tmp_path / "unet")
    assert_alike(ours(method, tmp_path, backbones["sdxl"]), theirs(pipe, texts("sks")), plain)


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_an_adapter_shows_the_subject_without_training(
    tmp_path: Path, folders: dict[str, Path], backbones: dict[str, Backbone], guidance: float
) -> None:
    adapter = write_adapter(tmp_path / "adapter", backbones["sd"]).parents[1]
    method = ZeroShot(ZeroShot.Settings(adapter=str(adapter), scale=1.0))
    checkpoint = fit(method, backbones["sd"])
    assert checkpoint.losses == []
    checkpoint.save(tmp_path / "checkpoint")
    sample = SAMPLE.model_copy(update={"guidance": guidance})
    drawn = pixels(
        list(
            method.generate(
                Checkpoint.load(tmp_path / "checkpoint"), PROMPTS, "stuffed animal",
                backbones["sd"], seeds=[4, 5], sample=sample,
            )
        )
    )  # fmt: skip
    pipe = DiffusionPipeline.from_pretrained(folders["sd"])
    pipe.scheduler = build_solver("euler", pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    call: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": guidance}
    generators = [torch.Generator().manual_seed(seed) for seed in (4, 5)]
    plain = pixels(pipe(texts(""), generator=generators, **call).images)
    pipe.load_ip_adapter(
        adapter, subfolder="models", weight_name="ip-adapter_sd15.safetensors",
        image_encoder_folder="image_encoder",
    )  # fmt: skip
    pipe.set_ip_adapter_scale(1.0)
    generators = [torch.Generator().manual_seed(seed) for seed in (4, 5)]
    expected = pixels(
        pipe(
            texts(""), ip_adapter_image=[list(CONCEPT.images)], generator=generators, **call
        ).images
    )
    assert_alike(drawn, expected, plain)
    again = pixels(list(backbones["sd"].sample(texts(""), seeds=[4, 5], settings=sample)))
    assert np.abs(again - plain).max() <= 1  # the adapter is gone


def test_an_adapter_that_is_not_there_is_one_line(backbones: dict[str, Backbone]) -> None:
    with pytest.raises(UserError, match=r"no adapter .*hf download nobody/adapter"):
        fit(ZeroShot(ZeroShot.Settings(adapter="nobody/adapter")), backbones["sd"])


@pytest.mark.parametrize(
    ("method", "file"),
    [
        (DreamBooth, ""),
        (DreamBoothLora, "pytorch_lora_weights.safetensors"),
        (TextualInversion, "learned_embeds.safetensors"),
    ],
)
def test_a_checkpoint_made_elsewhere_is_sampled_without_training(
    tmp_path: Path, backbones: dict[str, Backbone], method: Any, file: str
) -> None:
    word = {} if method is TextualInversion else {"identifier": "sks"}
    trained = method(method.Settings(**QUICK, **word))
    fit(trained, backbones["sd"]).save(tmp_path / "plushie")
    (tmp_path / "plushie" / "checkpoint.json").rename(tmp_path / "elsewhere.json")

    place = str(tmp_path / "{subject}" / file) if file else str(tmp_path / "{subject}")
    taken = method(method.Settings(checkpoint=place, **word))
    assert not taken.needs_prior
    checkpoint = fit(taken, backbones["sd"])
    assert checkpoint.losses == []
    checkpoint.save(tmp_path / "taken")
    drawn = ours(taken, tmp_path / "taken", backbones["sd"])
    (tmp_path / "elsewhere.json").rename(tmp_path / "plushie" / "checkpoint.json")
    assert np.array_equal(drawn, ours(trained, tmp_path / "plushie", backbones["sd"]))


def test_a_checkpoint_from_elsewhere_needs_its_word_and_its_place(
    tmp_path: Path, backbones: dict[str, Backbone]
) -> None:
    with pytest.raises(UserError, match=r'no checkpoint ".*plushie\.safetensors" for plushie'):
        fit(
            DreamBooth(DreamBooth.Settings(checkpoint=f"{tmp_path}/{{subject}}.safetensors")),
            backbones["sd"],
        )
    with pytest.raises(UserError, match="no unet/"):
        fit(DreamBooth(DreamBooth.Settings(checkpoint=str(tmp_path))), backbones["sd"])


@pytest.mark.parametrize("method", [DreamBooth, DreamBoothLora, TextualInversion])
def test_a_checkpoint_of_another_backbone_is_refused(
    tmp_path: Path, backbones: dict[str, Backbone], method: Any
) -> None:
    word = {} if method is TextualInversion else {"identifier": "sks"}
    fit(method(method.Settings(**QUICK, **word)), backbones["sdxl"]).save(tmp_path)
    with pytest.raises(UserError, match=r"not fit this backbone"):
        fit(method(method.Settings(checkpoint=str(tmp_path), **word)), backbones["sd"])


def test_text_encoders_of_older_transformers_load(
    tmp_path: Path, backbones: dict[str, Backbone]
) -> None:
    backbone = backbones["sd"]
    settings = DreamBooth.Settings(
        **QUICK, identifier="sks", prior_weight=0, train_text_encoder=True
    )
    fit(DreamBooth(settings), backbone).save(tmp_path)
    file = tmp_path / "text_encoder" / "model.safetensors"
    state = load_file(file)
    old = {f"text_model.{name.removeprefix('text_model.')}": t for name, t in state.items()}
    old["text_model.embeddings.position_ids"] = torch.arange(24)[None]
    save_file(old, file)
    taken = DreamBooth(DreamBooth.Settings(checkpoint=str(tmp_path), identifier="sks"))
    files = fit(taken, backbone).files
    assert all(torch.equal(files["text_encoder/model.safetensors"][n], t) for n, t in state.items())


def test_an_adapter_draws_the_same_where_frozen_weights_are_in_bfloat16(
    tmp_path: Path, folders: dict[str, Path], backbones: dict[str, Backbone]
) -> None:
    adapter = write_adapter(tmp_path / "adapter", backbones["sd"]).parents[1]
    method = ZeroShot(ZeroShot.Settings(adapter=str(adapter), scale=1.0))
    fit(method, backbones["sd"]).save(tmp_path / "checkpoint")
    kinds: tuple[Frozen, ...] = ("float32", "bfloat16")
    drawn = [
        ours(
            method, tmp_path / "checkpoint",
            load_backbone(
                str(folders["sd"]), resolution=tiny_backbone.RESOLUTION, device="cpu",
                dtype="bfloat16", frozen=frozen,
            ),
        )
        for frozen in kinds
    ]  # fmt: skip
    assert np.array_equal(*drawn)

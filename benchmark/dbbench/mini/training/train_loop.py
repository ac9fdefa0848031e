"""The training loop of all embedded models: seeded, resumable, with a fixed number of steps.

AdamW; the learning rate warms up, stays constant, and decays on a cosine. The state is saved every
two minutes, and a call with a saved state resumes from it. On a processor that computes in bfloat16
(AVX512-BF16, AMX) the forward pass uses it, in half the time; the weights stay in float32.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dbbench.bars import shown

SAVE_SECONDS = 120
LOG_STEPS = 50


def train_loop(
    model: nn.Module,
    file: Path,
    *,
    steps: int,
    rate: float,
    batch: int,
    loss_of: Callable[[int], Tensor],
    after: Callable[[int], None] = lambda step: None,
    extra: nn.Module | None = None,
    warmup: int = 100,
    hold: float = 0.0,
    weight_decay: float = 0.02,
) -> None:
    """Train the model up to `steps` optimizer steps; save its state in `file`, its losses as CSV.

    `loss_of(step)` draws batch number `step` and must depend on it only. `after(step)` is called
    after each step, for averages; `extra` is saved with the model. The learning rate stays at its
    peak for the fraction `hold` of the steps. Raises FloatingPointError for a NaN or infinite loss.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr=rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
    )
    step, spent = 0, 0.0
    if file.exists():
        state = torch.load(file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if extra is not None:
            extra.load_state_dict(state["extra"])
        step, spent = state["step"], state["spent"]
    curve = LossCurve(file.with_suffix(".csv"), step)
    losses: list[Tensor] = []
    began = saved = logged = time.monotonic()
    with shown(file.stem) as (_, advance):
        while step < steps:
            optimizer.param_groups[0]["lr"] = scheduled(step, steps, rate, warmup, hold)
            with torch.autocast("cpu", torch.bfloat16, enabled=computes_in_bfloat16()):
                loss = loss_of(step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(weights, 1.0, foreach=True)
            optimizer.step()
            after(step)
            step += 1
            losses.append(loss.detach())
            now = time.monotonic()
            if step % LOG_STEPS == 0 or step == steps:
                mean = torch.stack(losses).mean().item()
                if not math.isfinite(mean):
                    raise FloatingPointError(f"{file.stem}: the loss is {mean} at step {step}")
                speed = len(losses) * batch / (now - logged)
                minutes = (spent + now - began) / 60
                curve.row(step, minutes, mean, optimizer.param_groups[0]["lr"], speed)
                losses, logged = [], now
                advance(step, steps, {})
            # Save only when a row was logged, so that a resumed curve has no gap and no duplicate.
            if (step % LOG_STEPS == 0 and now - saved > SAVE_SECONDS) or step == steps:
                save_state(
                    file,
                    model=model.state_dict(),
                    optimizer=optimizer.state_dict(),
                    extra={} if extra is None else extra.state_dict(),
                    step=step,
                    spent=spent + now - began,
                )
                saved = now


def scheduled(step: int, steps: int, peak: float, warmup: int, hold: float) -> float:
    """Return a step's learning rate: linear warm-up, plateau, cosine decay to 1% of the peak."""
    falling = max(0.0, (step / steps - hold) / (1 - hold))
    cosine = 0.01 + 0.99 * math.cos(falling * math.pi / 2) ** 2
    return peak * min(1.0, (step + 1) / warmup) * cosine


def computes_in_bfloat16() -> bool:
    """Whether this processor has bfloat16 instructions; without them bfloat16 is far slower."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class LossCurve:
    """A CSV file of losses; a resumed training continues it from the saved step."""

    def __init__(self, file: Path, step: int) -> None:
        self.file = file
        kept = [["step", "minutes", "loss", "rate", "samples_per_s"]]
        if step and file.exists():
            with file.open(newline="") as stream:
                kept += [row for row in list(csv.reader(stream))[1:] if int(row[0]) <= step]
        self._write(kept, "w")

    def row(self, *values: float) -> None:
        """Append the values as one row, with six significant digits."""
        self._write([[f"{v:.6g}" for v in values]], "a")

    def _write(self, rows: Iterable[Iterable[str]], mode: str) -> None:
        with self.file.open(mode, newline="") as stream:
            csv.writer(stream).writerows(rows)


def save_state(file: Path, **state: Any) -> None:
    """Replace a saved training state atomically."""
    partial = file.with_suffix(".part")
    torch.save(state, partial)
    partial.rename(file)

"""The loop that every embedded model is trained with: seeded, resumable, and as long as it says.

AdamW; the rate warms up, stays, and falls on a cosine. The state is saved every two minutes, and a
call on a saved state goes on from there. On a processor that computes in bfloat16 (AVX512-BF16,
AMX) the forward pass does so, in half the time; the weights stay in float32.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

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
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.02,
) -> None:
    """Take the model to `steps` optimizer steps; its state is kept in `file`, its losses beside it.

    `loss_of(step)` draws batch number `step` and must be a function of it alone. `after(step)`
    follows each step, for averages; `extra` is saved with the model. The rate stays at its peak for
    the fraction `hold` of the steps. Raises FloatingPointError where a loss is no number.
    """
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr=rate, betas=betas, weight_decay=weight_decay, fused=True
    )
    step, spent = 0, 0.0
    if file.exists():
        state = torch.load(file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if extra is not None:
            extra.load_state_dict(state["extra"])
        step, spent = state["step"], state["spent"]
    log = Log(file.with_suffix(".csv"), ("step", "minutes", "loss", "rate", "samples_per_s"), step)
    losses: list[Tensor] = []
    began = saved = logged = time.monotonic()
    with _bar() as bar:
        task = bar.add_task(file.stem, total=steps, completed=step)
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
                log.row(step, minutes, mean, optimizer.param_groups[0]["lr"], speed)
                losses, logged = [], now
                bar.update(task, completed=step)
            # Only where a line of the log ends, so that a resumed log has no gap and no double.
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
    """The rate of a step: linear warm-up, a plateau, a cosine down to a hundredth of the peak."""
    falling = max(0.0, (step / steps - hold) / (1 - hold))
    cosine = 0.01 + 0.99 * math.cos(falling * math.pi / 2) ** 2
    return peak * min(1.0, (step + 1) / warmup) * cosine


def computes_in_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself; where it does not it is far slower."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class Log:
    """A CSV file that a resumed training goes on writing, from the step that was saved."""

    def __init__(self, file: Path, columns: tuple[str, ...], step: int) -> None:
        self.file = file
        kept: list[list[str]] = []
        if step and file.exists():
            with file.open(newline="") as stream:
                kept = [row for row in list(csv.reader(stream))[1:] if int(row[0]) <= step]
        self._write([columns, *kept], "w")

    def row(self, *values: float) -> None:
        """Append one row."""
        self._write([[f"{v:.6g}" for v in values]], "a")

    def _write(self, rows: Iterable[Iterable[str]], mode: str) -> None:
        with self.file.open(mode, newline="") as stream:
            csv.writer(stream).writerows(rows)


def save_state(file: Path, **state: Any) -> None:
    """Replace a training state in one move."""
    partial = file.with_suffix(".part")
    torch.save(state, partial)
    partial.rename(file)


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("step {task.completed:,.0f} of {task.total:,.0f}"),
        TimeRemainingColumn(),
    )

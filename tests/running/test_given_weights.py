"""Weights that were trained anew at the same path: what was made of the old ones is made again."""

from pathlib import Path

import pytest
import torch
from harness import contents, installed, plugin_folder, run, suite, suite_file  # noqa: F401
from safetensors.torch import save_file

from dbbench.planning.build import recorded_plan
from dbbench.planning.verify import verify
from dbbench.running.scoring import open_scored
from dbbench.suites.suite import Suite

# ruff: noqa: F811 - fixtures are imported by name


def train(file: Path, seed: int) -> None:
    """What another tool does: an inversion of the tiny backbone's width."""
    vector = torch.randn(32, generator=torch.Generator().manual_seed(seed))
    save_file({"<toy>": vector}, file)


@pytest.fixture
def given(tmp_path: Path) -> Path:
    train(tmp_path / "mine.safetensors", 1)
    return tmp_path / "mine.safetensors"


def states(out: Path) -> set[str]:
    plan, (only,) = recorded_plan(out)
    return {plan.checkpoint(only).state, plan.samples(only).state}


def test_an_inversion_that_was_trained_anew_is_sampled_anew(
    tmp_path: Path, suite: Suite, given: Path
) -> None:
    out, row = tmp_path / "out", f"methods={{textual_inversion={{checkpoint='{given}'}}}}"
    assert not run(suite, out, row, "prompts.first=2", subjects="dog").failures
    before, table = contents(out, "runs/**/*.png"), contents(out, "scores.parquet")
    assert run(suite, out, row, "prompts.first=2", subjects="dog").done == 0

    train(given, 2)
    assert states(out) == {"stale"}
    assert {found.state for found in verify(out)} >= {"stale"}
    open_scored(str(out), lambda folder: pytest.fail("a report must not drop what was scored"))
    assert not run(suite, out, row, "prompts.first=2", subjects="dog").failures
    assert contents(out, "runs/**/*.png") != before
    assert contents(out, "scores.parquet") != table
    assert states(out) == {"done"}

    given.unlink()  # What was made of it still is.
    assert states(out) == {"done"}
    assert run(suite, out, row, "prompts.first=2", subjects="dog").done == 0

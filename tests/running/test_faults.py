"""The fault tests of benchmark/measurements/faults, cut short."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

FAULTS = Path(__file__).parents[2] / "benchmark" / "measurements" / "faults"


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FAULTS)
    import damage
    import kill
    import shared

    yield {"kill": kill, "damage": damage, "job": shared.Job("dog", steps=6, save_every=2)}
    for name in ("kill", "damage", "shared", "traced"):
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_a_run_killed_at_random_loses_nothing(tmp_path: Path, faults: Any) -> None:
    result = faults["kill"].kill_again_and_again(faults["job"], tmp_path, 4, seed=1, mean=0.7)
    assert result["good"], result["wrong"]
    assert result["kills"] == 4


@pytest.mark.slow
def test_damage_of_every_kind_makes_no_wrong_score(tmp_path: Path, faults: Any) -> None:
    result = faults["damage"].damage_again_and_again(faults["job"], tmp_path, 5, seed=1)
    assert result["good"], result["wrong"]
    assert len(result["injections"]) == 5


def test_work_done_again_is_counted_and_not_what_was_new(tmp_path: Path, faults: Any) -> None:
    trace = tmp_path / "trace.txt"
    lines = [f"1 step a/b/0/checkpoint {n}" for n in range(1, 8)]
    lines += [f"2 step a/b/0/checkpoint {n}" for n in range(5, 9)]
    lines += ["2 image a/b/0/samples/x/0.png 1", "3 image a/b/0/samples/x/0.png 1"]
    lines += ["3 image a/b/0/samples/y/0.png 1", "3 step a/b/0/checkpoint 9"]
    trace.write_text("\n".join(lines))
    assert faults["kill"].work_redone(trace) == {"steps": [3, 0], "images": [1]}

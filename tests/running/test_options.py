"""Options are one value, checked when it is made, and the same in every process."""

from __future__ import annotations

import pickle

import pytest

from dbbench import device
from dbbench.errors import UserError
from dbbench.generation.resume import SaveInterval
from dbbench.running.loop import _reason
from dbbench.running.options import RunOptions


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"device": "gpu"}, 'unknown device "gpu"'),
        ({"retries": -1}, "retries must be at least 0"),
        ({"together": 0}, "together at least 1"),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(wrong: dict[str, str | int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RunOptions(**wrong)  # type: ignore[arg-type]


def test_they_arrive_in_another_process_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    options = RunOptions(
        "cuda:1", retries=0, interval=SaveInterval(steps=20), together=2, json=True
    )
    sent = pickle.dumps(options)
    assert pickle.loads(sent) == options
    monkeypatch.setattr(device, "cuda_devices", lambda: 0)
    assert RunOptions().device == "cpu"


def test_memory_that_runs_out_is_said_in_one_line_with_its_remedy() -> None:
    import torch

    said = _reason(torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB"))
    assert said.startswith("out of memory; choose a smaller resolution")
    assert "--jobs-per-device" in said
    assert _reason(RuntimeError("shapes differ")) == "RuntimeError: shapes differ"

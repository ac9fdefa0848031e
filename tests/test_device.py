"""A device that torch cannot use is named with the reason and the remedy, before anything loads."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dbbench import device
from dbbench.errors import UserError
from dbbench.evaluation.encoder import load_encoder
from dbbench.generation.backbone import _uses_half, load_backbone
from dbbench.storage.events import Meter
from dbbench.versions import versions


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Any:
    """torch.cuda of a machine with two cards."""
    peaks = {0: 0, 1: 7}
    cuda = SimpleNamespace(
        capability=(9, 0),
        is_available=lambda: True,
        is_initialized=lambda: True,
        device_count=lambda: 2,
        get_arch_list=lambda: ["sm_75", "sm_80", "sm_86", "sm_90", "compute_120"],
        get_device_capability=lambda _: cuda.capability,
        get_device_name=lambda _: "a card",
        max_memory_allocated=lambda number=0: peaks[number],
        reset_peak_memory_stats=lambda number=0: None,
    )
    monkeypatch.setattr(torch, "cuda", cuda)
    return cuda


@pytest.mark.parametrize("wanted", ["auto", "cuda", "cuda:1"])
def test_a_driver_too_old_for_torch_is_named_with_both_versions(
    monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    monkeypatch.setattr(device, "cuda_devices", lambda: 1)
    monkeypatch.setattr(device, "driver_cuda", lambda: (12, 4))
    monkeypatch.setattr(device, "torch_cuda", lambda: (13, 2))
    with pytest.raises(UserError) as caught:
        device.resolve_device(wanted)
    said = str(caught.value)
    for part in (
        "CUDA 12.4",
        "CUDA 13.2",
        "update the driver",
        "torch for CUDA 12",
        "--device cpu",
    ):
        assert part in said
    assert "\n" not in said
    assert device.resolve_device("cpu") == "cpu"


@pytest.mark.parametrize(
    ("driver", "built", "fits"),
    [((12, 2), (12, 8), True), ((13, 0), (12, 8), True), ((11, 8), (12, 1), False),
     ((12, 4), (0, 0), False), (None, (13, 0), True), ((12, 4), None, True)],
)  # fmt: skip
def test_a_driver_runs_its_own_major_version_and_older_ones(
    monkeypatch: pytest.MonkeyPatch, driver: Any, built: Any, fits: bool
) -> None:
    monkeypatch.setattr(device, "driver_cuda", lambda: driver)
    monkeypatch.setattr(device, "torch_cuda", lambda: built)
    assert (device.driver_problem() is None) == fits


def test_the_backbone_and_encoders_ask_the_same_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device, "driver_cuda", lambda: (12, 4))
    monkeypatch.setattr(device, "torch_cuda", lambda: (13, 2))
    with pytest.raises(UserError, match=r"driver is too old.*CUDA 12\.4.*CUDA 13\.2"):
        load_backbone("mini", resolution=64, device="cuda")
    with pytest.raises(UserError, match="driver is too old"):
        load_encoder("mini-dino", device="cuda:1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cuda: Optional[str] = '13.2'\nhip: Optional[str] = None\n", (13, 2)),
        ('cuda = "12.8"\n', (12, 8)),
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", (0, 0)),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.4'\n", None),
        ("", None),
    ],
)
def test_the_version_of_torch_is_read_without_importing_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, expected: Any
) -> None:
    (tmp_path / "version.py").write_text(text)
    origin = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr(device, "find_spec", lambda _: origin)
    assert device.torch_cuda() == expected


def test_the_installed_torch_says_what_it_says_itself() -> None:
    expected = torch.version.cuda
    found = device.torch_cuda()
    assert found == (tuple(map(int, expected.split(".")[:2])) if expected else (0, 0))


def test_a_card_that_is_not_there_or_has_no_code_is_refused(card: Any) -> None:
    device.require_device("cuda:1")
    with pytest.raises(UserError, match='no device "cuda:2": this machine has 2'):
        device.require_device("cuda:2")
    card.capability = (6, 1)
    with pytest.raises(UserError, match=r"has no code for a card \(compute capability 6\.1"):
        device.require_device("cuda")
    for newer in ((8, 9), (12, 0), (12, 1)):
        card.capability = newer
        device.require_device("cuda")


@pytest.mark.parametrize(
    ("capability", "dtype", "half"),
    [((9, 0), "auto", True), ((8, 0), "auto", True), ((7, 5), "auto", False),
     ((7, 5), "float32", False), ((8, 6), "bfloat16", True)],
)  # fmt: skip
def test_bfloat16_is_for_cards_that_have_it(
    card: Any, capability: tuple[int, int], dtype: Any, half: bool
) -> None:
    card.capability = capability
    assert _uses_half(dtype, "cuda:1") == half


def test_bfloat16_is_refused_where_it_would_be_emulated(card: Any) -> None:
    card.capability = (7, 5)
    with pytest.raises(UserError, match=r"needs a GPU of compute capability 8\.0.*has 7\.5"):
        _uses_half("bfloat16", "cuda")


def test_the_peak_of_a_stage_is_that_of_the_card_it_ran_on(card: Any) -> None:
    assert Meter().read(1, "steps")["peak_cuda_bytes"] == 7
    card.is_initialized = lambda: False
    assert "peak_cuda_bytes" not in Meter().read(1, "steps")


def test_versions_name_every_package_that_results_depend_on() -> None:
    assert {"transformers", "peft", "tokenizers", "diffusers", "torch"} <= set(versions())


def test_without_a_driver_there_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(device.ctypes, "CDLL", missing)
    assert device.cuda_devices() == 0
    assert device.driver_cuda() is None
    assert sys.modules["torch"] is torch

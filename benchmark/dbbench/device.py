"""Choose the device of a run without importing torch, so that a dry run is quick."""

from __future__ import annotations

import ctypes
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dbbench.errors import UserError

Version = tuple[int, int]

BF16_FROM = (8, 0)
"""Compute capability from which a GPU calculates in bfloat16; older ones emulate it slowly."""


def resolve_device(wanted: str) -> str:
    """Return "cpu", "cuda", "cuda:1" or "mps"; "auto" is "cuda" if there is a GPU, else "cpu".

    Raises UserError for anything else, and where torch and the GPU's driver do not fit together.
    """
    if wanted == "auto":
        wanted = "cuda" if cuda_devices() else "cpu"
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", wanted):
        raise UserError(f'unknown device "{wanted}"; write auto, cpu, cuda, cuda:1 or mps')
    if wanted.startswith("cuda") and (problem := driver_problem()) is not None:
        raise UserError(problem)
    return wanted


def require_device(device: str) -> None:
    """Raise UserError, with the reason and the remedy, if torch cannot use a device. Imports torch.

    Everything that puts a network on a device asks here first.
    """
    import torch

    kind, _, number = device.partition(":")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("torch finds no Apple GPU for mps; use --device cpu")
    if kind != "cuda":
        return
    if not torch.cuda.is_available():
        reason = driver_problem() or f'there is no CUDA device for "{device}"; use --device cpu'
        raise UserError(reason)
    count = torch.cuda.device_count()
    if int(number or 0) >= count:
        raise UserError(
            f'there is no device "{device}": this machine has {count}, counted from cuda:0'
        )
    built, has = torch.cuda.get_arch_list(), torch.cuda.get_device_capability(device)
    if built and not any(_runs_on(has, each) for each in built):
        raise UserError(
            f"torch {torch.__version__} has no code for {torch.cuda.get_device_name(device)}"
            f" (compute capability {has[0]}.{has[1]}; built for {', '.join(built)}); install a"
            " build of torch for it, or use --device cpu"
        )


def half_precision(device: str) -> bool:
    """Whether bfloat16 is as fast on a device as it should be. Imports torch."""
    import torch

    return device.startswith("cuda") and torch.cuda.get_device_capability(device) >= BF16_FROM


def devices_of(device: str) -> tuple[str, ...]:
    """Return the devices to distribute work over: every GPU for "cuda", else the given device."""
    if device != "cuda":
        return (device,)
    return tuple(f"cuda:{number}" for number in range(cuda_devices())) or (device,)


def cuda_devices() -> int:
    """Return the number of CUDA devices that the driver reports; 0 without a driver."""
    count = ctypes.c_int(0)
    try:
        driver = _driver()
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return 0
    except (OSError, AttributeError):
        return 0
    return count.value


def driver_problem() -> str | None:
    """Say why the installed torch cannot use this machine's driver; None where it can.

    A driver runs what was built for its own major version of CUDA and for older ones.
    """
    driver, built = driver_cuda(), torch_cuda()
    if driver is None or built is None:
        return None
    if built == (0, 0):
        return (
            f"this machine has a GPU driver (CUDA {_text(driver)}), and the installed torch was"
            f" built without CUDA; install a build of torch for CUDA {driver[0]}, or use --device"
            " cpu"
        )
    if driver[0] >= built[0]:
        return None
    return (
        f"the GPU's driver is too old for the installed torch: it knows CUDA {_text(driver)}, and"
        f" torch was built for CUDA {_text(built)}; update the driver, or install a build of torch"
        f" for CUDA {driver[0]}, or use --device cpu"
    )


def driver_cuda() -> Version | None:
    """Return the newest CUDA that the driver knows, such as (12, 4); None without a driver."""
    version = ctypes.c_int(0)
    try:
        if _driver().cuDriverGetVersion(ctypes.byref(version)):
            return None
    except (OSError, AttributeError):
        return None
    return version.value // 1000, version.value % 1000 // 10


def torch_cuda() -> Version | None:
    """Return the CUDA that the installed torch was built for; (0, 0) for none, None if not known.

    It is read from torch's file of versions, because importing torch takes seconds.
    """
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = (Path(spec.origin).parent / "version.py").read_text("utf-8")
    except OSError:
        return None
    built = dict(re.findall(r"^(cuda|hip)\b[^=\n]*=\s*(\S+)", text, re.MULTILINE))
    if "cuda" not in built or built.get("hip", "None") != "None":
        return None
    found = re.fullmatch(r"""["'](\d+)\.(\d+).*["']""", built["cuda"])
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _driver() -> Any:
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


def _runs_on(capability: Version, built: str) -> bool:
    """Whether code "sm_86" (same major version) or "compute_80" (any later one) runs there."""
    found = re.fullmatch(r"(sm|compute)_(\d+)(\d)[af]?", built)
    if found is None:
        return True
    version = int(found[2]), int(found[3])
    return version <= capability and (found[1] == "compute" or version[0] == capability[0])


def _text(version: Version) -> str:
    return ".".join(map(str, version))

"""Choose the device of a run without importing torch, so that a dry run is quick."""

from __future__ import annotations

import ctypes
import re
import sys

from dbbench.errors import UserError


def resolve_device(wanted: str) -> str:
    """Return "cpu", "cuda", "cuda:1" or "mps"; "auto" is "cuda" if there is a GPU, else "cpu".

    Raises UserError for anything else.
    """
    if wanted == "auto":
        return "cuda" if cuda_devices() else "cpu"
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", wanted):
        raise UserError(f'unknown device "{wanted}"; write auto, cpu, cuda, cuda:1 or mps')
    return wanted


def devices_of(device: str) -> tuple[str, ...]:
    """Return the devices to distribute work over: every GPU for "cuda", else the given device."""
    if device != "cuda":
        return (device,)
    return tuple(f"cuda:{number}" for number in range(cuda_devices())) or (device,)


def cuda_devices() -> int:
    """Return the number of CUDA devices that the driver reports; 0 without a driver."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        count = ctypes.c_int(0)
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return 0
    except (OSError, AttributeError):
        return 0
    return count.value

"""Makes do with the memory of a device: work that runs out of it is done again with less at once.

`fitting.py` does so for trainings.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from dbbench.errors import UserError
from dbbench.generation.recipes import GIB

log = logging.getLogger(__name__)

CONTEXT = 0.5 * GIB
"""What each process takes of a card before its first tensor."""
# What CUDA's libraries say where their own memory is refused; torch raises a RuntimeError of it.
_SIGNS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)
LESS = "choose a smaller resolution or a device with more memory"

Part = TypeVar("Part")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device's memory is too small, whichever library says it."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def by_parts(
    count: int, size: int, work: Callable[[slice], Part], *, what: str = "image"
) -> Iterator[Part]:
    """Yield work(rows) for consecutive rows below `count`, `size` of them at a time.

    Where memory is too small, the same rows are done again with half as many at a time. Raises
    UserError if one is too many. Random numbers must be drawn by `work` itself, from seeds.
    """
    start = 0
    while start < count:
        rows = slice(start, min(start + size, count))
        try:
            made = [work(rows)]
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if rows.stop - start == 1:
                raise UserError(f"out of memory with one {what} at a time; {LESS}") from error
            made = []
        if not made:  # outside the handler: the exception keeps tensors alive
            size = (rows.stop - start + 1) // 2
            empty_cache()
            log.warning("out of memory: continuing with %d %ss at a time", size, what)
            continue
        start = rows.stop
        yield made[0]


def available(device: torch.device) -> int:
    """Return the bytes of a CUDA device that this process can use, with what its networks hold.

    That is what is free, and at most the share that `take_share` has set.
    """
    free, total = torch.cuda.mem_get_info(device)
    # Older versions of torch do not say what was set.
    fraction = getattr(torch.cuda, "get_per_process_memory_fraction", lambda _: 1.0)(device)
    return int(min(free + torch.cuda.memory_allocated(device), total * fraction))


def take_share(device: str, jobs: int) -> None:
    """Let this process use its share of a CUDA device, where `jobs` processes work on it."""
    if jobs == 1 or not device.startswith("cuda") or not torch.cuda.is_available():
        return
    place = torch.device(device)
    place = torch.device("cuda", place.index or 0)
    _, total = torch.cuda.mem_get_info(place)
    share = max(0.0, (total - jobs * CONTEXT) / jobs / total)
    torch.cuda.set_per_process_memory_fraction(share, place)


def empty_cache() -> None:
    """Give memory that is kept in reserve back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

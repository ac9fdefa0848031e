"""The folder events/: time and memory of each stage as JSON lines; executors write it."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from typing_extensions import override

EVENTS = "events"
_TOKEN = secrets.token_hex(3)  # Process ids are reused, and machines may share a name.


class Log(Protocol):
    """A destination for events."""

    def write(self, **event: Any) -> None:
        """Write one event."""


@dataclass(frozen=True)
class EventLog(Log):
    """The events of an output folder. Each process appends to a file of its own.

    On a network folder, lines that several machines append to one file can be lost or mixed.
    """

    out: Path

    @override
    def write(self, **event: Any) -> None:
        """Append one event with the time of day (UTC)."""
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds")} | event
        path = self.out / EVENTS / f"{socket.gethostname()}-{os.getpid()}-{_TOKEN}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Return the events of all processes so far, by time."""
        files = sorted((self.out / EVENTS).glob("*.jsonl"))
        events = [event for path in files for event in _events(path)]
        return sorted(events, key=lambda event: str(event.get("time", "")))


def _events(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of one file; skip a line that a crash cut short."""
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in stream:
            with contextlib.suppress(json.JSONDecodeError):
                event = json.loads(line)
                if isinstance(event, dict):
                    yield event


class Meter:
    """Measures the seconds, the rate and the peak resident memory of one stage."""

    def __init__(self) -> None:
        _reset_peak()
        self._begin = time.perf_counter()

    def read(self, count: int, unit: str) -> dict[str, Any]:
        """Return seconds, the count of `unit` ("steps" or "images") with its rate, and memory."""
        seconds = time.perf_counter() - self._begin
        measured: dict[str, Any] = {"seconds": round(seconds, 3), "peak_rss_bytes": peak_memory()}
        if count:
            measured |= {unit: count, f"{unit}_per_second": round(count / max(seconds, 1e-9), 3)}
        peaks = [cuda.max_memory_allocated(number) for cuda, number in _cuda_devices()]
        if peaks:
            # A process works on one device; which one, torch's current device does not say.
            measured["peak_cuda_bytes"] = max(peaks)
        return measured


def peak_memory() -> int | None:
    """Return the peak resident memory in bytes since the last reset; None where unknown."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _reset_peak() -> None:
    """Start a new peak for this stage. Only Linux can; elsewhere it is the process's peak."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    for cuda, number in _cuda_devices():
        cuda.reset_peak_memory_stats(number)


def _cuda_devices() -> list[tuple[Any, int]]:
    """Return torch.cuda with each device's number, as far as this process uses CUDA."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return []
    return [(torch.cuda, number) for number in range(torch.cuda.device_count())]

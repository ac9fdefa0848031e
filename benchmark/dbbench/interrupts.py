"""Turn Ctrl-C and SIGTERM into a stop request, honoured at the running task's next safe point."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

GRACE = 5.0  # seconds to reach a safe point after a stop request


class Stopped(KeyboardInterrupt):
    """The process was asked to stop by the signal with this `number`."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass
class Stop:
    """A stop request, if there is one. Outside of `working`, a signal stops the process at once."""

    number: int | None = None
    _working: bool = False
    _requested_at: float = 0.0

    @property
    def wanted(self) -> bool:
        """Whether a stop was requested."""
        return self.number is not None

    def check(self) -> None:
        """Raise Stopped if a stop was requested. Call it at safe points, where no work is lost."""
        if self.number is not None:
            self.cancel_timer()
            raise Stopped(self.number)

    def cancel_timer(self) -> None:
        """Cancel the grace timer: a safe point was reached, saving may take any time."""
        _alarm(0)

    @contextmanager
    def working(self) -> Iterator[None]:
        """While open, a stop request waits for `check`, but for at most GRACE seconds."""
        self._working = True
        try:
            yield
        finally:
            self._working = False
            self.cancel_timer()

    def on_signal(self, number: int, frame: FrameType | None = None) -> None:
        """Handle a signal; the second one ends the process at once, like kill -9."""
        if self.number is not None and time.monotonic() - self._requested_at > 0.05:
            if sys.stderr.isatty():
                os.write(2, b"\x1b[?25h\n")  # Show the cursor that progress bars hide.
            os._exit(128 + number)
        self.number, self._requested_at = number, time.monotonic()
        if not self._working:
            raise Stopped(number)
        if sys.stderr.isatty():
            os.write(2, b"\r\x1b[Kstopping after this step; press again to stop at once\n")
        _alarm(GRACE)

    def _on_timer(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise Stopped(self.number)


@contextmanager
def stop_requests(*, terminal: bool = True) -> Iterator[Stop]:
    """While open, SIGINT, SIGTERM and SIGHUP request a stop.

    Without `terminal`, Ctrl-C is ignored: the parent process sends the stop request instead.
    """
    stop = Stop()
    handlers: dict[str, Any] = {
        "SIGINT": stop.on_signal if terminal else signal.SIG_IGN,
        "SIGTERM": stop.on_signal,
        "SIGHUP": stop.on_signal,
        "SIGALRM": stop._on_timer,
    }
    if threading.current_thread() is not threading.main_thread():
        handlers = {}
    before: Mapping[int, Any] = {
        number: signal.signal(number, handler)
        for name, handler in handlers.items()
        if (number := getattr(signal, name, None)) is not None
    }
    try:
        yield stop
    finally:
        _alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)


def _alarm(seconds: float) -> None:
    if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
        signal.setitimer(signal.ITIMER_REAL, seconds)

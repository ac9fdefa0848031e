"""Stop: Ctrl-C and SIGTERM become a wish that the work in hand grants at its next good moment."""

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

GRACE = 5.0  # seconds that the work in hand has for a good moment


class Stopped(KeyboardInterrupt):
    """The process was asked to end; `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@dataclass
class Stop:
    """Whether the process was asked to end. Where nothing is in hand, it ends there and then."""

    number: int | None = None
    _busy: bool = False
    _asked: float = 0.0

    @property
    def wanted(self) -> bool:
        """Whether it was asked to end."""
        return self.number is not None

    def check(self) -> None:
        """Raise Stopped if it was asked to end: nothing would be lost here."""
        if self.number is not None:
            self.take_time()
            raise Stopped(self.number)

    def take_time(self) -> None:
        """A good moment has come, and what is done now may take as long as it takes."""
        _alarm(0)

    @contextmanager
    def in_hand(self) -> Iterator[None]:
        """While open, wait for `check`; after some seconds without one, end all the same."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
            self.take_time()

    def hear(self, number: int, frame: FrameType | None = None) -> None:
        """Take note of a signal; the second one ends the process at once, like kill -9."""
        if self.number is not None and time.monotonic() - self._asked > 0.05:
            if sys.stderr.isatty():
                os.write(2, b"\x1b[?25h\n")  # The cursor that progress bars hide.
            os._exit(128 + number)
        self.number, self._asked = number, time.monotonic()
        if not self._busy:
            raise Stopped(number)
        if sys.stderr.isatty():
            os.write(2, b"\r\x1b[Kstopping after this step; press again to stop at once\n")
        _alarm(GRACE)

    def _press(self, number: int, frame: FrameType | None) -> None:
        if self.number is not None:
            raise Stopped(self.number)


@contextmanager
def listening(*, terminal: bool = True) -> Iterator[Stop]:
    """While open, SIGINT, SIGTERM and SIGHUP are wishes to stop.

    Without `terminal`, Ctrl-C is passed over: this process is told by the one that started it.
    """
    stop = Stop()
    handlers: dict[str, Any] = {
        "SIGINT": stop.hear if terminal else signal.SIG_IGN,
        "SIGTERM": stop.hear,
        "SIGHUP": stop.hear,
        "SIGALRM": stop._press,
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

"""Saves: the state of a training on its way, so that it goes on after an interruption."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbench.errors import UserError
from dbbench.files import hash_file, write_text
from dbbench.interrupts import Stop

if TYPE_CHECKING:
    from torch import Tensor

RECORD = ".training.json"
_TENSORS = ".training-{step}.safetensors"
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Interval:
    """How often a training's state is written: every so many seconds, or every so many steps."""

    seconds: float = 300.0
    steps: int | None = None

    @classmethod
    def parse(cls, text: str) -> Interval:
        """Read "5min", "90s", "2h" or "200steps". Raises UserError."""
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|steps?)\s*", text)
        if match is None or float(match[1]) <= 0:
            raise UserError(f'"{text}" is no interval; write 5min, 90s, 2h or 200steps')
        if match[2] in _UNITS:
            return cls(seconds=float(match[1]) * _UNITS[match[2]])
        return cls(seconds=float("inf"), steps=max(1, int(float(match[1]))))


@dataclass
class Saves:
    """Where one training keeps its state: a .safetensors file, and JSON with its hash.

    A state is gone on from only where it is whole to the last byte and `key` is the same, which
    says all that the bits depend on beside the artifact's fingerprint.
    """

    folder: Path
    key: str = ""
    interval: Interval = field(default_factory=Interval)
    stop: Stop = field(default_factory=Stop)
    resumed_at: int = 0
    """Steps that an earlier attempt had done."""
    _last: tuple[float, int] = (0.0, 0)
    _full: bool = False

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the tensors and facts last saved, None where the training starts afresh."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self._last = (time.monotonic(), 0)
        try:
            record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
            path = self.folder / _TENSORS.format(step=int(record["step"]))
            if record["key"] != self.key or hash_file(path) != record["sha256"]:
                return None
            if record["beside"] != self._beside():
                return None
            tensors, facts = load_file(path), dict(record["facts"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return None
        self.resumed_at = int(record["step"])
        self._last = (time.monotonic(), self.resumed_at)
        return tensors, facts

    def due(self, step: int) -> bool:
        """Whether it is time to save, after so many steps."""
        since, at = self._last
        if self.stop.wanted or step - at >= (self.interval.steps or float("inf")):
            return True
        return time.monotonic() - since >= self.interval.seconds

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write the state after so many steps. On a full disk the training goes on without."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        self.stop.cancel_timer()
        self._last = (time.monotonic(), step)
        path = self.folder / _TENSORS.format(step=step)
        try:
            save_file(dict(tensors), path)
            record = {"step": step, "sha256": hash_file(path), "key": self.key, "facts": facts}
            record["beside"] = self._beside()
            write_text(self.folder / RECORD, json.dumps(record) + "\n")
        except (OSError, SafetensorError) as error:
            if not self.folder.is_dir():
                raise  # Another process has taken over.
            path.unlink(missing_ok=True)
            if not self._full:
                log.warning("the training's state cannot be kept (%s); it goes on without", error)
            self._full = True
            return
        self._full = False
        self._remove(but=path)

    def clear(self) -> None:
        """Forget the state: going on from it would lead nowhere."""
        (self.folder / RECORD).unlink(missing_ok=True)
        self._remove()

    def _beside(self) -> dict[str, str]:
        """Return the hashes of what a method has already written there for good."""
        files = (path for path in self.folder.rglob("*") if path.is_file())
        return {
            path.relative_to(self.folder).as_posix(): hash_file(path)
            for path in sorted(files)
            if not path.name.startswith(".")
        }

    def _remove(self, but: Path | None = None) -> None:
        for path in self.folder.glob(_TENSORS.format(step="*")):
            if path != but:
                path.unlink(missing_ok=True)

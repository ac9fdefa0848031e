"""Saves a training's state at intervals, so that an interrupted training resumes from it."""

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

STATE_FILE = ".training.json"
_TENSORS = ".training-{step}.safetensors"
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SaveInterval:
    """How often a training's state is written: every `seconds`, or every `steps` if given."""

    seconds: float = 300.0
    steps: int | None = None

    @classmethod
    def parse(cls, text: str) -> SaveInterval:
        """Read "5min", "90s", "2h" or "200steps". Raises UserError."""
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h|steps?)\s*", text)
        if match is None or float(match[1]) <= 0:
            raise UserError(f'"{text}" is no interval; write 5min, 90s, 2h or 200steps')
        if match[2] in _UNITS:
            return cls(seconds=float(match[1]) * _UNITS[match[2]])
        return cls(seconds=float("inf"), steps=max(1, int(float(match[1]))))


@dataclass
class Saves:
    """The saved state of one training: a .safetensors file, and a JSON file with its hash.

    A training resumes only from an undamaged state with the same `key`. The key holds everything
    that the weights depend on, except what the artifact's fingerprint holds.
    """

    folder: Path
    key: str = ""
    interval: SaveInterval = field(default_factory=SaveInterval)
    stop: Stop = field(default_factory=Stop)
    resumed_at: int = 0
    """Steps done by an earlier attempt."""
    _last: tuple[float, int] = (0.0, 0)
    _full: bool = False

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the tensors and JSON values last saved, or None if training starts from zero."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self._last = (time.monotonic(), 0)
        try:
            record = json.loads((self.folder / STATE_FILE).read_text(encoding="utf-8"))
            path = self.folder / _TENSORS.format(step=int(record["step"]))
            expected = (self.key, hash_file(path), self._beside())
            if (record["key"], record["sha256"], record["beside"]) != expected:
                return None
            tensors, facts = load_file(path), dict(record["facts"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return None
        self.resumed_at = int(record["step"])
        self._last = (time.monotonic(), self.resumed_at)
        return tensors, facts

    def due(self, step: int) -> bool:
        """Whether the state should be saved after `step` steps."""
        since, at = self._last
        if self.stop.wanted or step - at >= (self.interval.steps or float("inf")):
            return True
        return time.monotonic() - since >= self.interval.seconds

    def save(self, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Write the state after `step` steps. If that fails (full disk), training continues."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        self.stop.cancel_timer()
        self._last = (time.monotonic(), step)
        path = self.folder / _TENSORS.format(step=step)
        try:
            save_file(dict(tensors), path)
            record = {"step": step, "sha256": hash_file(path), "key": self.key, "facts": facts}
            record["beside"] = self._beside()
            write_text(self.folder / STATE_FILE, json.dumps(record) + "\n")
        except (OSError, SafetensorError) as error:
            if not self.folder.is_dir():
                raise  # Another process took over this task.
            path.unlink(missing_ok=True)
            if not self._full:
                log.warning(
                    "cannot save the training's state (%s); training continues without it", error
                )
            self._full = True
            return
        self._full = False
        self._remove(but=path)

    def clear(self) -> None:
        """Delete the state, because resuming from it would fail again."""
        (self.folder / STATE_FILE).unlink(missing_ok=True)
        self._remove()

    def _beside(self) -> dict[str, str]:
        """Return the hashes of the final files that the method has already written there."""
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

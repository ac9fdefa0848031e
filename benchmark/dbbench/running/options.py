"""RunOptions: the options of a call that change no artifact."""

from __future__ import annotations

from dataclasses import dataclass, field

from dbbench.device import resolve_device
from dbbench.errors import UserError
from dbbench.generation.resume import SaveInterval
from dbbench.running.display.tracker import TrackerKind, check_tracker


@dataclass(frozen=True)
class RunOptions:
    """Options for all tasks of a call. Raises UserError for invalid values."""

    device: str = "auto"
    """As in `resolve_device`; "auto" becomes the device it chooses."""
    retries: int = 1
    """How often a failed task is repeated, except after a UserError."""
    interval: SaveInterval = field(default_factory=SaveInterval)
    """How often a training saves its state."""
    tracker: TrackerKind | None = None
    """Where training losses are recorded, besides the report."""
    together: int = 1
    """How many subjects one process trains together, if the method can do so."""
    json: bool = False
    """Whether progress is shown as lines of JSON."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", resolve_device(self.device))
        check_tracker(self.tracker)
        if self.retries < 0 or self.together < 1:
            raise UserError(
                f"cannot run with retries={self.retries} and together={self.together};"
                " retries must be at least 0, together at least 1"
            )

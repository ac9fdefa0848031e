"""RunOptions: how a call works, as far as it changes no artifact; for one call or one process."""

from __future__ import annotations

from dataclasses import dataclass, field

from dbbench.device import resolve_device
from dbbench.errors import UserError
from dbbench.generation.resume import SaveInterval
from dbbench.running.display.tracker import TrackerKind, check_tracker


@dataclass(frozen=True)
class RunOptions:
    """The same for every task of a call. Raises UserError for values that cannot be used."""

    device: str = "auto"
    """As in `resolve_device`; "auto" becomes the device that is taken."""
    retries: int = 1
    """How often a task that failed is tried again; not where the user has to change something."""
    interval: SaveInterval = field(default_factory=SaveInterval)
    """How often trainings keep their state."""
    tracker: TrackerKind | None = None
    """Where training losses go, beside the report."""
    together: int = 1
    """Subjects that are trained side by side in one process, where the method can do so."""
    json: bool = False
    """Whether progress is shown as lines of JSON."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", resolve_device(self.device))
        check_tracker(self.tracker)
        if self.retries < 0 or self.together < 1:
            raise UserError(
                f"cannot run with retries={self.retries} and together={self.together};"
                " retries start at 0, together at 1"
            )

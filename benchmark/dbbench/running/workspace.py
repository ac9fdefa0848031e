"""The output folder of a running call: its record, its other processes and its free space."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from typing import Any

from dbbench.errors import UserError
from dbbench.files import fingerprint
from dbbench.planning.plan import Plan
from dbbench.storage.disk import SPARE_BYTES, free_bytes
from dbbench.storage.leases import Leases
from dbbench.storage.record import Record, Selection
from dbbench.suites.suite import Suite
from dbbench.units import gigabytes
from dbbench.versions import versions


class Workspace(Record):
    """An output folder in which a call works."""

    def enter(self, plan: Plan, selection: Selection, device: str) -> None:
        """Write suite.json: the suite, the selection, package versions and fingerprints."""
        self.write(
            {
                "suite": plan.suite.model_dump(mode="json"),
                "selection": asdict(selection),
                "source": plan.dataset.name,
                "versions": versions(),
                "device": device,
                "identities": plan.identities.record(self.identities()),
            }
        )

    @contextmanager
    def entered(
        self, leases: Leases, settings: Any, waiting: Callable[[str], None]
    ) -> Iterator[None]:
        """Register this call in the folder while open; calls with equal settings work together.

        It first waits for calls with other settings, whose artifacts would have the same names.
        """
        kind = f"call {fingerprint(settings)[:16]} "
        with ExitStack() as stack:
            with leases.hold("entrance", waiting):
                for name in leases.names():
                    if name.startswith("call ") and not name.startswith(kind):
                        with leases.hold(name, lambda who: waiting(f"{who}, with other settings")):
                            pass
                stack.enter_context(leases.trying(f"{kind}{secrets.token_hex(4)}"))
            yield

    def refuse_if_full(self, needed: int, suite: Suite) -> None:
        """Raise UserError if the disk has less than `needed` bytes and a reserve."""
        free = free_bytes(self.out)
        if needed + SPARE_BYTES > free:
            advice = ", add --set keep_checkpoints=false" if suite.keep_checkpoints else ""
            raise UserError(
                f"{self.out} needs about {gigabytes(needed + SPARE_BYTES)} more, but the disk has "
                f"{gigabytes(free)} free; free some space{advice}, or choose another --out"
            )

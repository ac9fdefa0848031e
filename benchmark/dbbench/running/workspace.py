"""The output folder of a run: what is recorded in it, who is at work there, and its free space."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    """One output folder while something is run in it."""

    def enter(self, plan: Plan, selection: Selection, device: str) -> None:
        """Record what is run here and with what."""
        self.write(
            {
                "suite": plan.suite.model_dump(mode="json"),
                "selection": {
                    "subjects": selection.subjects,
                    "methods": selection.methods,
                    "seeds": selection.seeds,
                },
                "source": plan.dataset.name,
                "versions": versions(),
                "device": device,
                "identities": plan.identities.record(self.read().get("identities", {})),
            }
        )

    @contextmanager
    def entered(
        self, leases: Leases, settings: Any, waiting: Callable[[str], None]
    ) -> Iterator[None]:
        """Be at work in the folder while open, beside others with the same settings.

        Others would make other things of the same name: they are waited for.
        """
        kind = f"call {fingerprint(settings)[:16]} "
        own = f"{kind}{secrets.token_hex(4)}"
        with leases.hold("entrance", waiting):
            for name in leases.names():
                if name.startswith("call ") and not name.startswith(kind):
                    with leases.hold(name, lambda who: waiting(f"{who}, with other settings")):
                        pass
            lease = leases.take(own)
        try:
            yield
        finally:
            if lease is not None:
                leases.release(lease)

    def refuse_if_full(self, needed: int, suite: Suite) -> None:
        """Raise UserError where `needed` bytes do not fit on the disk."""
        free = free_bytes(self.out)
        if needed + SPARE_BYTES > free:
            advice = ", add --set keep_checkpoints=false" if suite.keep_checkpoints else ""
            raise UserError(
                f"{self.out} needs about {gigabytes(needed + SPARE_BYTES)} more and the disk has "
                f"{gigabytes(free)} left; free some{advice}, or choose another --out"
            )

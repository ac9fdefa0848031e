"""The output folder: which suite it belongs to, who is at work in it, and whether it has room."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dbbench.data.subject import load_subjects
from dbbench.errors import UserError
from dbbench.files import fingerprint, write_text
from dbbench.planning.identity import Identities
from dbbench.planning.plan import Plan
from dbbench.storage.disk import SPARE_BYTES, _existing
from dbbench.storage.leases import Leases
from dbbench.suites.runs import Run, plan_runs
from dbbench.suites.suite import Suite
from dbbench.units import gigabytes
from dbbench.versions import versions

RECORD = "suite.json"


@dataclass(frozen=True)
class Selection:
    """What was asked for in one output folder, over all calls; each combination is a run."""

    subjects: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()

    def join(self, runs: Iterable[Run]) -> Selection:
        """Add what these runs name; subjects stay in the data set's order."""
        runs = tuple(runs)
        named = {*self.subjects, *(run.subject for run in runs)}
        known = [subject.name for subject in load_subjects()]
        return Selection(
            subjects=tuple([n for n in known if n in named] + sorted(named - set(known))),
            methods=tuple(dict.fromkeys([*self.methods, *(run.method for run in runs)])),
            seeds=tuple(sorted({*self.seeds, *(run.seed for run in runs)})),
        )

    def runs(self, suite: Suite) -> tuple[Run, ...]:
        """Return every run of the selection."""
        return plan_runs(suite, self.subjects, self.methods, self.seeds)


@dataclass(frozen=True)
class Workspace:
    """One output folder."""

    out: Path

    def read(self) -> dict[str, Any]:
        """Return suite.json, or nothing where the folder is new. Raises UserError if unreadable."""
        path = self.out / RECORD
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except NotADirectoryError:
            raise UserError(f"{self.out} is a file; choose a folder with --out") from None
        except (OSError, ValueError) as error:
            raise UserError(
                f"{path} cannot be read ({error}); remove that file and call dbbench run again"
            ) from None
        document = document if isinstance(document, dict) else {}
        if document.pop("seal", None) not in {None, fingerprint(document)}:
            raise UserError(
                f"{path} is damaged; remove that file and call dbbench run again, with all that"
                " was asked for in this folder"
            )
        return document

    def selection(self) -> Selection:
        """Return what earlier calls asked for."""
        recorded = self.read().get("selection", {})
        return Selection(
            tuple(recorded.get("subjects", ())),
            tuple(recorded.get("methods", ())),
            tuple(recorded.get("seeds", ())),
        )

    def suite(self) -> Suite:
        """Return the suite of the folder. Raises UserError where there is none."""
        record = self.read()
        if not record:
            raise UserError(f"{self.out} holds no results; make some with: dbbench run")
        return Suite.model_validate(record["suite"])

    def refuse_other(self, suite: Suite) -> None:
        """Raise UserError where the folder holds another suite, backbone, resolution or source."""
        record = self.read()
        if record and (there := _identity(record["suite"])) != (
            here := _identity(suite.model_dump(mode="json"))
        ):
            raise UserError(
                f"{self.out} holds {there}, and this would be {here}; choose another --out"
            )

    def write(self, plan: Plan, selection: Selection, device: str) -> None:
        """Record what is run here and with what."""
        document = {
            "suite": plan.suite.model_dump(mode="json"),
            "selection": {
                "subjects": selection.subjects,
                "methods": selection.methods,
                "seeds": selection.seeds,
            },
            "source": plan.source.name,
            "versions": versions(),
            "device": device,
            "identities": plan.identities.record(self.read().get("identities", {})),
        }
        document = json.loads(json.dumps(document))
        if document == self.read():
            return
        sealed = document | {"seal": fingerprint(document)}
        write_text(self.out / RECORD, json.dumps(sealed, indent=1, ensure_ascii=False) + "\n")

    def recall(
        self, identities: Identities, methods: Iterable[str], *, trust: bool = False
    ) -> None:
        """Tell the identities what the last call here found out."""
        identities.recall(self.read().get("identities", {}), methods, trust=trust)

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
        free = shutil.disk_usage(_existing(self.out)).free
        if needed + SPARE_BYTES > free:
            advice = ", add --set keep_checkpoints=false" if suite.keep_checkpoints else ""
            raise UserError(
                f"{self.out} needs about {gigabytes(needed + SPARE_BYTES)} more and the disk has "
                f"{gigabytes(free)} left; free some{advice}, or choose another --out"
            )


def _identity(suite: Mapping[str, Any]) -> str:
    backbone = suite["backbone"]
    revision = f" at {backbone['revision']}" if backbone.get("revision") else ""
    return (
        f'suite "{suite["name"]}" (backbone {backbone["path"]}{revision},'
        f" {backbone['resolution']} px, {suite['source']})"
    )

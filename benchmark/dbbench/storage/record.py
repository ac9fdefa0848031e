"""suite.json: the suite of an output folder, and the runs that its calls have selected."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from dbbench.data.dataset import Dataset
from dbbench.errors import UserError
from dbbench.files import fingerprint, write_text
from dbbench.storage.disk import RECORD
from dbbench.suites.runs import Run, plan_runs
from dbbench.suites.suite import Suite


@dataclass(frozen=True)
class Selection:
    """All selections of the calls in one output folder; each combination is a run."""

    subjects: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()

    def join(self, runs: Iterable[Run], dataset: Dataset) -> Selection:
        """Return it with these runs added; subjects stay in the data set's order."""
        runs = tuple(runs)
        named = {*self.subjects, *(run.subject for run in runs)}
        known = [subject.name for subject in dataset.subjects]
        return Selection(
            subjects=tuple([n for n in known if n in named] + sorted(named - set(known))),
            methods=tuple(dict.fromkeys([*self.methods, *(run.method for run in runs)])),
            seeds=tuple(sorted({*self.seeds, *(run.seed for run in runs)})),
        )

    def without(self, methods: Iterable[str]) -> Selection:
        """Return it without these rows."""
        return replace(self, methods=tuple(m for m in self.methods if m not in set(methods)))

    def runs(self, suite: Suite) -> tuple[Run, ...]:
        """Return every run of the selection."""
        return plan_runs(suite, self.subjects, self.methods, self.seeds)


@dataclass(frozen=True)
class Record:
    """The suite.json of one output folder."""

    out: Path

    def read(self) -> dict[str, Any]:
        """Return suite.json, or {} for a new folder. Raises UserError if it cannot be read."""
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
                f"{path} is damaged; remove that file and call dbbench run again, with all"
                " subjects, methods and seeds of this folder"
            )
        return document

    def selection(self) -> Selection:
        """Return the selection of all earlier calls."""
        recorded = self.read().get("selection", {})
        return Selection(*(tuple(recorded.get(each.name, ())) for each in fields(Selection)))

    def suite(self) -> Suite:
        """Return the suite of the folder. Raises UserError if the folder has no suite.json."""
        record = self.read()
        if not record:
            raise UserError(f"{self.out} holds no results; make some with: dbbench run")
        return Suite.model_validate(record["suite"])

    def identities(self) -> dict[str, Any]:
        """Return the recorded fingerprints and settings; {} for a new folder."""
        return dict(self.read().get("identities", {}))

    def refuse_other(self, suite: Suite) -> None:
        """Raise UserError if the folder has another suite, backbone, resolution or data set."""
        record = self.read()
        if record and (there := _identity(record["suite"])) != (
            here := _identity(suite.model_dump(mode="json"))
        ):
            raise UserError(
                f"{self.out} contains {there}, but this call uses {here}; choose another --out"
            )

    def write(self, document: Mapping[str, Any]) -> None:
        """Write suite.json with a hash of its content, if the content has changed."""
        document = json.loads(json.dumps(document))
        if document == self.read():
            return
        sealed = {**document, "seal": fingerprint(document)}
        write_text(self.out / RECORD, json.dumps(sealed, indent=1, ensure_ascii=False) + "\n")


def _identity(suite: Mapping[str, Any]) -> str:
    backbone = suite["backbone"]
    revision = f" at {backbone['revision']}" if backbone.get("revision") else ""
    return (
        f'suite "{suite["name"]}" (backbone {backbone["path"]}{revision},'
        f" {backbone['resolution']} px, {suite['source']})"
    )

"""Request: the suite, data set, runs and folder of one call, found by their names.

`dbbench run`, `dbbench reproduce` and `dbbench.run` make one each; a plan is made from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dbbench import plugins
from dbbench.data.dataset import Dataset, load_dataset, select_subjects
from dbbench.data.photographs import Photographs
from dbbench.errors import UserError
from dbbench.storage.disk import RESULTS
from dbbench.storage.remote import Remote, open_folder
from dbbench.suites.runs import Run, plan_runs
from dbbench.suites.suite import Suite, choose_suite, on_dataset, override, with_method_files


@dataclass(frozen=True)
class Request:
    """Runs of a suite to do in one output folder."""

    suite: Suite
    out: Path
    dataset: Dataset
    runs: tuple[Run, ...]
    remote: Remote | None = None
    """Where the artifacts are stored if the output is an address; `out` is then its mirror."""
    file: str = ""
    """The suite's file, if it is the user's own: its rows are checked before anything starts."""


def make_request(
    suite: str | Path | Suite | None = None,
    *,
    device: str,
    on: str | None = None,
    settings: Sequence[str] = (),
    subjects: str | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    data: str | None = None,
    out: str | None = None,
    results: Path = RESULTS,
) -> Request:
    """Return the request; for an argument that is None, the suite's own value is used.

    `suite` and `on` are as in `choose_suite`, `settings` as in `override`. `methods` are names or
    "file.py:Class". `data` is the name of a data set, or the folder of the photographs. `out`
    is a folder or an address, by default `results`/SUITE. Raises UserError for unknown names.
    """
    chosen = override(choose_suite(suite, on, device), settings)
    if data is not None:
        chosen = on_dataset(chosen, data if data in plugins.names("datasets") else Photographs.name)
    dataset = choose_dataset(chosen, data)
    names = [subject.name for subject in select_subjects(dataset, subjects or chosen.subjects)]
    if methods is not None:
        chosen, methods = with_method_files(chosen, methods)
    runs = plan_runs(chosen, names, methods, seeds)
    folder, remote = open_folder(out or str(results / chosen.name))
    file = "" if suite is None or isinstance(suite, Suite) else str(suite)
    return Request(chosen, folder, dataset, runs, remote, file if file.endswith(".toml") else "")


def choose_dataset(suite: Suite, data: str | None) -> Dataset:
    """Return the suite's data set. Raises UserError if the folder of the photographs is missing."""
    if suite.source != Photographs.name:
        return load_dataset(suite.source)
    if data is None:
        raise UserError(
            f'suite "{suite.name}" needs the photographs: run "dbbench data fetch --out photos",'
            " then add --data photos; or choose mini, which needs none (--suite mini, or --on mini"
            " for an experiment)"
        )
    return Photographs(Path(data))

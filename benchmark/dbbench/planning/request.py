"""Request: what one call asks for. Names become a suite, the source of its images, runs, a folder.

`dbbench run`, `dbbench reproduce` and `dbbench.run` make one each; a plan is made from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dbbench.data.dataset import ImageSource
from dbbench.data.subject import select_subjects
from dbbench.errors import UserError
from dbbench.storage.record import RESULTS
from dbbench.storage.remote import Remote, open_folder
from dbbench.suites.runs import Run, plan_runs
from dbbench.suites.suite import Suite, choose_suite, override, with_method_files, with_photos


@dataclass(frozen=True)
class Request:
    """Some runs of a suite, in one output folder."""

    suite: Suite
    out: Path
    source: ImageSource
    runs: tuple[Run, ...]
    remote: Remote | None = None
    """Where the artifacts are at home; `out` is then the mirror on this machine."""


def make_request(
    suite: str | None = None,
    *,
    device: str,
    on: str | None = None,
    settings: Sequence[str] = (),
    subjects: str | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    data: Path | None = None,
    out: str | None = None,
    results: Path = RESULTS,
) -> Request:
    """Look everything up by name; what is None is as the suite has it.

    `suite` and `on` are as in `choose_suite`, `settings` as in `override`. `methods` are names or
    "file.py:Class". `data` is the folder of the photographs. `out` is a folder or an address,
    `results`/SUITE where it is None. Raises UserError for what does not exist.
    """
    chosen = override(choose_suite(suite, on, device), settings)
    if data is not None:
        chosen = with_photos(chosen)
    source = choose_source(chosen, data)
    names = [subject.name for subject in select_subjects(subjects or chosen.subjects)]
    if methods is not None:
        chosen, methods = with_method_files(chosen, methods)
    runs = plan_runs(chosen, names, methods, seeds)
    folder, remote = open_folder(out or str(results / chosen.name))
    return Request(chosen, folder, source, runs, remote)


def choose_source(suite: Suite, data: Path | None) -> ImageSource:
    """Return where the suite's images come from. Raises UserError where `data` is needed."""
    if suite.source == "mini":
        from dbbench.mini.source import MiniSource

        return MiniSource(suite.backbone.resolution)
    if data is None:
        raise UserError(
            f'suite "{suite.name}" needs the photographs: get them with "dbbench data fetch --out'
            ' photos", then add --data photos; or take mini, which needs none (--suite mini, or'
            " --on mini for an experiment)"
        )
    from dbbench.data.photographs import PhotoFolder

    return PhotoFolder(data, suite.backbone.resolution)

"""A finished `dbbench run`: its samples, its references, and the encoders that suit its world."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dbbench.errors import UserError
from dbbench.files import contained
from dbbench.image_sets.image_set import Row, Submission, accept
from dbbench.storage.artifact import MANIFEST
from dbbench.storage.record import RECORD, Record


def is_run(folder: Path) -> bool:
    """Return whether a folder is the output of `dbbench run`."""
    return (folder / RECORD).is_file() and (folder / "runs").is_dir()


def read(out: Path, *, method: str | None) -> Submission:
    """Return the whole samples of all runs in an output folder; a `method` chooses one."""
    suite = Record(out).suite()
    found = Submission()
    for folder in sorted(out.glob("runs/*/*/*/samples")):
        if not (folder / MANIFEST).is_file():
            line = f"{folder.relative_to(out)}: not finished; the same dbbench run goes on"
            found = found.join(Submission(refused=(line,)))
            continue
        document = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
        name = str(document["method"])
        if method is not None and name != method:
            continue
        identifier = _identifier(folder.parent / "checkpoint" / "checkpoint.json")
        part = accept(_rows(folder, out, document), method=name, identifier=identifier)
        found = found.join(part)
    if not found.pictures:
        raise UserError(f"{out} has no finished samples{f' of {method}' if method else ''}")
    return Submission(
        found.pictures,
        found.refused,
        banner=suite.banner,
        encoders=suite.encoders if suite.banner else {},
        references=dict(_references(out)),
    )


def _identifier(checkpoint: Path) -> str:
    """Return the rare token that a method chose; "" where it has none or keeps no checkpoint."""
    if not checkpoint.is_file():
        return ""
    metadata = json.loads(checkpoint.read_text(encoding="utf-8")).get("metadata", {})
    return str(metadata.get("identifier") or "")


def _rows(folder: Path, out: Path, document: dict[str, Any]) -> Iterator[Row]:
    for entry in document["images"]:
        path = contained(folder, str(entry["file"]))
        yield Row(
            where=str(path.relative_to(out)),
            image=path,
            name=str(path.relative_to(out)),
            subject=str(document["subject"]),
            prompt=str(entry["prompt"]),
            method=str(document["method"]),
            seed=int(document["seed"]),
            class_noun=str(document["class_noun"]),
            category=entry.get("category"),
        )


def _references(out: Path) -> Iterator[tuple[str, tuple[Path, ...]]]:
    for record in sorted(out.glob("references/*/references.json")):
        entries = json.loads(record.read_text(encoding="utf-8"))["images"]
        yield (
            record.parent.name,
            tuple(contained(record.parent, str(entry["file"])) for entry in entries),
        )

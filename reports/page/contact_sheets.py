"""Pictures for the page: one sheet per method and subject, one thumbnail per reference image.

A sheet has a row for each prompt and a column for each image, so that 6,000 samples are 60 files,
which a browser loads only when they are visible. Pictures that are up to date are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dbbench.errors import UserError
from dbbench.files import fingerprint, read_json, write_text
from dbbench.reports.page.gallery import PIXEL_ART, Reference, Sheet, Strip, SubjectPictures, shown
from dbbench.storage.artifact import MANIFEST
from dbbench.storage.run_folder import Reference as Recorded
from dbbench.storage.run_folder import (
    References,
    prior_of,
    references_folder,
    references_of,
    samples_of,
)
from dbbench.suites.runs import Run

CELL = 160
"""Largest side of a sample on a sheet in pixels; smaller samples keep their own size."""
THUMBNAIL = 256
"""Largest side of a reference image in pixels."""
STRIP = 8
"""Number of images of the class noun alone that are shown for each method."""
SHEETS_FILE = ".pictures.json"
QUALITY = 92


def make_pictures(
    out: Path,
    report: Path,
    *,
    subjects: Sequence[str],
    methods: Sequence[str],
    seeds: Sequence[int],
) -> tuple[SubjectPictures, ...]:
    """Write the pictures below `report` and return what they show, subject by subject.

    Raises UserError if an image cannot be read.
    """
    record = _read_record(report)
    made: dict[str, str] = {}
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        maker = _Maker(report, record, made)
        results = [
            pool.submit(_subject, out, maker, subject, methods, seeds) for subject in subjects
        ]
        pictures = tuple(result.result() for result in results)
    for folder in ("references", "samples", "drift"):
        for path in (report / folder).glob("*"):
            if path.is_file() and f"{folder}/{path.name}" not in made:
                path.unlink()
    write_text(report / SHEETS_FILE, json.dumps(made, indent=1, sort_keys=True) + "\n")
    return pictures


@dataclass(frozen=True)
class _Maker:
    """Writes pictures, except those that were already made from the same data."""

    report: Path
    known: Mapping[str, str]
    made: dict[str, str]

    def current(self, name: str, key: str) -> bool:
        self.made[name] = key
        return self.known.get(name) == key and (self.report / name).is_file()

    def save(self, image: Image.Image, name: str) -> None:
        path = self.report / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}")
        if path.suffix == ".png":
            image.save(temporary, format="PNG")
        else:
            # Full-resolution colour: subsampled chroma would bleed across hard pixels.
            image.save(temporary, format="JPEG", quality=QUALITY, subsampling=0)
        os.replace(temporary, path)


def _subject(
    out: Path, maker: _Maker, subject: str, methods: Sequence[str], seeds: Sequence[int]
) -> SubjectPictures:
    nothing = References(folder=out / references_folder(subject), subject=subject, images=())
    recorded = references_of(out, subject) or nothing
    references = [
        _reference(recorded.path(image), image, maker, subject) for image in recorded.images
    ]
    sheets = [_sheet(out, maker, subject, method, seeds) for method in methods]
    return SubjectPictures(
        name=subject,
        class_noun=recorded.class_noun,
        kind=recorded.kind,
        references=tuple(references),
        sheets=tuple(sheet for sheet in sheets if sheet is not None),
        drift=_drift(out, maker, recorded, methods, seeds),
    )


def _reference(path: Path, image: Recorded, maker: _Maker, subject: str) -> Reference:
    width, height = _size(path)
    small = max(width, height) <= PIXEL_ART
    stem = f"references/{_slug(subject)}-{path.stem}"
    name = f"{stem}.png" if small else f"{stem}.jpg"
    key = fingerprint([image.sha256, width, height, THUMBNAIL, QUALITY])
    scale = min(1.0, THUMBNAIL / max(width, height))
    width, height = round(width * scale), round(height * scale)
    if not maker.current(name, key):
        maker.save(_read(path, (width, height)), name)
    return Reference(name, shown(width), shown(height), image.credit)


def _sheet(
    out: Path, maker: _Maker, subject: str, method: str, seeds: Sequence[int]
) -> Sheet | None:
    """Put the samples of all seeds on one sheet; None if there are none."""
    cells: dict[tuple[str, int, int], Path] = {}
    prompts: dict[str, str] = {}
    keys: list[Any] = [CELL, QUALITY]
    for seed in seeds:
        samples = samples_of(out, Run(method, subject, seed))
        if samples is None:
            continue
        for sample in samples.images:
            if sample.category == "class":
                continue
            prompts.setdefault(sample.prompt, sample.text)
            cells[sample.prompt, seed, sample.number] = samples.path(sample)
        manifest = read_json(samples.folder / MANIFEST)
        keys.append([seed, manifest.get("fingerprint"), manifest.get("files")])
    if not cells:
        return None
    columns = sorted({(seed, image) for _, seed, image in cells})
    cell = min(CELL, max(_size(next(iter(cells.values())))))
    name = f"samples/{_slug(method)}--{_slug(subject)}.jpg"
    if not maker.current(name, fingerprint([*keys, cell, list(prompts), columns])):
        rows = {prompt: row for row, prompt in enumerate(prompts)}
        sheet = Image.new("RGB", (cell * len(columns), cell * len(rows)), "#888")
        for (prompt, seed, number), path in cells.items():
            place = (cell * columns.index((seed, number)), cell * rows[prompt])
            sheet.paste(_read(path, (cell, cell)), place)
        maker.save(sheet, name)
    return Sheet(method, name, tuple(prompts.items()), tuple(columns), cell)


def _drift(
    out: Path,
    maker: _Maker,
    references: References,
    methods: Sequence[str],
    seeds: Sequence[int],
) -> tuple[Strip, ...]:
    """Show images of the class noun alone before and after training; empty without any."""
    name = _slug(references.subject)
    after = []
    for method in methods:
        if samples := samples_of(out, Run(method, references.subject, seeds[0])):
            bare = [samples.path(each) for each in samples.images if each.category == "class"]
            file = f"drift/{_slug(method)}--{name}.jpg"
            after.append(_strip(maker, method, file, samples.folder, bare))
    if not any(after):
        return ()
    prior = prior_of(out, references.class_noun)
    file = f"drift/before--{name}.jpg"
    before = _strip(maker, "", file, prior.folder, prior.paths) if prior else None
    return tuple(strip for strip in (before, *after) if strip is not None)


def _strip(
    maker: _Maker, label: str, name: str, folder: Path, paths: Sequence[Path]
) -> Strip | None:
    chosen = [path for path in paths[:STRIP] if path.is_file()]
    if not chosen:
        return None
    cell = min(CELL, max(_size(chosen[0])))
    manifest = read_json(folder / MANIFEST)
    key = fingerprint([manifest.get("fingerprint"), [p.name for p in chosen], cell, QUALITY])
    if not maker.current(name, key):
        sheet = Image.new("RGB", (cell * len(chosen), cell), "#888")
        for column, path in enumerate(chosen):
            sheet.paste(_read(path, (cell, cell)), (cell * column, 0))
        maker.save(sheet, name)
    return Strip(label, name, len(chosen), cell)


def _size(path: Path) -> tuple[int, int]:
    """Return width and height; only the head of the file is read."""
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError) as error:
        raise _damaged(path, error) from None


def _read(path: Path, size: tuple[int, int]) -> Image.Image:
    """Return the image in RGB, resized to `size`."""
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        raise _damaged(path, error) from None
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return picture


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} cannot be read ({error}); rerun the same dbbench run to repair it")


def _slug(name: str) -> str:
    """Return a file name for any name; one that had to be changed gets a hash to stay unique."""
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", name)
    return slug if slug == name else f"{slug}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _read_record(report: Path) -> dict[str, str]:
    return {str(k): str(v) for k, v in read_json(report / SHEETS_FILE).items()}

"""Reads a folder `<subject>/<prompt id>/<n>.png`, any number of images for each prompt."""

from __future__ import annotations

import re
from pathlib import Path

from dbbench.data.decoding import SUFFIXES
from dbbench.image_sets.image_set import ImageRow
from dbbench.image_sets.rows import Rows


def read(folder: Path) -> Rows:
    """Return a row for each image; images at another depth are refused, in one line per folder."""
    rows: list[ImageRow] = []
    refused: list[str] = []
    for subject in _visible(folder):
        if not subject.is_dir():
            if _is_image(subject):
                refused.append(f"{subject.name}: this image is not in a subject's folder")
            continue
        loose = [path for path in _visible(subject) if _is_image(path)]
        if loose:
            refused.append(
                f"{subject.name}/: {len(loose)} images are not in a prompt's folder; "
                f"move them to {subject.name}/<prompt id>/"
            )
        for prompt in _visible(subject):
            if not prompt.is_dir():
                continue
            images = [path for path in _visible(prompt) if _is_image(path)]
            where = f"{subject.name}/{prompt.name}"
            if not images:
                refused.append(f"{where}/: no images in this folder")
            rows.extend(
                ImageRow(
                    where=f"{where}/",
                    image=image,
                    name=f"{where}/{image.name}",
                    subject=subject.name,
                    prompt=prompt.name,
                )
                for image in images
            )
    return Rows(rows, refused)


def in_order(paths: list[Path]) -> list[Path]:
    """Sort paths by name, numbers in names by value: 2.png before 10.png."""

    def key(path: Path) -> list[tuple[int, int | str]]:
        parts = re.split(r"(\d+)", path.name)
        return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part]

    return sorted(paths, key=key)


def _visible(folder: Path) -> list[Path]:
    return in_order([path for path in folder.iterdir() if not path.name.startswith(".")])


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()

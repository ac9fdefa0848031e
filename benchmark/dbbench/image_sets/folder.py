"""Reads a folder `<subject>/<prompt id>/<n>.png`, any number of images for each prompt."""

from __future__ import annotations

from pathlib import Path

from dbbench.data.image_files import look_into, passed_over
from dbbench.image_sets.image_set import ImageRow
from dbbench.image_sets.rows import Rows


def read(folder: Path) -> Rows:
    """Return a row for each image; images at another depth are refused, in one line per folder.

    Files that are not images are passed over, in one line.
    """
    top = look_into(folder)
    rows: list[ImageRow] = []
    refused = [f"{image.name}: this image is not in a subject's folder" for image in top.images]
    others = list(top.others)
    for place in top.folders:
        subject = look_into(place)
        others += subject.others
        if subject.images:
            refused.append(
                f"{place.name}/: {len(subject.images)} images are not in a prompt's folder; "
                f"move them to {place.name}/<prompt id>/"
            )
        for inner in subject.folders:
            prompt, where = look_into(inner), f"{place.name}/{inner.name}"
            others += prompt.others
            if deeper := prompt.images_below():
                refused.append(f"{where}/: {deeper} images in folders below it; move them to it")
            elif not prompt.images:
                refused.append(f"{where}/: no images in this folder")
            rows.extend(
                ImageRow(
                    where=f"{where}/",
                    image=image,
                    name=f"{where}/{image.name}",
                    subject=place.name,
                    prompt=inner.name,
                )
                for image in prompt.images
            )
    if line := passed_over(others):
        refused.append(f"{folder.name}/: {line}")
    return Rows(rows, refused)


def holds_images(folder: Path) -> bool:
    """Return whether a folder has images in a folder of a folder."""
    inner = (place for subject in look_into(folder).folders for place in look_into(subject).folders)
    return any(look_into(place).images for place in inner)

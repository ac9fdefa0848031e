"""Times `dbbench report` on an output folder of the size of a full run.

python benchmark/measurements/speed/report.py /tmp/full \\
    --out benchmark/measurements/results/report.json

The folder is synthetic: 30 subjects, two methods, 6,000 drawings of the embedded world, and random
scores. The time does not depend on the origin of the images. The scores have no other meaning.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from dbbench.data.dataset import select_subjects
from dbbench.data.prompt import load_prompts
from dbbench.data.subject import Subject
from dbbench.evaluation.scores import REAL, score_table, write_parts
from dbbench.mini.drawing.world import draw, repaint, scene_for_prompt
from dbbench.mini.source import MiniWorld, identities
from dbbench.storage.run_folder import (
    ClassImage,
    ClassImages,
    Reference,
    References,
    Sample,
    Samples,
    Training,
    checkpoint_folder,
    prior_folder,
    references_folder,
    samples_folder,
)
from dbbench.suites.runs import Run
from dbbench.suites.suite import Suite, load_suite

DRAWN = 4
"""Subjects of each kind with images of their own; the others reuse these images."""


def main(
    folder: Annotated[
        Path, typer.Argument(help="Folder to create; an existing one is used as it is.")
    ],
    subjects: Annotated[str, typer.Option(help="all, or names.")] = "all",
    suite: Annotated[str, typer.Option(help="An experiment or mini.")] = "table1",
    calls: Annotated[int, typer.Option(help="Calls after the first one.", min=1)] = 5,
    chromium: Annotated[bool, typer.Option(help="Also open the page, from disk.")] = True,
    out: Annotated[Path | None, typer.Option(help="Write the numbers to this JSON file.")] = None,
) -> None:
    """Create the folder, then time the first and later reports, in new processes."""
    if not (folder / "scores.parquet").is_file():
        write_run(folder, load_suite(suite, None if suite == "mini" else "mini"), subjects)
    shutil.rmtree(folder / "report", ignore_errors=True)
    command = [str(Path(sys.executable).with_name("dbbench")), "report", str(folder)]
    seconds, busy = [], []
    for _ in range(1 + calls):
        began, before = time.perf_counter(), _cpu()
        subprocess.run(command, check=True, capture_output=True)
        seconds.append(round(time.perf_counter() - began, 2))
        busy.append(round(_cpu() - before, 2))
    page = folder / "report" / "index.html"
    result: dict[str, Any] = {
        "images": sum(1 for _ in folder.glob("runs/*/*/*/samples/*/*.png")),
        "load average": round(os.getloadavg()[0], 1),
        "first call, seconds": seconds[0],
        "first call, CPU seconds": busy[0],
        "later calls, seconds": seconds[1:],
        "later calls, CPU seconds": busy[1:],
        "page, bytes": page.stat().st_size,
        "page in Chromium, ms": _open(page) if chromium else None,
    }
    print(json.dumps(result))
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _cpu() -> float:
    """Return the CPU seconds of finished child processes, which other load does not change."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _open(page: Path) -> dict[str, float]:
    """Open the page in Chromium; return its navigation times in ms."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector("#stage .strip")
        times = "performance.getEntriesByType('navigation')[0].toJSON()"
        found = tab.evaluate(times)
        browser.close()
    return {key: round(found[key]) for key in ("domInteractive", "domComplete", "loadEventEnd")}


def write_run(folder: Path, suite: Suite, subjects: str) -> None:
    """Write the files of a finished run."""
    chosen = select_subjects(MiniWorld(), subjects)
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    pictures: dict[tuple[str, bool, int], list[Image.Image]] = {}
    for position, subject in enumerate(chosen):
        common = {"suite": suite.name, "subject": subject.name, "class_noun": subject.class_noun}
        common |= {"kind": subject.kind}
        rows += _references(folder, subject, common, rng)
        _prior(folder, subject)
        ease = rng.normal(0, 0.03)
        for level, method in enumerate(suite.methods):
            key = (method, subject.live, position % DRAWN)
            if key not in pictures:
                pictures[key] = _draw(subject, level, rng)
            rows += _samples(folder, suite, method, subject, pictures[key], common, ease, rng)
    write_parts([score_table(rows)], folder / "scores.parquet")
    names = [subject.name for subject in chosen]
    record = {
        "suite": suite.model_dump(mode="json"),
        "selection": {"subjects": names, "methods": list(suite.methods), "seeds": [0]},
        "source": "mini",
        "versions": {"dbbench": "0.1.0"},
        "device": "cpu",
        "identities": {},
    }
    (folder / "suite.json").write_text(json.dumps(record))


def _draw(subject: Subject, level: int, rng: np.random.Generator) -> list[Image.Image]:
    """Draw 4 images for each of 25 prompts; a later method has wrong colours more often."""
    images = []
    for prompt in load_prompts(subject.live):
        for _ in range(4):
            identity = identities()[subject.name]
            if rng.random() < 0.3 * level:
                identity = repaint(identity, str(rng.choice(["red", "purple"])))
            images.append(draw(scene_for_prompt(identity, prompt, rng)))
    return images


def _references(
    folder: Path, subject: Subject, common: dict[str, Any], rng: np.random.Generator
) -> list[dict[str, Any]]:
    place = folder / references_folder(subject.name)
    place.mkdir(parents=True)
    entries, rows = [], []
    for number, reference in enumerate(MiniWorld().images(subject, 64)):
        file = f"{number:02d}.png"
        reference.image.save(place / file)
        entries.append(Reference(file=file, sha256=reference.sha256, credit=reference.credit))
        for metric in ("dino", "clip-i"):
            rows.append(
                common
                | dict.fromkeys(("seed", "prompt", "category"))
                | {"method": REAL, "image": file, "metric": metric, "value": rng.normal(0.8, 0.03)}
            )
    References(
        folder=place, images=tuple(entries),
        subject=subject.name, class_noun=subject.class_noun, kind=subject.kind,
    ).write()  # fmt: skip
    return rows


def _prior(folder: Path, subject: Subject) -> None:
    place = folder / prior_folder(subject.class_noun)
    if place.exists():
        return
    place.mkdir(parents=True)
    entries = []
    for number, reference in enumerate(MiniWorld().images(subject, 64)):
        reference.image.save(place / f"{number:04d}.png")
        entries.append(ClassImage(file=f"{number:04d}.png", seed=number))
    noun = subject.class_noun
    ClassImages(folder=place, images=tuple(entries), class_noun=noun, prompt="a").write()


def _samples(
    folder: Path,
    suite: Suite,
    method: str,
    subject: Subject,
    pictures: list[Image.Image],
    common: dict[str, Any],
    ease: float,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    run = Run(method, subject.name, 0)
    samples, checkpoint = folder / samples_folder(run), folder / checkpoint_folder(run)
    level = list(suite.methods).index(method)
    entries, rows = [], []
    for position, prompt in enumerate(load_prompts(subject.live)):
        for number in range(4):
            file = f"{prompt.id}/{number}.png"
            path = samples / file
            path.parent.mkdir(parents=True, exist_ok=True)
            pictures[4 * position + number].save(path, compress_level=1)
            text = prompt.render("", subject.class_noun)
            entries.append(
                Sample(
                    file=file, prompt=prompt.id, category=prompt.category,
                    number=number, seed=number, text=text,
                )
            )  # fmt: skip
            for metric in suite.metrics:
                value = 0.66 - 0.08 * level + ease + rng.normal(0, 0.05)
                rows.append(
                    common
                    | {"method": method, "seed": 0, "prompt": prompt.id}
                    | {"category": prompt.category, "image": file, "metric": metric}
                    | {"value": min(value, 1.0)}
                )
    Samples(
        folder=samples, images=tuple(entries), method=method, subject=subject.name,
        class_noun=subject.class_noun, kind=subject.kind,
    ).write()  # fmt: skip
    checkpoint.mkdir()
    losses = list(0.4 * np.exp(-np.arange(60) / 20) + 0.1 + rng.normal(0, 0.02, 60))
    (checkpoint / Training.FILE).write_text(json.dumps({"losses": losses}))
    return rows


if __name__ == "__main__":
    typer.run(main)

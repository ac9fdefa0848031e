"""A finished output folder as the stages leave it, with numbers that a test chooses."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from dbbench.data.prompt import load_prompts
from dbbench.evaluation.scores import REAL, score_table, write_parts
from dbbench.reports import print_leaderboard
from dbbench.storage.run_folder import (
    ClassImages,
    References,
    Samples,
    Training,
    checkpoint_folder,
    prior_folder,
    references_folder,
    samples_folder,
)
from dbbench.suites.runs import Run
from dbbench.suites.suite import Suite

BANNER = "mini: embedded world, not comparable with published numbers"
METHODS = ("dreambooth", "textual_inversion")
ENCODERS = {"dino": "mini-dino", "clip": "mini-clip"}
PUBLISHED_ENCODERS = {
    "dino": "timm:vit_small_patch16_224.dino",
    "clip": "open_clip:ViT-B-32:openai",
}
DOGS = ("dog", "dog2", "dog3", "dog5", "dog6", "dog7", "dog8", "cat", "cat2")
MakeRun = Callable[..., Path]


def picture(seed: int, side: int) -> Image.Image:
    """Noise in large squares, the same for the same seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, size=(4, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)


def write_pictures(folder: Path, name: str, document: dict[str, Any], side: int) -> None:
    """Write the images that a document lists, then the document."""
    for number, entry in enumerate(document["images"]):
        path = folder / entry["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, side).save(path)
    (folder / name).write_text(json.dumps(document))


def write_run(
    out: Path,
    *,
    banner: str | None = BANNER,
    subjects: tuple[str, ...] = ("dog", "teapot"),
    skip: tuple[tuple[str, str], ...] = (),
    methods: tuple[str, ...] = METHODS,
    side: int = 16,
    prompts: int = 3,
    credit: str = "photo by {number} (CC0)",
    seeds: tuple[int, ...] = (0,),
    level: Mapping[str, float] | None = None,
    spread: float = 0.0,
    drift: int = 0,
    suite: Mapping[str, Any] | None = None,
) -> Path:
    """Write an output folder, scores included.

    `level` gives a method's distance below the best by its name, else by its place; `spread` adds
    noise by subject and seed; `suite` replaces keys of the suite.
    """
    rows: list[dict[str, Any]] = []
    noise = np.random.default_rng(sum(map(ord, out.name)))
    for subject in subjects:
        common = {"suite": "s", "subject": subject, "class_noun": "dog", "kind": "live"}
        files = [f"{number:02d}.png" for number in range(3)]
        images = [
            {"file": file, "sha256": f"{subject}{file}", "credit": credit.format(number=n)}
            for n, file in enumerate(files)
        ]
        document = {"subject": subject, "class_noun": "dog", "kind": "live", "images": images}
        write_pictures(out / references_folder(subject), References.FILE, document, side)
        nothing = {"seed": None, "prompt": None, "category": None, "method": REAL}
        for number, file in enumerate(files):
            values = {"image": file, "metric": "dino", "value": 0.7 + number / 100}
            rows.append(common | nothing | values)
        for place, method in enumerate(methods):
            if (method, subject) in skip:
                continue
            below = (level or {}).get(method, 0.1 * place)
            for seed in seeds:
                shift = float(noise.normal(0, spread)) if spread else 0.0
                images = []
                for template in load_prompts(True)[:prompts]:
                    text = template.render("", "dog")
                    for number in range(2):
                        file = f"{template.id}/{number}.png"
                        entry = {"file": file, "prompt": template.id, "number": number}
                        images.append(entry | {"text": text, "category": template.category})
                        row = common | {"method": method, "seed": seed, "image": file}
                        row |= {"prompt": template.id, "category": template.category}
                        for metric in ("dino", "clip-i", "clip-t"):
                            value = 0.6 - below + shift + number / 50
                            rows.append(row | {"metric": metric, "value": value})
                for number in range(drift):
                    file = f"class-noun/{number}.png"
                    entry = {"file": file, "prompt": "class-noun", "number": number}
                    images.append(entry | {"text": "a dog", "category": "class"})
                run = Run(method, subject, seed)
                folder = out / samples_folder(run)
                write_pictures(folder, Samples.FILE, {"images": images}, side)
                losses = {"losses": [1.0 / step for step in range(1, 21)]}
                checkpoint = out / checkpoint_folder(run) / Training.FILE
                checkpoint.parent.mkdir(exist_ok=True)
                checkpoint.write_text(json.dumps(losses))
    if drift:
        images = [{"file": f"{number:04d}.png"} for number in range(3)]
        write_pictures(out / prior_folder("dog"), ClassImages.FILE, {"images": images}, side)
    write_parts([score_table(rows)], out / "scores.parquet")
    values: dict[str, Any] = {
        "name": "mini" if banner else "paper",
        "banner": banner,
        "source": "mini",
        "backbone": {"path": "somewhere", "resolution": side},
        "methods": {method: {} for method in methods},
        "encoders": ENCODERS if banner else PUBLISHED_ENCODERS,
        "prompts": {"first": prompts},
        "sample": {"images_per_prompt": 2},
    }
    chosen = Suite.model_validate(values | dict(suite or {}))
    selection = {"subjects": subjects, "methods": methods, "seeds": seeds}
    record: dict[str, Any] = {"suite": chosen.model_dump(mode="json"), "selection": selection}
    record |= {"source": "mini", "versions": {"dbbench": "0.1.0"}, "device": "cpu"}
    record["identities"] = {"backbone": {"fingerprint": "f00d" * 16}}
    (out / "suite.json").write_text(json.dumps(record))
    return out


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Return a function that writes a folder of the name `name` and takes what `write_run` does."""

    def make(*, name: str = "out", **options: Any) -> Path:
        return write_run(tmp_path / name, **options)

    return make


def text_of(out: Path) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    print_leaderboard(out, console)
    return console.export_text()


class Page(HTMLParser):
    """What a page asks for and says, and whether its tags close in order."""

    VOID = frozenset({"meta", "link", "img", "br", "input", "hr"})

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.folder = path.parent
        self.source = path.read_text(encoding="utf-8")
        self.links: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(self.source)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID and tag != "rect":
            self._open.append(tag)
        for name, value in attrs:
            if name in {"src", "href", "action", "srcset"} and value:
                self.links.append(value)
            if name == "style":
                self.links += re.findall(r"url\('([^']*)'\)", value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def files(self) -> list[str]:
        return [link for link in self.links if not link.startswith(("#", "data:"))]

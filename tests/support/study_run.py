"""A finished run's folder as the stages leave it, for the tests of the study: tiny real images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dbbench.data.prompt import load_prompts
from dbbench.evaluation.scores import REAL, score_table, write_parts
from dbbench.storage.run_folder import References, Samples, references_folder, samples_folder
from dbbench.suites.runs import Run

BANNER = "mini: embedded world, not comparable with published numbers"
NOUNS = {"dog": "dog", "dog2": "dog", "teapot": "teapot", "vase": "vase"}


def write_run(
    out: Path,
    *,
    methods: tuple[str, ...] = ("dreambooth", "textual_inversion"),
    subjects: tuple[str, ...] = ("dog", "teapot", "vase"),
    prompts: int = 6,
    images: int = 3,
    credit: str = "photo by {number} (CC0)",
    banner: str | None = BANNER,
) -> Path:
    """Write samples, references, scores and suite.json. The first method scores highest."""
    rng = np.random.default_rng(len(methods))
    rows: list[dict[str, Any]] = []
    for subject in subjects:
        noun, live = NOUNS[subject], subject.startswith("dog")
        common = {"suite": "mini", "subject": subject, "class_noun": noun}
        common["kind"] = "live" if live else "object"
        entries = [
            {"file": f"{n:02d}.png", "sha256": f"{subject}{n}", "credit": credit.format(number=n)}
            for n in range(3)
        ]
        folder = out / references_folder(subject)
        _write(folder, References.FILE, common | {"images": entries}, rng)
        nothing = {"method": REAL, "seed": None, "prompt": None, "category": None}
        rows += [
            common | nothing | {"image": entry["file"], "metric": "dino", "value": 0.9}
            for entry in entries
        ]
        for level, method in enumerate(methods):
            files = [
                {
                    "file": f"{prompt.id}/{number}.png",
                    "prompt": prompt.id,
                    "number": number,
                    "text": prompt.render("", noun),
                }
                for prompt in load_prompts(live)[:prompts]
                for number in range(images)
            ]
            document = common | {"method": method, "seed": 0, "images": files}
            folder = out / samples_folder(Run(method, subject, 0))
            _write(folder, Samples.FILE, document, rng)
            for file in files:
                row = common | {"method": method, "seed": 0, "prompt": file["prompt"]}
                row |= {"category": "recontextualization", "image": file["file"]}
                for metric in ("dino", "clip-t"):
                    value = 0.7 - 0.1 * level + float(rng.normal(0, 0.05))
                    rows.append(row | {"metric": metric, "value": value})
    write_parts([score_table(rows)], out / "scores.parquet")
    (out / "suite.json").write_text(json.dumps({"suite": {"name": "mini", "banner": banner}}))
    return out


def _write(folder: Path, name: str, document: dict[str, Any], rng: np.random.Generator) -> None:
    for entry in document["images"]:
        path = folder / entry["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, size=(4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((24, 24), Image.Resampling.NEAREST).save(path)
    (folder / name).write_text(json.dumps(document))

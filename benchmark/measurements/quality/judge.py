"""Measures how often images of the embedded world show what their prompts ask for.

    python benchmark/measurements/quality/judge.py backbone --images 4
    python benchmark/measurements/quality/judge.py run results/mini

`backbone` samples the embedded backbone itself, with each of the 15 class nouns in each of its
prompts ("a dog in the jungle"). `run` reads the samples of a finished run. The judge
(dbbench.mini.judge) classifies what an image shows; no score is computed from it.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track

from dbbench.data.prompt import PromptTemplate, load_prompts
from dbbench.mini.drawing.nouns import LIVE, NOUNS
from dbbench.mini.judge import judge_images, load_judge
from dbbench.storage.run_folder import runs_in, samples_of

app = typer.Typer(add_completion=False, help=__doc__)
console = Console()


@app.command()
def backbone(
    images: Annotated[int, typer.Option(help="Images per class noun and prompt.")] = 4,
    out: Annotated[Path | None, typer.Option(help="Write the numbers to this JSON file.")] = None,
    sheet: Annotated[Path | None, typer.Option(help="Write a contact sheet (PNG).")] = None,
) -> None:
    """Judge the embedded backbone's own samples."""
    from dbbench.generation.backbone import load_backbone
    from dbbench.suites.suite import load_suite

    suite = load_suite("mini")
    model = load_backbone("mini", resolution=64, device="cpu")
    asked = [(noun, p) for noun in NOUNS for p in load_prompts(noun in LIVE) for _ in range(images)]
    texts = [p.render("", noun) for noun, p in asked]
    made = model.sample(texts, seeds=range(len(texts)), settings=suite.sample)
    pictures = list(track(made, "sampling", total=len(texts)))
    if sheet is not None:
        _sheet(pictures[::images], 25).save(sheet)
    _report({"backbone": _rows(asked, pictures)}, out)


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(help="A finished output folder of suite mini.")],
    out: Annotated[Path | None, typer.Option(help="Write the numbers to this JSON file.")] = None,
) -> None:
    """Judge every sample of a finished run, method by method."""
    prompts = {p.id: p for live in (False, True) for p in load_prompts(live)}
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for each in track(runs_in(folder), "judging"):
        if samples := samples_of(folder, each):
            pictures = [Image.open(path).convert("RGB") for path in samples.paths]
            asked = [(samples.class_noun, prompts[image.prompt]) for image in samples.images]
            rows[each.method] += _rows(asked, pictures)
    _report(rows, out)


def _rows(
    asked: Iterable[tuple[str, PromptTemplate]], pictures: list[Image.Image]
) -> list[dict[str, Any]]:
    judge = load_judge()
    return [
        {
            "noun": noun,
            "prompt": prompt.id,
            "category": prompt.category,
            "right_noun": judgement.shows_noun(noun),
            "right_prompt": judgement.shows_prompt(prompt),
        }
        for (noun, prompt), judgement in zip(asked, judge_images(judge, pictures), strict=True)
    ]


def _report(rows: dict[str, list[dict[str, Any]]], out: Path | None) -> None:
    result: dict[str, Any] = {}
    for name, some in rows.items():
        table = pd.DataFrame(some)
        by = {
            column: table.groupby(column)[["right_noun", "right_prompt"]].mean().round(3)
            for column in ("category", "noun", "prompt")
        }
        result[name] = {
            "images": len(table),
            "right_noun": round(float(table["right_noun"].mean()), 4),
            "right_prompt": round(float(table["right_prompt"].mean()), 4),
            **{f"by_{column}": frame.to_dict("index") for column, frame in by.items()},
        }
        console.print(f"[bold]{name}[/bold] (mini: embedded world), {len(table)} images")
        console.print(
            f"  prompted place, outfit or property: {result[name]['right_prompt']:.1%}"
            f"   class noun: {result[name]['right_noun']:.1%}"
        )
        for frame in by.values():
            console.print(frame.to_string(), style="dim")
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _sheet(pictures: list[Image.Image], columns: int) -> Image.Image:
    step = 66
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * step, rows * step), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * step, i // columns * step))
    return sheet


if __name__ == "__main__":
    app()

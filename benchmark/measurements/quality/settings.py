"""Finds the training settings of suite `mini`, on subjects reserved for this purpose.

    python benchmark/measurements/quality/settings.py \\
        --out benchmark/measurements/results/mini-settings.csv

The candidates, their equal budget and the rule of choice are in `settings.toml`, next to this file.
Rows that are already in the output are not run again. Three rows are reference points, not methods:
the class noun alone, the unchanged references, and drawings of what the prompts ask for.
"""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from dbbench.data.prompt import PromptTemplate, load_prompts
from dbbench.evaluation.encoder import Encoder, load_encoder
from dbbench.evaluation.metric import evaluate_from, load_metric
from dbbench.generation.backbone import Backbone, load_backbone
from dbbench.generation.method import Concept, load_method
from dbbench.mini.drawing.nouns import LIVE, NOUNS
from dbbench.mini.drawing.world import (
    Identity,
    draw,
    draw_identity,
    draw_references,
    scene_for_prompt,
)
from dbbench.mini.judge import judge_images, load_judge
from dbbench.mini.source import identities
from dbbench.seeds import image_seed, prior_seed, train_seed
from dbbench.suites.suite import Suite, load_suite

PLAN = Path(__file__).with_suffix(".toml")
METHODS = ("dreambooth", "textual_inversion")
METRICS = ("dino", "clip-i", "clip-t")
KINDS = ("recontextualization", "accessory", "property")


def main(
    out: Annotated[Path, typer.Option(help="CSV of the results.")] = Path("mini-settings.csv"),
    plan: Annotated[Path, typer.Option(help="TOML file of the candidates.")] = PLAN,
) -> None:
    """Try every candidate on the reserved subjects, and print the choice for each method."""
    wanted = tomllib.loads(plan.read_text(encoding="utf-8"))
    suite = load_suite("mini")
    backbone = load_backbone("mini", resolution=64, device="cpu")
    encoders = {role: load_encoder(name, device="cpu") for role, name in suite.encoders.items()}
    subjects = draw_subjects(wanted["subjects"], wanted["seed"], suite, backbone)
    candidates: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in _REFERENCE_POINTS]
    candidates += [(method, settings) for method in METHODS for settings in wanted[method]]
    rows = [] if not out.exists() else pd.read_csv(out).to_dict("records")
    done = {(row["method"], row["settings"]) for row in rows}
    with Progress(console=Console(stderr=True)) as bar:
        for method, settings in bar.track(candidates, description="candidates"):
            key = (method, json.dumps(settings, sort_keys=True))
            if key in done:
                continue
            if method in METHODS:
                # Candidates must not depend on earlier choices in the suite.
                varied = {key for candidate in wanted[method] for key in candidate}
                common = {k: v for k, v in suite.methods[method].items() if k not in varied}
                make = partial(_train_and_sample, method, common | settings, suite, backbone)
            else:
                make = partial(_REFERENCE_POINTS[method], suite, backbone)
            scores = pd.DataFrame(
                [_try(make, subject, wanted["images_per_prompt"], encoders) for subject in subjects]
            )
            rows.append({"method": key[0], "settings": key[1], **scores.mean().round(4).to_dict()})
            pd.DataFrame(rows).to_csv(out, index=False)
    table = rate(pd.DataFrame(rows))
    table.to_csv(out, index=False)
    print(f"mini: embedded world; {len(subjects)} subjects that are not among the 30")
    print(table.to_string(index=False))
    for method in METHODS:
        chosen = choose(
            table[table["method"] == method], lowest=wanted["lowest"], level=wanted["level"]
        )
        print(f"{method}: {chosen}")


def choose(candidates: pd.DataFrame, *, lowest: float, level: float) -> str:
    """Return the settings with the highest rating among those that show every kind of prompt.

    Of ratings within `level` of the highest, the first in the list is chosen.
    """
    shown = candidates[candidates["judge_lowest"] >= lowest]
    if shown.empty:
        return f"none shows every kind of prompt in {lowest:.0%} of the images"
    best = shown[shown["rating"] >= shown["rating"].max() - level]
    return str(best["settings"].iloc[0])


def rate(table: pd.DataFrame) -> pd.DataFrame:
    """Add the columns that the rule of choice uses, each from 0 to 1 (see settings.toml)."""
    scores = table.set_index("method")
    bare, copy = scores.loc["class noun alone"], scores.loc["references given back"]
    ends = {"dino": (bare, copy), "clip-i": (bare, copy), "clip-t": (copy, bare)}
    within = {
        name: (table[name] - low[name]) / (high[name] - low[name])
        for name, (low, high) in ends.items()
    }
    table["subject"] = (within["dino"] + within["clip-i"]) / 2
    table["prompt"] = within["clip-t"]
    kinds = [f"judge_{kind}" for kind in KINDS]
    table["judge_lowest"] = table[kinds].min(axis=1)
    table["rating"] = (table["subject"] + table["prompt"]) / 2
    return table.round(4)


ReservedSubject = tuple[Identity, Concept]
Job = tuple[PromptTemplate, int]
MakeImages = Callable[[ReservedSubject, Sequence[Job]], list[Image.Image]]


def draw_subjects(count: int, seed: int, suite: Suite, backbone: Backbone) -> list[ReservedSubject]:
    """Draw subjects with five references each, three in ten of them live, none among the 30."""
    rng = np.random.default_rng(seed)
    taken = {identity.key for identity in identities().values()}
    subjects = []
    for number in range(count):
        live = number < round(0.3 * count)
        nouns = [noun for noun in NOUNS if (noun in LIVE) == live]
        identity = _new_identity(nouns[number % len(nouns)], rng, taken)
        noun = identity.noun
        prior = backbone.sample(
            [suite.prior.prompt.format(class_noun=noun)] * suite.prior.count,
            seeds=[prior_seed(noun, n) for n in range(suite.prior.count)],
            settings=suite.prior.sampler,
        )
        references = tuple(map(draw, draw_references(identity, 5, rng)))
        concept = Concept(f"kept-{number}", noun, references, tuple(prior))
        subjects.append((identity, concept))
    return subjects


def _new_identity(noun: str, rng: np.random.Generator, taken: set[Any]) -> Identity:
    while True:
        identity = draw_identity(noun, rng)
        if identity.key not in taken:
            return identity


def _train_and_sample(
    name: str,
    settings: Mapping[str, Any],
    suite: Suite,
    backbone: Backbone,
    subject: ReservedSubject,
    jobs: Sequence[Job],
) -> list[Image.Image]:
    concept, method = subject[1], load_method(name, settings)
    seed = train_seed(0, concept.name)
    checkpoint = method.fit(concept, backbone, seed=seed, progress=lambda *_: None)
    prompts, seeds = [prompt for prompt, _ in jobs], _seeds(concept, jobs)
    images = method.generate(
        checkpoint, prompts, concept.class_noun, backbone, seeds=seeds, sample=suite.sample
    )
    return list(images)


def _class_noun_alone(
    suite: Suite, backbone: Backbone, subject: ReservedSubject, jobs: Sequence[Job]
) -> list[Image.Image]:
    concept = subject[1]
    texts = [prompt.render("", concept.class_noun) for prompt, _ in jobs]
    return list(backbone.sample(texts, seeds=_seeds(concept, jobs), settings=suite.sample))


def _references_given_back(
    suite: Suite, backbone: Backbone, subject: ReservedSubject, jobs: Sequence[Job]
) -> list[Image.Image]:
    images = subject[1].images
    return [images[number % len(images)] for number in range(len(jobs))]


def _drawn(
    suite: Suite, backbone: Backbone, subject: ReservedSubject, jobs: Sequence[Job]
) -> list[Image.Image]:
    identity, concept = subject
    seeds = _seeds(concept, jobs)
    return [
        draw(scene_for_prompt(identity, prompt, np.random.default_rng(seed)))
        for (prompt, _), seed in zip(jobs, seeds, strict=True)
    ]


_REFERENCE_POINTS: dict[str, Callable[..., list[Image.Image]]] = {
    "class noun alone": _class_noun_alone,
    "references given back": _references_given_back,
    "drawn as asked": _drawn,
}


def _seeds(concept: Concept, jobs: Sequence[Job]) -> list[int]:
    return [image_seed(0, concept.name, prompt.id, number) for prompt, number in jobs]


def _try(
    make: MakeImages,
    subject: ReservedSubject,
    images_per_prompt: int,
    encoders: Mapping[str, Encoder],
) -> dict[str, float]:
    """Generate one subject's images; return mean scores, the judge's results and seconds."""
    began = time.monotonic()
    concept = subject[1]
    prompts = load_prompts(concept.class_noun in LIVE)
    jobs = [(prompt, number) for prompt in prompts for number in range(images_per_prompt)]
    made = make(subject, jobs)
    result = {"seconds": time.monotonic() - began}
    texts = [prompt.render("", concept.class_noun) for prompt, _ in jobs]
    for metric in map(load_metric, METRICS):
        encoder = encoders[metric.role]
        values = evaluate_from(
            metric,
            [prompt.id for prompt, _ in jobs],
            images=partial(encoder.encode_images, made),
            references=partial(encoder.encode_images, concept.images),
            texts=partial(encoder.encode_texts, texts),
        )
        result[metric.name] = float(np.mean(values))
    judgements = judge_images(load_judge(), made)
    shown = [v.shows_prompt(prompt) for v, (prompt, _) in zip(judgements, jobs, strict=True)]
    result["judge_prompt"] = float(np.mean(shown))
    for kind in dict.fromkeys(prompt.category for prompt in prompts):
        of_kind = [s for s, (prompt, _) in zip(shown, jobs, strict=True) if prompt.category == kind]
        result[f"judge_{kind}"] = float(np.mean(of_kind))
    result["judge_noun"] = float(np.mean([v.shows_noun(concept.class_noun) for v in judgements]))
    return result


if __name__ == "__main__":
    typer.run(main)

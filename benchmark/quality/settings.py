"""Which settings should suite `mini` train its methods with? Tried on subjects kept for that.

    python benchmark/quality/settings.py --out benchmark/results/mini-settings.csv

The candidates, their equal budget and the rule of choice stand in `settings.toml`, beside this
file. A row that is in the output already is not run again.
"""

from __future__ import annotations

import json
import time
import tomllib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from PIL import Image
from rich.console import Console
from rich.progress import Progress

from dbbench.backbone import Backbone, load_backbone
from dbbench.encoder import Encoder
from dbbench.method import Concept
from dbbench.metric import Features
from dbbench.mini.judge import Judge, judge_images, load_judge
from dbbench.mini.nouns import LIVE, NOUNS
from dbbench.mini.source import identities
from dbbench.mini.world import Identity, draw, draw_identity, draw_scene
from dbbench.plugin import load_encoder, load_method, load_metric
from dbbench.prompt import load_prompts
from dbbench.seed import image_seed, prior_seed, train_seed
from dbbench.suite import Suite, load_suite

PLAN = Path(__file__).with_suffix(".toml")
METHODS = ("dreambooth", "textual_inversion")


def main(
    out: Annotated[Path, typer.Option(help="CSV of what was tried.")] = Path("mini-settings.csv"),
    plan: Annotated[Path, typer.Option(help="What to try.")] = PLAN,
) -> None:
    """Try every candidate on the subjects kept for it, and name each method's choice."""
    wanted = tomllib.loads(plan.read_text(encoding="utf-8"))
    suite = load_suite("mini")
    backbone = load_backbone("mini", resolution=64, device="cpu")
    encoders = {role: load_encoder(name, device="cpu") for role, name in suite.encoders.items()}
    concepts = draw_concepts(wanted["subjects"], wanted["seed"], suite, backbone)
    candidates = [(method, settings) for method in METHODS for settings in wanted[method]]
    rows = [] if not out.exists() else pd.read_csv(out).to_dict("records")
    done = {(row["method"], row["settings"]) for row in rows}
    with Progress(console=Console(stderr=True)) as bar:
        for method, settings in bar.track(candidates, description="candidates"):
            key = (method, json.dumps(settings, sort_keys=True))
            if key in done:
                continue
            common = {k: v for k, v in suite.methods[method].items() if k not in settings}
            try_one = partial(_try, method, common | settings, suite, backbone, encoders)
            judge, per_prompt = load_judge(), wanted["images_per_prompt"]
            scores = pd.DataFrame([try_one(concept, per_prompt, judge) for concept in concepts])
            rows.append({"method": key[0], "settings": key[1], **scores.mean().round(4).to_dict()})
            pd.DataFrame(rows).to_csv(out, index=False)
    table = pd.DataFrame(rows)
    table["mean"] = table[["dino", "clip-i", "clip-t"]].mean(axis=1).round(4)
    table.to_csv(out, index=False)
    print(f"mini: embedded world; {len(concepts)} subjects that are not among the 30")
    print(table.to_string(index=False))
    for method, some in table.groupby("method"):
        print(f"{method}: {some.loc[some['mean'].idxmax(), 'settings']}")


def draw_concepts(count: int, seed: int, suite: Suite, backbone: Backbone) -> list[Concept]:
    """Draw subjects with five references each, three in ten of them live, none among the 30."""
    rng = np.random.default_rng(seed)
    taken = {identity.key for identity in identities().values()}
    concepts = []
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
        references = tuple(draw(draw_scene(identity, rng)) for _ in range(5))
        concepts.append(Concept(f"kept-{number}", noun, references, tuple(prior)))
    return concepts


def _new_identity(noun: str, rng: np.random.Generator, taken: set[Any]) -> Identity:
    while True:
        identity = draw_identity(noun, rng)
        if identity.key not in taken:
            return identity


def _try(
    name: str,
    settings: Mapping[str, Any],
    suite: Suite,
    backbone: Backbone,
    encoders: Mapping[str, Encoder],
    concept: Concept,
    images_per_prompt: int,
    judge: Judge,
) -> dict[str, float]:
    """Train and sample one subject; its mean scores, what the judge found, and the seconds."""
    began = time.monotonic()
    method = load_method(name, settings)
    seed = train_seed(0, concept.name)
    checkpoint = method.fit(concept, backbone, seed=seed, progress=lambda *_: None)
    trained = time.monotonic()
    jobs = [
        (p, n) for p in load_prompts(concept.class_noun in LIVE) for n in range(images_per_prompt)
    ]
    made: list[Image.Image] = list(
        method.generate(
            checkpoint,
            [prompt for prompt, _ in jobs],
            concept.class_noun,
            backbone,
            seeds=[image_seed(0, concept.name, prompt.id, n) for prompt, n in jobs],
            sample=suite.sample,
        )
    )
    result = {"train_s": trained - began, "sample_s": time.monotonic() - trained}
    texts = [prompt.render("", concept.class_noun) for prompt, _ in jobs]
    for metric in [load_metric(m) for m in suite.metrics]:
        encoder = encoders[metric.role]
        features = Features(
            generated=encoder.encode_images(made),
            references=encoder.encode_images(concept.images),
            texts=encoder.encode_texts(texts) if metric.compares == "text" else None,
        )
        result[metric.name] = float(np.mean(metric.score(features)))
    verdicts = judge_images(judge, made)
    shown = [v.shows_prompt(prompt) for v, (prompt, _) in zip(verdicts, jobs, strict=True)]
    result["judge_prompt"] = float(np.mean(shown))
    result["judge_noun"] = float(np.mean([v.shows_noun(concept.class_noun) for v in verdicts]))
    return result


if __name__ == "__main__":
    typer.run(main)

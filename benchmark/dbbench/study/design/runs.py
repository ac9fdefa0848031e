"""Read finished runs for a study: samples, reference images, scores, banner; for `create`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from dbbench.errors import UserError
from dbbench.evaluation.metric import CLASS_PROMPT
from dbbench.evaluation.scores import read_scores
from dbbench.storage.record import Record
from dbbench.storage.run_folder import all_references, runs_in, samples_of
from dbbench.study.design.draw import StudySample
from dbbench.study.design.study import Pair


@dataclass(frozen=True)
class RealImage:
    """A reference image of a run."""

    run: str
    class_noun: str
    file: str
    sha256: str
    credit: str
    place: str


def name_runs(runs: Sequence[Path]) -> dict[str, Path]:
    """Name each run by its folder; add a number if two folders have the same name."""
    named: dict[str, Path] = {}
    for run in dict.fromkeys(path.resolve() for path in runs):
        name, number = run.name, 2
        while name in named:
            name, number = f"{run.name}-{number}", number + 1
        named[name] = run
    return named


def read_all(runs: Mapping[str, Path]) -> list[StudySample]:
    """Return the samples of all runs; equal method names of two runs get the run's name added."""
    samples = [sample for name, run in runs.items() for sample in read_samples(name, run)]
    homes: defaultdict[str, set[str]] = defaultdict(set)
    for sample in samples:
        homes[sample.method].add(sample.run)
    return [
        replace(sample, method=f"{sample.method} ({sample.run})")
        if len(homes[sample.method]) > 1
        else sample
        for sample in samples
    ]


def read_samples(name: str, run: Path) -> list[StudySample]:
    """Return every finished sample of a run's folder. Raises UserError if there is none."""
    samples = []
    for each in runs_in(run):
        if recorded := samples_of(run, each):
            samples += [
                StudySample(
                    run=name,
                    method=each.method,
                    subject=each.subject,
                    class_noun=recorded.class_noun,
                    seed=each.seed,
                    prompt=image.prompt,
                    text=image.text,
                    file=image.file,
                    place=str(recorded.path(image)),
                )
                for image in recorded.images
                # Images of the class noun alone show no subject.
                if image.prompt != CLASS_PROMPT
            ]
    if not samples:
        raise UserError(f"{run} holds no samples; make some with: dbbench run --out {run}")
    return samples


def read_references(runs: Mapping[str, Path]) -> dict[str, tuple[RealImage, ...]]:
    """Return the reference images by subject. Raises UserError if two runs differ in them."""
    found: dict[str, tuple[RealImage, ...]] = {}
    for name, run in runs.items():
        for subject, recorded in all_references(run).items():
            images = tuple(
                RealImage(
                    run=name,
                    class_noun=recorded.class_noun,
                    file=image.file,
                    sha256=image.sha256,
                    credit=image.credit,
                    place=str(recorded.path(image)),
                )
                for image in recorded.images
            )
            before = found.setdefault(subject, images)
            if [image.sha256 for image in before] != [image.sha256 for image in images]:
                raise UserError(
                    f'{before[0].run} and {name} have different reference images of "{subject}";'
                    " compare methods on the same ones only"
                )
    return found


def pair_scores(pairs: Sequence[Pair], name: str, file: Path) -> pd.DataFrame:
    """Return the scores of a run's images that are shown: image, metric, value."""
    scores = read_scores(file)
    wanted = pd.DataFrame(
        [
            {
                "method": candidate.method.removesuffix(f" ({name})"),
                "subject": pair.subject,
                "seed": candidate.seed,
                "image": candidate.file,
                "id": candidate.image,
            }
            for pair in pairs
            for candidate in (pair.left, pair.right)
            if candidate.run == name
        ],
        columns=["method", "subject", "seed", "image", "id"],
    ).drop_duplicates()
    joined = wanted.astype({"seed": "Int64"}).merge(
        scores, on=["method", "subject", "seed", "image"], how="inner"
    )
    table = joined[["id", "metric", "value"]].rename(columns={"id": "image"})
    return table.astype({"image": str, "metric": str})


def read_banner(roots: Mapping[str, Path]) -> str | None:
    """Return the banner that all results of these runs must show."""
    banners = [(Record(run).read().get("suite") or {}).get("banner") for run in roots.values()]
    return next((str(banner) for banner in banners if banner), None)

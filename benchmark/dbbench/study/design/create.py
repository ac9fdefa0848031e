"""Finished runs -> a folder with all that a study needs (`dbbench study create`)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dbbench.advance import Advance, silent
from dbbench.errors import UserError
from dbbench.seeds import stable_seed
from dbbench.storage.disk import storage_errors
from dbbench.storage.run_folder import SCORES
from dbbench.study.design.draw import StudySample, draw_pairs
from dbbench.study.design.pictures import Copier
from dbbench.study.design.runs import (
    RealImage,
    name_runs,
    pair_scores,
    read_all,
    read_banner,
    read_references,
)
from dbbench.study.design.secret import Secrets
from dbbench.study.design.study import (
    IMAGES,
    SCORES_FILE,
    Candidate,
    CreditedImage,
    Pair,
    Side,
    Study,
    StudyQuestion,
    Texts,
    save_study,
)

CHECKS = 20
"""Different attention checks in a study; each rater gets some of them."""


@dataclass(frozen=True)
class StudySettings:
    """The settings of a new study; `quota` None is computed from the other settings."""

    question: StudyQuestion
    pairs: int = 600
    raters_per_pair: int = 3
    questions_per_rater: int = 25
    checks_per_rater: int = 2
    quota: int | None = None
    lease_minutes: int = 60
    seed: int = 0


def create_study(
    runs: Sequence[Path],
    out: Path,
    settings: StudySettings,
    texts: Texts,
    advance: Advance = silent,
) -> Study:
    """Draw the pairs, copy their images under opaque ids, write the folder `out`; return the study.

    The folder appears only when it is complete. Raises UserError if it exists already, if a run has
    no samples, or if the settings cannot be met.
    """
    if out.exists():
        raise UserError(f"{out} exists already; choose another --out, or remove it")
    _check(settings)
    roots = name_runs(runs)
    samples = read_all(roots)
    real = read_references(roots)
    drawn = draw_pairs(samples, settings.pairs, seed=settings.seed)
    subjects = list(dict.fromkeys(left.subject for left, _ in drawn))
    if absent := [subject for subject in subjects if not real.get(subject)]:
        raise UserError(f'no reference images of "{absent[0]}"; rerun the same dbbench run')
    secrets = Secrets.new()
    folder = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    with storage_errors(out):
        (folder / IMAGES).mkdir(parents=True)
        try:
            copier = Copier(folder / IMAGES, secrets)
            pairs = []
            for number, (left, right) in enumerate(drawn, 1):
                pairs.append(_pair(number, left, right, copier, secrets))
                advance(number, len(drawn), {})
            checks = _checks(settings, subjects, real, copier, secrets)
            references = {
                subject: tuple(
                    CreditedImage(image=copier.real(r), credit=r.credit) for r in real[subject]
                )
                for subject in subjects
            }
            needed = -(-settings.pairs * settings.raters_per_pair // settings.questions_per_rater)
            study = Study(
                id=secrets.opaque("study", length=16),
                question=settings.question,
                banner=read_banner(roots),
                runs=tuple(roots),
                methods=tuple(sorted({method for pair in pairs for method in pair.methods})),
                seed=settings.seed,
                raters_per_pair=settings.raters_per_pair,
                questions_per_rater=settings.questions_per_rater,
                checks_per_rater=settings.checks_per_rater,
                quota=needed + needed // 4 + 1 if settings.quota is None else settings.quota,
                lease_minutes=settings.lease_minutes,
                texts=texts,
                pairs=tuple(pairs),
                checks=tuple(checks),
                references=references,
                images=copier.files,
                side=copier.side,
            )
            save_study(study, folder)
            secrets.save(folder)
            _write_scores(roots, study, folder)
            os.replace(folder, out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return study


def _check(settings: StudySettings) -> None:
    for name in ("pairs", "raters_per_pair", "questions_per_rater", "lease_minutes"):
        value = getattr(settings, name)
        if value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}; it must be 1 or more")
    if settings.checks_per_rater < 0 or settings.checks_per_rater > CHECKS:
        raise UserError(f"--checks is {settings.checks_per_rater}; it must be 0 to {CHECKS}")
    if settings.quota is not None and settings.quota < 0:
        raise UserError(f"--quota is {settings.quota}; it must be 0 or more")
    if settings.questions_per_rater > settings.pairs:
        raise UserError(
            f"{settings.questions_per_rater} questions per rater need as many different pairs, but"
            f" there are only {settings.pairs}; raise --pairs"
        )


def _pair(
    number: int, left: StudySample, right: StudySample, copier: Copier, secrets: Secrets
) -> Pair:
    def candidate(sample: StudySample) -> Candidate:
        return Candidate(
            image=copier.copy(Path(sample.place)),
            method=sample.method,
            run=sample.run,
            seed=sample.seed,
            file=sample.file,
        )

    return Pair(
        id=secrets.opaque("pair", number),
        subject=left.subject,
        class_noun=left.class_noun,
        prompt=left.prompt,
        text=left.text,
        left=candidate(left),
        right=candidate(right),
    )


def _checks(
    settings: StudySettings,
    subjects: Sequence[str],
    real: Mapping[str, tuple[RealImage, ...]],
    copier: Copier,
    secrets: Secrets,
) -> list[Pair]:
    """Make the attention checks: a real image of the subject beside one of another class noun.

    If the study has one class noun only, the wrong image is the right one with its tiles mixed.
    """
    if not settings.checks_per_rater:
        return []
    rng = np.random.default_rng(stable_seed("study checks", settings.seed))
    checks = []
    for number in range(CHECKS):
        subject = subjects[number % len(subjects)]
        right_one = real[subject][rng.integers(len(real[subject]))]
        others = [
            image
            for name in subjects  # The study shows the credits of these.
            for image in real[name]
            if image.class_noun != right_one.class_noun
        ]
        if others:
            other = others[rng.integers(len(others))]
            wrong = _check_image(copier.real(other), other)
        else:
            wrong = _check_image(copier.mixed(right_one, rng), right_one)
        right = _check_image(copier.real(right_one), right_one)
        answer: Side = "left" if rng.random() < 0.5 else "right"
        noun = right_one.class_noun
        checks.append(
            Pair(
                id=secrets.opaque("check", number),
                subject=subject,
                class_noun=noun,
                prompt="",
                text=f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}",
                left=right if answer == "left" else wrong,
                right=wrong if answer == "left" else right,
                answer=answer,
            )
        )
    return checks


def _check_image(image: str, source: RealImage) -> Candidate:
    return Candidate(image=image, method="", run=source.run, seed=None, file=source.file)


def _write_scores(roots: Mapping[str, Path], study: Study, folder: Path) -> None:
    """Save the automatic scores of the images that are shown: image, metric, value."""
    scored = {name: run / SCORES for name, run in roots.items() if (run / SCORES).is_file()}
    if scored:
        tables = [pair_scores(study.pairs, name, file) for name, file in scored.items()]
        pd.concat(tables, ignore_index=True).to_parquet(folder / SCORES_FILE, index=False)

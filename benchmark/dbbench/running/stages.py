"""The stages from references to features: each reads the artifact before it and makes its own."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from dbbench.advance import Advance, silent
from dbbench.data.dataset import Dataset
from dbbench.data.subject import Subject
from dbbench.errors import UserError
from dbbench.evaluation.encoder import Distance, say_cut_texts
from dbbench.evaluation.features import FeatureStore
from dbbench.evaluation.one_colour import is_of_one_colour, say_of_one_colour
from dbbench.files import fingerprint
from dbbench.generation.resume import SaveInterval, Saves
from dbbench.interrupts import Stop
from dbbench.planning.task import ImageJob
from dbbench.running.images import open_image, sample_into, save_png
from dbbench.seeds import prior_seed, stable_seed, train_seed
from dbbench.storage.artifact import Artifact
from dbbench.storage.run_folder import (
    ClassImage,
    ClassImages,
    Reference,
    References,
    Sample,
    Samples,
    images_in,
)
from dbbench.suites.rows import SuiteRow
from dbbench.suites.runs import Run
from dbbench.suites.suite import PriorSettings
from dbbench.versions import versions

if TYPE_CHECKING:
    from dbbench.evaluation.encoder import Encoder
    from dbbench.generation.backbone import Backbone
    from dbbench.generation.method import Checkpoint, Concept, Method
    from dbbench.suites.sampling import SampleSettings

log = logging.getLogger(__name__)


def references(artifact: Artifact, subject: Subject, dataset: Dataset, resolution: int) -> int:
    """Write the subject's images as PNG, with credit and truth; return how many."""
    images = dataset.images(subject, resolution)
    with artifact.create() as folder:
        entries = []
        for number, each in enumerate(images):
            file = f"{number:02d}.png"
            save_png(each.image, folder / file)
            entries.append(
                Reference(
                    file=file,
                    name=each.name,
                    sha256=each.sha256,
                    credit=each.credit,
                    truth=each.truth,
                )
            )
        References(
            folder=folder, images=tuple(entries),
            subject=subject.name, class_noun=subject.class_noun, kind=subject.kind,
        ).write()  # fmt: skip
    return len(images)


def prior(
    artifact: Artifact,
    class_noun: str,
    settings: PriorSettings,
    backbone: Backbone,
    advance: Advance = silent,
) -> int:
    """Sample the class images of the prior-preservation loss from the frozen backbone."""
    files = [f"{number:04d}.png" for number in range(settings.count)]
    seeds = [prior_seed(class_noun, number) for number in range(settings.count)]
    prompt = settings.prompt.format(class_noun=class_noun)

    def sample(start: int) -> Iterator[Image.Image]:
        prompts = [prompt] * (settings.count - start)
        return backbone.sample(prompts, seeds=seeds[start:], settings=settings.sampler)

    with artifact.create(resume=True) as folder:
        backbone.restore()
        made = sample_into(folder, files, sample, settings.sampler.batch_size, advance)
        _of_one_colour(folder, files, f'class images of "{class_noun}"')
        entries = [ClassImage(file=f, seed=seed) for f, seed in zip(files, seeds, strict=True)]
        ClassImages(
            folder=folder, images=tuple(entries), class_noun=class_noun, prompt=prompt
        ).write()
    return made


def train(
    artifact: Artifact,
    run: Run,
    subject: Subject,
    method: Method,
    backbone: Backbone,
    *,
    references: Artifact,
    prior: Artifact | None,
    row: SuiteRow,
    advance: Advance = silent,
    interval: SaveInterval | None = None,
    stop: Stop | None = None,
) -> int:
    """Fit the method to the subject's references; return the number of steps that were taken.

    A method that can go on in the middle (`resumable`) keeps its state in between, every
    `interval` and when asked to `stop`. Where training stops at a loss that is no number, the
    state before it is kept beside the artifact, in the folder last_good.
    """
    from dbbench.generation.method import Diverged

    steps = 0

    def count(done: int, total: int, figures: Mapping[str, Any], /) -> None:
        nonlocal steps
        steps = done
        advance(done, total, figures)

    seed = train_seed(run.seed, run.subject)
    seed_everything(seed)
    backbone.restore()
    kept = artifact.path.with_name("last_good")
    shutil.rmtree(kept, ignore_errors=True)
    with artifact.create(resume=True) as folder:
        concept = _concept(subject, references, prior, row, folder)
        saves = Saves(folder, _key([artifact]), interval or SaveInterval(), stop or Stop())
        own: dict[str, Any] = {"saves": saves} if resumable(method) else {}
        try:
            checkpoint = method.fit(concept, backbone, seed=seed, progress=count, **own)
        except Diverged as error:
            saves.clear()
            error.checkpoint.save(kept)
            raise UserError(f"{error}; the state before that step is kept in {kept}") from error
        _save(checkpoint, concept, method, folder)
    return steps - saves.resumed_at


def train_together(
    artifacts: Sequence[Artifact],
    runs: Sequence[Run],
    subjects: Sequence[Subject],
    method: Method,
    backbone: Backbone,
    *,
    references: Sequence[Artifact],
    row: SuiteRow,
    advance: Advance = silent,
    interval: SaveInterval | None = None,
    stop: Stop | None = None,
) -> int:
    """Fit a method that has `fit_many` to several subjects side by side; return the steps of one.

    Nothing is written where one of them fails. The state in between, which is that of all, lies
    with the first.
    """
    fit_many = method.fit_many  # type: ignore[attr-defined]
    steps = 0

    def count(done: int, total: int, figures: Mapping[str, Any], /) -> None:
        nonlocal steps
        steps = done
        advance(done, total, figures)

    backbone.restore()
    with ExitStack() as stack:
        folders = [stack.enter_context(a.create(resume=a == artifacts[0])) for a in artifacts]
        concepts = [
            _concept(subject, images, None, row, folder)
            for subject, images, folder in zip(subjects, references, folders, strict=True)
        ]
        seeds = [train_seed(run.seed, run.subject) for run in runs]
        saves = Saves(folders[0], _key(artifacts), interval or SaveInterval(), stop or Stop())
        # What the others have written on the way would not be there any more.
        goes_on = resumable(method) and not row.snapshots
        own: dict[str, Any] = {"saves": saves} if goes_on else {}
        checkpoints = fit_many(concepts, backbone, seeds=seeds, progress=count, **own)
        for checkpoint, concept, folder in zip(checkpoints, concepts, folders, strict=True):
            _save(checkpoint, concept, method, folder)
    return steps - saves.resumed_at


def resumable(method: Method) -> bool:
    """Whether a method's training can go on in the middle: `fit` takes `saves`."""
    return "saves" in signature(method.fit).parameters


def sample(
    artifact: Artifact,
    run: Run,
    subject: Subject,
    method: Method,
    backbone: Backbone,
    *,
    checkpoint: Artifact,
    settings: SampleSettings,
    jobs: Sequence[ImageJob],
    row: SuiteRow,
    advance: Advance = silent,
) -> int:
    """Sample the run's images; return how many of them were not there from an interrupted try."""
    from dbbench.generation.method import Checkpoint

    def generate(start: int) -> Iterator[Image.Image]:
        seed_everything(stable_seed("generate", run.seed, run.subject, start))
        backbone.restore()
        return iter(
            method.generate(
                Checkpoint.load(checkpoint.path, at=row.at),
                [job.prompt for job in jobs[start:]],
                row.noun(subject),
                backbone,
                seeds=[job.seed for job in jobs[start:]],
                sample=settings,
            )
        )

    with artifact.create(resume=True) as folder:
        files = [job.file for job in jobs]
        made = sample_into(folder, files, generate, settings.batch_size, advance)
        blank = _of_one_colour(folder, files, f"images of {run}")
        entries = [
            Sample(
                file=job.file, prompt=job.prompt.id, category=job.prompt.category,
                number=job.number, seed=job.seed, text=job.prompt.render("", subject.class_noun),
                one_colour=job.file in blank,
            )
            for job in jobs
        ]  # fmt: skip
        Samples(
            folder=folder, images=tuple(entries), method=run.method, subject=run.subject,
            class_noun=subject.class_noun, kind=subject.kind, seed=run.seed,
        ).write()  # fmt: skip
    return made


def encode(
    artifact: Artifact,
    images: Artifact,
    encoder: Encoder | Distance,
    *,
    texts: bool = False,
    store: FeatureStore | None = None,
    advance: Advance = silent,
) -> int:
    """Write the encoder's vectors of an artifact's images, and with `texts` of their prompts.

    `images` are references or samples; row i belongs to entry i of its JSON file. Vectors are
    float32 of unit norm, images.npy (N, D) and texts.npy (N, D); of a distance network it is
    distances.npy (N, N). What the store has is not made again.
    """
    store = store or FeatureStore()
    recorded = images_in(images)
    if isinstance(encoder, Distance):
        compared = store.distances(encoder, recorded.paths, advance=advance)
        for path, problem in compared.refused.items():
            raise UserError(f"{path} {problem}; run the same dbbench run again")
        with artifact.create() as folder:
            np.save(folder / "distances.npy", compared.matrix.astype(np.float32))
        return len(recorded.images)
    encoded = store.encode_images(encoder, recorded.paths, advance=advance)
    for path, problem in encoded.refused.items():
        raise UserError(f"{path} {problem}; run the same dbbench run again")
    with artifact.create() as folder:
        np.save(folder / "images.npy", encoded.vectors)
        if texts and isinstance(recorded, Samples):
            written = [sample.text for sample in recorded.images]
            if line := say_cut_texts(encoder, written):
                log.warning("%s", line)
            vectors = store.encode_texts(encoder, written)
            np.save(folder / "texts.npy", vectors)
    return len(recorded.images)


def seed_everything(seed: int) -> None:
    """Seed the global generators, for methods that draw from them in spite of their `seed`."""
    import random

    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the legacy generator is the global one
    torch.manual_seed(seed)


def _of_one_colour(folder: Path, files: Sequence[str], whose: str) -> set[str]:
    """Return which of the images show nothing, and say how many."""
    blank = {file for file in files if is_of_one_colour(open_image(folder / file))}
    if blank:
        log.warning("%s", say_of_one_colour(len(blank), len(files), whose))
    return blank


def _key(artifacts: Sequence[Artifact]) -> str:
    """Return what a training's state depends on: what is trained, and with which packages."""
    return fingerprint([[artifact.fingerprint for artifact in artifacts], versions()])


def _concept(
    subject: Subject, references: Artifact, prior: Artifact | None, row: SuiteRow, folder: Path
) -> Concept:
    from dbbench.generation.method import Concept, snapshot_folder

    class_images = () if prior is None else _load_images(prior)
    return Concept(
        name=subject.name,
        class_noun=row.noun(subject),
        images=_load_images(references)[: row.references],
        prior_images=class_images[: row.prior_images],
        snapshots={share: snapshot_folder(folder, share) for share in row.snapshots},
    )


def _save(checkpoint: Checkpoint, concept: Concept, method: Method, folder: Path) -> None:
    checkpoint.save(folder)
    if any(not path.is_dir() for path in concept.snapshots.values()):
        raise UserError(
            f'{method.name} kept no checkpoints on its way, and rows with "at" look into them;'
            " leave those rows out"
        )


def _load_images(images: Artifact) -> tuple[Image.Image, ...]:
    return tuple(map(open_image, images_in(images).paths))

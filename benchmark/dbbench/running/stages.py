"""The stages references, prior, train, sample and encode: each reads artifacts and writes one."""

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
    from numpy.typing import NDArray

    from dbbench.evaluation.encoder import Encoder
    from dbbench.generation.backbone import Backbone
    from dbbench.generation.method import Concept, Method
    from dbbench.suites.sampling import SampleSettings

log = logging.getLogger(__name__)


def references(artifact: Artifact, subject: Subject, dataset: Dataset, resolution: int) -> int:
    """Write the subject's images as PNG, with credit and ground truth; return how many."""
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
    """Sample the class images of the prior-preservation loss from the frozen backbone.

    Returns the number of new images; those of an interrupted attempt are reused.
    """
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
    artifacts: Sequence[Artifact],
    runs: Sequence[Run],
    subjects: Sequence[Subject],
    method: Method,
    backbone: Backbone,
    *,
    references: Sequence[Artifact],
    prior: Artifact | None,
    row: SuiteRow,
    advance: Advance = silent,
    interval: SaveInterval | None = None,
    stop: Stop | None = None,
) -> int:
    """Fit the method to each run's references; return the number of steps taken.

    Several runs are trained together by the method's `fit_many`, with one saved state beside the
    first artifact, and no artifact is written if one of them fails. A resumable method saves its
    state every `interval` and when `stop` is requested. If the loss of a single run becomes NaN or
    infinite, the last good state is kept in the folder last_good beside the artifact.
    """
    from dbbench.generation.method import Diverged

    steps = 0

    def count(done: int, total: int, figures: Mapping[str, Any], /) -> None:
        nonlocal steps
        steps = done
        advance(done, total, figures)

    seeds = [train_seed(run.seed, run.subject) for run in runs]
    alone = len(runs) == 1
    kept = artifacts[0].path.with_name("last_good")
    if alone:
        seed_everything(seeds[0])
        shutil.rmtree(kept, ignore_errors=True)
    backbone.restore()
    with ExitStack() as stack:
        folders = [stack.enter_context(a.create(resume=a == artifacts[0])) for a in artifacts]
        concepts = [
            _concept(subject, images, prior, row, folder)
            for subject, images, folder in zip(subjects, references, folders, strict=True)
        ]
        key = fingerprint([[artifact.fingerprint for artifact in artifacts], versions()])
        saves = Saves(folders[0], key, interval or SaveInterval(), stop or Stop())
        # A new attempt has only the first folder, not the snapshots in the others.
        resumes = resumable(method) and (alone or not row.snapshots)
        own: dict[str, Any] = {"saves": saves} if resumes else {}
        if alone:
            try:
                fitted = method.fit(concepts[0], backbone, seed=seeds[0], progress=count, **own)
            except Diverged as error:
                saves.clear()
                error.checkpoint.save(kept)
                raise UserError(f"{error}; the state before that step is kept in {kept}") from error
            checkpoints = [fitted]
        else:
            fit_many = method.fit_many  # type: ignore[attr-defined]
            checkpoints = fit_many(concepts, backbone, seeds=seeds, progress=count, **own)
        for checkpoint, concept, folder in zip(checkpoints, concepts, folders, strict=True):
            checkpoint.save(folder)
            if any(not path.is_dir() for path in concept.snapshots.values()):
                raise UserError(
                    f'{method.name} saves no checkpoints during training, and rows with "at" need'
                    " them; leave those rows out"
                )
    return steps - saves.resumed_at


def resumable(method: Method) -> bool:
    """Return whether the method can resume an interrupted training: `fit` takes `saves`."""
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
    """Sample the run's images; return the number of new ones, as `prior` does."""
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
    """Write the encoder's vectors of an artifact's images and, with `texts`, of their prompts.

    `images` are references or samples; row i belongs to entry i of their JSON file. images.npy and
    texts.npy are ND float32 of unit norm; a distance network writes distances.npy, NN float32.
    Vectors in the `store` are not computed again. Returns the number of images.
    """
    store = store or FeatureStore()
    recorded = images_in(images)
    arrays: dict[str, NDArray[np.float32]] = {}
    if isinstance(encoder, Distance):
        compared = store.distances(encoder, recorded.paths, advance=advance)
        arrays["distances"], refused = compared.matrix.astype(np.float32), compared.refused
    else:
        encoded = store.encode_images(encoder, recorded.paths, advance=advance)
        arrays["images"], refused = encoded.vectors, encoded.refused
        if texts and isinstance(recorded, Samples):
            prompts = [sample.text for sample in recorded.images]
            if line := say_cut_texts(encoder, prompts):
                log.warning("%s", line)
            arrays["texts"] = store.encode_texts(encoder, prompts)
    for path, problem in refused.items():
        raise UserError(f"{path} {problem}; run the same dbbench run again")
    with artifact.create() as folder:
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array)
    return len(recorded.images)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch globally, for methods that ignore their `seed` argument."""
    import random

    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the legacy generator is the global one
    torch.manual_seed(seed)


def _of_one_colour(folder: Path, files: Sequence[str], whose: str) -> set[str]:
    """Return which of the images show nothing, and log how many."""
    blank = {file for file in files if is_of_one_colour(open_image(folder / file))}
    if blank:
        log.warning("%s", say_of_one_colour(len(blank), len(files), whose))
    return blank


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


def _load_images(images: Artifact) -> tuple[Image.Image, ...]:
    return tuple(map(open_image, images_in(images).paths))

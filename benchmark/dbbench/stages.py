"""The stages from references to features: each reads the artifact before it and makes its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from dbbench.artifact import Artifact, write_text
from dbbench.errors import UserError
from dbbench.features import FeatureStore
from dbbench.plan import ImageJob
from dbbench.progress import Advance, silent
from dbbench.seed import prior_seed, stable_seed, train_seed
from dbbench.subject import ImageSource, Subject
from dbbench.suite import PriorSettings, Run

if TYPE_CHECKING:
    from dbbench.backbone import Backbone
    from dbbench.encoder import Encoder
    from dbbench.method import Method
    from dbbench.sampling import SampleSettings

PNG_COMPRESSION = 1  # Level 6 takes five times as long for files a tenth smaller.


def references(artifact: Artifact, subject: Subject, source: ImageSource) -> int:
    """Write the subject's images as PNG, with credit and truth; return how many."""
    images = source.load(subject)
    with artifact.create() as folder:
        entries = []
        for number, reference in enumerate(images):
            file = f"{number:02d}.png"
            _save_png(reference.image, folder / file)
            entries.append(
                {
                    "file": file,
                    "name": reference.name,
                    "sha256": reference.sha256,
                    "credit": reference.credit,
                    "truth": reference.truth,
                }
            )
        document = {
            "subject": subject.name,
            "class_noun": subject.class_noun,
            "kind": subject.kind,
            "images": entries,
        }
        _write_json(folder / "references.json", document)
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
        made = _sample_into(folder, files, sample, settings.sampler.batch_size, advance)
        entries = [{"file": file, "seed": seed} for file, seed in zip(files, seeds, strict=True)]
        document = {"class_noun": class_noun, "prompt": prompt, "images": entries}
        _write_json(folder / "prior.json", document)
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
    advance: Advance = silent,
) -> int:
    """Fit the method to the subject's references; return the number of steps."""
    from dbbench.method import Concept

    concept = Concept(
        name=subject.name,
        class_noun=subject.class_noun,
        images=tuple(_load_images(references.path)),
        prior_images=() if prior is None else tuple(_load_images(prior.path)),
    )
    steps = 0

    def count(done: int, total: int, figures: Mapping[str, Any], /) -> None:
        nonlocal steps
        steps = done
        advance(done, total, figures)

    seed = train_seed(run.seed, run.subject)
    seed_everything(seed)
    backbone.restore()
    checkpoint = method.fit(concept, backbone, seed=seed, progress=count)
    with artifact.create() as folder:
        checkpoint.save(folder)
    return steps


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
    advance: Advance = silent,
) -> int:
    """Sample the run's images; return how many of them were not there from an interrupted try."""
    from dbbench.method import Checkpoint

    def generate(start: int) -> Iterator[Image.Image]:
        seed_everything(stable_seed("generate", run.seed, run.subject, start))
        backbone.restore()
        return iter(
            method.generate(
                Checkpoint.load(checkpoint.path),
                [job.prompt for job in jobs[start:]],
                subject.class_noun,
                backbone,
                seeds=[job.seed for job in jobs[start:]],
                sample=settings,
            )
        )

    with artifact.create(resume=True) as folder:
        files = [job.file for job in jobs]
        made = _sample_into(folder, files, generate, settings.batch_size, advance)
        entries = [
            {
                "file": job.file,
                "prompt": job.prompt.id,
                "category": job.prompt.category,
                "number": job.number,
                "seed": job.seed,
                "text": job.prompt.render("", subject.class_noun),
            }
            for job in jobs
        ]
        document = {
            "method": run.method,
            "subject": run.subject,
            "class_noun": subject.class_noun,
            "kind": subject.kind,
            "seed": run.seed,
            "images": entries,
        }
        _write_json(folder / "samples.json", document)
    return made


def encode(
    artifact: Artifact,
    images: Artifact,
    encoder: Encoder,
    *,
    texts: bool = False,
    store: FeatureStore | None = None,
    advance: Advance = silent,
) -> int:
    """Write the encoder's vectors of an artifact's images, and with `texts` of their prompts.

    `images` are references or samples; row i belongs to entry i of its JSON file. Vectors are
    float32 of unit norm, images.npy (N, D) and texts.npy (N, D). What the store has is not made
    again.
    """
    store = store or FeatureStore()
    entries = read_entries(images.path)
    encoded = store.encode_images(encoder, image_files(images), advance=advance)
    for path, problem in encoded.refused.items():
        raise UserError(f"{path} {problem}; run the same dbbench run again")
    with artifact.create() as folder:
        np.save(folder / "images.npy", encoded.vectors)
        if texts:
            vectors = store.encode_texts(encoder, [entry["text"] for entry in entries])
            np.save(folder / "texts.npy", vectors)
    return len(entries)


def image_files(images: Artifact) -> list[Path]:
    """Return the paths of an artifact's images, in the order of its JSON file."""
    return [images.path / entry["file"] for entry in read_entries(images.path)]


def read_entries(folder: Path) -> list[dict[str, Any]]:
    """Return what references.json, samples.json or prior.json in a folder says of each image."""
    for name in ("samples.json", "references.json", "prior.json"):
        if (folder / name).is_file():
            document = json.loads((folder / name).read_text(encoding="utf-8"))
            return list(document["images"])
    raise UserError(f"{folder} holds no images of a stage; run the same dbbench run again")


def seed_everything(seed: int) -> None:
    """Seed the global generators, for methods that draw from them in spite of their `seed`."""
    import random

    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - the legacy generator is the global one
    torch.manual_seed(seed)


def _sample_into(
    folder: Path,
    files: Sequence[str],
    generate: Callable[[int], Iterator[Image.Image]],
    batch_size: int,
    advance: Advance,
) -> int:
    """Write files[i] from the i-th image; go on after the whole batches that are there already.

    Batches keep their composition, so that an interrupted pass gives the same bits as one that
    was not: floating-point sums depend on what is computed side by side.
    """
    marker = folder / ".batch_size"
    present = 0
    if marker.is_file() and marker.read_text(encoding="ascii") == str(batch_size):
        present = sum(1 for _ in _leading(files, lambda file: _readable(folder / file)))
    start = len(files) if present == len(files) else present - present % batch_size
    marker.write_text(str(batch_size), encoding="ascii")
    if start == len(files):
        return 0
    advance(start, len(files), {})
    images = generate(start)
    for number, file in enumerate(files[start:], start + 1):
        image = next(images, None)
        if image is None:
            raise UserError(
                f"the method gave {number - 1} images where {len(files)} were asked for"
            )
        path = folder / file
        path.parent.mkdir(exist_ok=True)
        _save_png(image, path)
        advance(number, len(files), {})
    if next(images, None) is not None:
        raise UserError(f"the method gave more than the {len(files)} images that were asked for")
    return len(files) - start


def _leading(files: Iterable[str], holds: Callable[[str], bool]) -> Iterator[str]:
    for file in files:
        if not holds(file):
            return
        yield file


def _readable(path: Path) -> bool:
    try:
        _open_image(path)
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def _save_png(image: Image.Image, path: Path) -> None:
    image.convert("RGB").save(path, format="PNG", compress_level=PNG_COMPRESSION)


def _open_image(path: Path) -> Image.Image:
    with Image.open(path) as opened:
        return opened.convert("RGB")


def _load_images(folder: Path) -> Iterator[Image.Image]:
    for entry in read_entries(folder):
        yield _open_image(folder / entry["file"])


def _write_json(path: Path, document: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")

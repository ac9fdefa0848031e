"""`dbbench.score`: subject and prompt fidelity of images, as a DataFrame."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from PIL import Image

from dbbench.advance import silent
from dbbench.bars import shown
from dbbench.data.dataset import load_dataset
from dbbench.data.image_files import is_image, look_into
from dbbench.device import resolve_device
from dbbench.errors import UserError
from dbbench.evaluation.metric import load_metric
from dbbench.evaluation.scores import REAL
from dbbench.image_sets import Records
from dbbench.image_sets.memory import ImageLike
from dbbench.image_sets.references import MINI, References, find_references, given_references
from dbbench.protocols.protocol import Protocol, load_protocol
from dbbench.protocols.scorecard import Account, score_images
from dbbench.protocols.scoring import Reconciliation
from dbbench.suites.suite import Suite, load_suite

Images = ImageLike | Sequence[ImageLike] | pd.DataFrame
"""PIL images or paths; a path may be a folder, a manifest or a run."""
Real = ImageLike | Sequence[ImageLike] | Mapping[str, Sequence[ImageLike]]
"""PIL images or paths of one subject, a folder, or the images of each subject."""

COLUMNS = ["method", "subject", "prompt", "image", "metric", "value"]
SUITE = "paper"
"""The suite that gives the encoders and metrics unless a call names another."""
_ONE = "subject"
"""The name of a call's single subject if it is not given."""


def score(
    images: Images,
    references: Real | None = None,
    *,
    prompts: str | Sequence[str] | None = None,
    subject: str | None = None,
    class_noun: str | None = None,
    method: str | None = None,
    suite: str | Path | Suite | None = None,
    encoders: Mapping[str, str] | None = None,
    metrics: Sequence[str] | None = None,
    identifier: str = "",
    device: str = "auto",
    quiet: bool = True,
) -> pd.DataFrame:
    """Score images against their subject's real images and their prompts, by protocol `paper`.

    Returns one row per image and metric: `method`, `subject`, `prompt` (the prompt's id), `image`
    (the path or, for a PIL image, its place in the list), `metric`, `value`. The values are those
    of `dbbench score`. `attrs["banner"]` is a note to show with them, or None; `attrs["refused"]`
    has one line for each image that could not be scored, and `attrs["warnings"]` one for what was
    scored and should be looked at: texts that are cut, images of one colour. A warning announces
    both.

        dbbench.score(
            [image, "two.png"], references=["a.jpg", "b.jpg"], prompts="a dog in the jungle"
        )
        dbbench.score("my-images", "photos", suite="paper").groupby("metric")["value"].mean()

    images      PIL images or paths, with `prompts`; a folder `<subject>/<prompt id>/<n>.png`, a
                manifest or an output folder of `dbbench run`; or a DataFrame with the columns
                image, subject, prompt (an id or the text), and where you have them method, seed,
                class_noun
    references  PIL images or paths of one subject; a folder of them; a folder with one folder for
                each subject; a dict subject -> images; "mini" for the embedded world's own.
                Default: those of the run, else the folder `photos`
    prompts     a text or a prompt id of the data set for each image, or one for all
    subject     the subject's name, if images and references do not contain it
    class_noun  such as "dog": needed for prompt ids of subjects that are not in the data set
    method      the method's name in the table; the default is the folder's name, or "images"
    suite       gives the encoders and metrics: "paper" (DINO ViT-S/16 and CLIP ViT-B/32,
                fetched from the model hub once), "mini" (embedded, for drawings of the embedded
                world) or your own. Default: "paper", or "mini" if images or references are
                of its world
    encoders    role -> encoder, instead of the suite's: {"dino": "hf:facebook/dinov2-small"}
    metrics     names (dbbench list metrics). Default: the suite's
    identifier  the rare token in the prompts, such as "sks": CLIP-T compares without it
    device      "auto", "cpu", "cuda", "cuda:1" or "mps"
    quiet       show no progress on stderr

    Raises UserError if weights or references are missing, or if no image can be scored.
    """
    chosen = suite if isinstance(suite, Suite) else load_suite(suite or SUITE)
    showing = nullcontext((lambda text: None, silent)) if quiet else shown("reading")
    with TemporaryDirectory(prefix="dbbench-given-") as scratch, showing as (status, advance):
        real = _read_references(references, Path(scratch))
        read = _read_images(images, prompts)
        sources, real = _pair(read, real, subject, class_noun, Path(scratch))
        result, account = score_images(
            sources,
            real,
            load_dataset(chosen.source),
            protocols=[_reading(chosen.metrics if metrics is None else metrics)],
            flags=(),
            encoders={**(chosen.encoders if suite else {}), **(encoders or {})},
            only=chosen.encoders if chosen.banner else None,
            method=method,
            identifier=identifier,
            strict=True,
            device=resolve_device(device),
            status=status,
            advance=advance,
        )
    return _table(result, account)


def _reading(metrics: Sequence[str]) -> Protocol:
    """Return protocol `paper` with these metrics instead of its own."""
    if isinstance(metrics, str) or not metrics:
        raise UserError('metrics is a list of names, such as ("dino", "clip-t")')
    for name in metrics:
        if load_metric(name).flag:
            raise UserError(f'metric "{name}" flags images and has no values; see: dbbench score')
    return load_protocol("paper").model_copy(update={"metrics": tuple(metrics)})


def _read_images(images: Images, prompts: str | Sequence[str] | None) -> list[Path] | Records:
    """Return the given folders and manifests, or a record for each image."""
    if isinstance(images, pd.DataFrame):
        records: list[dict[str, Any]] = [
            {str(name): value for name, value in row.items()} for row in images.to_dict("records")
        ]
        return records if prompts is None else _with_prompts(records, prompts)
    listed = _listed(images)
    if listed and not any(_is_image(each) for each in listed):
        if prompts is not None:
            raise UserError("prompts are for images; folders and manifests contain their own")
        return [Path(str(path)).expanduser() for path in listed]
    if prompts is None:
        raise UserError('images need their prompts: prompts=["a dog in the jungle", ...]')
    return _with_prompts([{"image": image} for image in listed], prompts)


def _with_prompts(
    records: Sequence[Mapping[str, Any]], prompts: str | Sequence[str]
) -> list[dict[str, Any]]:
    texts = [prompts] * len(records) if isinstance(prompts, str) else list(prompts)
    if len(texts) != len(records):
        raise UserError(
            f"{len(records)} images and {len(texts)} prompts; pass one for each image, or one text"
        )
    return [{**record, "prompt": text} for record, text in zip(records, texts, strict=True)]


def _read_references(
    references: Real | None, scratch: Path
) -> References | list[ImageLike] | str | None:
    """Return the references by subject, or a list if they are of one unnamed subject."""
    if references is None or (isinstance(references, str) and references == MINI):
        return references
    if isinstance(references, Mapping):
        return given_references({k: _listed(v) for k, v in references.items()}, scratch)
    if isinstance(references, str | Path) and not _is_image(references):
        folder = Path(references).expanduser()
        images = look_into(folder).images if folder.is_dir() else ()
        return list(images) or find_references(str(folder), (), scratch)
    return _listed(references)


def _pair(
    sources: list[Path] | Records,
    real: References | list[ImageLike] | str | None,
    subject: str | None,
    class_noun: str | None,
    scratch: Path,
) -> tuple[Sequence[Path | Records], References | str | None]:
    """Set the subject of images and references that have none."""
    records = [each for each in sources if not isinstance(each, Path)]
    named = {str(record["subject"]) for record in records if "subject" in record}
    known = list(real.files) if isinstance(real, References) else []
    if subject is None and len(own := named or known) == 1:
        (subject,) = own
    if subject is None and isinstance(real, list) and records and not named:
        subject = _ONE
    if subject is None and (isinstance(real, list) or (records and not named)):
        raise UserError(
            'which subject is it? name it: subject="dog"; or pass the references of several'
            " subjects as a dict, and the images as a DataFrame with a column subject"
        )
    if isinstance(real, list):
        real = given_references({str(subject): real}, scratch)
    if not records:
        return [each for each in sources if isinstance(each, Path)], real
    common = {"subject": subject, "class_noun": class_noun}
    return [[{**common, **record} for record in records]], real


def _listed(images: Any) -> list[ImageLike]:
    """Return one image or several as a list. Raises UserError for what is no image."""
    listed = [images] if isinstance(images, ImageLike) else list(images)
    for image in listed:
        if not isinstance(image, ImageLike):
            raise UserError(
                f"cannot read a {type(image).__name__} as an image; pass PIL images or paths"
            )
    return listed


def _is_image(image: ImageLike) -> bool:
    return isinstance(image, Image.Image) or is_image(Path(image).expanduser())


def _table(result: Reconciliation, account: Account) -> pd.DataFrame:
    """Return the rows of the images, not of the real images; warn about images without scores."""
    scores = result.scores
    table = scores.loc[scores["method"] != REAL, COLUMNS].reset_index(drop=True)
    lines = [*account.refused, *result.notes]
    if lines:
        more = f' (and {len(lines) - 1} more: attrs["refused"])' if len(lines) > 1 else ""
        warnings.warn(f"not everything is scored: {lines[0]}{more}", stacklevel=3)
    if result.warnings:
        warnings.warn(" / ".join(result.warnings), stacklevel=3)
    looked = list(result.warnings)
    table.attrs = {"banner": account.banner, "refused": lines, "warnings": looked}
    return table

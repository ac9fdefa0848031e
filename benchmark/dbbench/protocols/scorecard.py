"""Scorecard: what a person names (images, references, protocols) -> scored; `dbbench score` prints.

The embedded world is kept apart: its images have its own references and encoders, and a banner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from dbbench.data.dataset import Dataset
from dbbench.errors import UserError
from dbbench.evaluation.features import FeatureStore
from dbbench.image_sets import read_submission
from dbbench.image_sets.image_set import Submission
from dbbench.image_sets.references import MINI, References, describe, find_references
from dbbench.protocols.encoding import encode
from dbbench.protocols.protocol import Protocol, load_protocol, protocol_names
from dbbench.protocols.roles import Cast, cast_roles
from dbbench.suites.suite import load_suite

if TYPE_CHECKING:
    from dbbench.advance import Advance
    from dbbench.protocols.scoring import Reconciliation

EVERY = "all"
"""The word for all protocols."""


@dataclass(frozen=True)
class Account:
    """What was scored against what, in words, beside the numbers."""

    name: str
    references: str
    banner: str | None
    refused: tuple[str, ...]
    """One line for each image that was not scored."""


def score_paths(
    paths: Sequence[Path],
    references: str | None,
    dataset: Dataset,
    *,
    method: str | None = None,
    identifier: str = "",
    protocols: Sequence[str] | None = None,
    metrics: Sequence[str] = (),
    encoders: Mapping[str, str] | None = None,
    device: str,
    status: Any,
    advance: Advance,
) -> tuple[Reconciliation, Account]:
    """Score the images in folders, manifests, data sets or runs, as `dbbench score` does.

    All is as in `gather`, `choose_cast` (`encoders` are its overrides) and `score_submission`.
    """
    choose_cast(protocols, metrics=metrics, overrides=encoders)  # Names first, then the work.
    name = paths[0].resolve().stem if len(paths) == 1 else f"{len(paths)}-methods"
    with TemporaryDirectory(prefix="dbbench-score-") as folder:
        submission, used = gather(
            paths, references, dataset, method=method, identifier=identifier, scratch=Path(folder)
        )
        return score_submission(
            submission, used, name=name, protocols=protocols, metrics=metrics, encoders=encoders,
            device=device, status=status, advance=advance,
        )  # fmt: skip


def score_submission(
    submission: Submission,
    references: References,
    *,
    name: str,
    protocols: Sequence[str] | None = None,
    metrics: Sequence[str] = (),
    encoders: Mapping[str, str] | None = None,
    device: str,
    status: Any,
    advance: Advance,
) -> tuple[Reconciliation, Account]:
    """Encode and reconcile a submission; `name` is what its tables are called.

    Images of the embedded world are scored by its own encoders. Raises UserError where nothing
    could be scored.
    """
    banner = submission.banner or references.banner
    only = submission.encoders or (mini_encoders() if banner else None)
    cast = choose_cast(protocols, metrics=metrics, overrides=encoders, only=only)
    result, refused = score_images(
        cast, submission, references, device=device, status=status, advance=advance
    )
    return result, Account(name, describe(references), banner or banner_of(cast), refused)


def gather(
    paths: Sequence[Path],
    references: str | None,
    dataset: Dataset,
    *,
    method: str | None,
    identifier: str,
    scratch: Path,
) -> tuple[Submission, References]:
    """Return the images in all paths, and the references of their subjects alone.

    `dataset` has the subjects and prompts of what is no finished run.
    Raises UserError where nothing can be scored, two paths hold a method of the same name, or the
    references are not to be found.
    """
    chosen = None
    if references not in {None, MINI}:
        chosen = find_references(references, (), scratch)
    submission = Submission()
    for path in paths:
        part = read_submission(
            path,
            scratch=scratch,
            dataset=dataset,
            method=method,
            identifier=identifier,
            own_subjects=chosen.files if chosen else (),
        )
        if doubles := set(submission.methods) & set(part.methods):
            raise UserError(
                f'two of them hold a method "{min(doubles)}"; name the folders differently, or give'
                " manifests a column method"
            )
        submission = submission.join(part)
    subjects = dict.fromkeys(picture.subject for picture in submission.pictures)
    if references is None and submission.references:
        chosen = References("the run", submission.references, submission.banner)
    chosen = chosen or find_references(references, subjects, scratch)
    own = {name: chosen.files[name] for name in subjects if name in chosen.files}
    return submission, References(chosen.where, own, chosen.banner)


def choose_cast(
    protocols: Sequence[str] | None,
    *,
    metrics: Sequence[str] = (),
    overrides: Mapping[str, str] | None = None,
    only: Mapping[str, str] | None = None,
    flags: Sequence[str] = ("copy", "collapse"),
) -> Cast:
    """Return the protocols that were asked for, or `paper` and those that its encoders suffice for.

    The rest is as in `cast_roles`.
    """

    def cast(readings: Sequence[Protocol]) -> Cast:
        return cast_roles(readings, metrics=metrics, flags=flags, overrides=overrides, only=only)

    if protocols is not None:
        names = protocol_names() if list(protocols) == [EVERY] else dict.fromkeys(protocols)
        return cast([load_protocol(name) for name in names])
    paper = load_protocol("paper")
    needed = set(cast([paper]).needed)
    others = [load_protocol(name) for name in protocol_names() if name != paper.name]
    return cast([paper, *(other for other in others if set(cast([other]).needed) <= needed)])


def score_images(
    cast: Cast,
    submission: Submission,
    references: References,
    *,
    device: str,
    status: Any,
    advance: Advance,
) -> tuple[Reconciliation, tuple[str, ...]]:
    """Encode and reconcile; return the tables, and a line for each thing that was not scored.

    Raises UserError where nothing could be.
    """
    from dbbench.protocols.scoring import reconcile

    encodings = encode(
        cast,
        submission.pictures,
        references.files,
        FeatureStore(),
        device=device,
        status=status,
        advance=advance,
    )
    status("averaging")
    result = reconcile(cast, submission, references.files, encodings)
    names = {picture.image: picture.name for picture in submission.pictures}
    broken = [f"{names.get(p, p)} {reason}" for p, reason in encodings.refused.items()]
    lines = (*submission.refused, *broken)
    if result.summary.empty:
        reasons = [*result.notes, *lines, "no images"]
        raise UserError(f"nothing could be scored: {reasons[0]}")
    return result, lines


def mini_encoders() -> dict[str, str]:
    """Return the embedded world's encoders by role."""
    return dict(load_suite(MINI).encoders)


def banner_of(cast: Cast) -> str | None:
    """Return the embedded world's banner where one of its encoders plays a role."""
    embedded = any(reference.startswith(f"{MINI}-") for reference in cast.needed)
    return load_suite(MINI).banner if embedded else None

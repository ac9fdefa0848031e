"""Images, references and protocols that the user names -> scores, for `dbbench score`.

Images of the embedded world have their own references and encoders, and a banner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from dbbench.data.dataset import Dataset
from dbbench.errors import UserError
from dbbench.evaluation.features import FeatureStore
from dbbench.evaluation.flags import FLAGS
from dbbench.image_sets import read_submission
from dbbench.image_sets.image_set import Submission
from dbbench.image_sets.references import MINI, References, describe, find_references
from dbbench.protocols.encoding import encode
from dbbench.protocols.protocol import Protocol, load_protocol, protocol_names
from dbbench.protocols.roles import Cast, cast_roles
from dbbench.suites.banner import full_banner
from dbbench.suites.suite import load_suite

if TYPE_CHECKING:
    from dbbench.advance import Advance
    from dbbench.image_sets import Records
    from dbbench.protocols.scoring import Reconciliation

EVERY = "all"
"""Selects all protocols."""


@dataclass(frozen=True)
class Account:
    """The names of the images and references, beside the scores."""

    name: str
    references: str
    banner: str | None
    refused: tuple[str, ...]
    """One line for each image that was not scored."""


def score_images(
    images: Sequence[Path | Records],
    references: str | References | None,
    dataset: Dataset,
    *,
    protocols: Sequence[str | Protocol] | None = None,
    metrics: Sequence[str] = (),
    flags: Sequence[str] = FLAGS,
    encoders: Mapping[str, str] | None = None,
    only: Mapping[str, str] | None = None,
    method: str | None = None,
    identifier: str = "",
    strict: bool = False,
    device: str,
    status: Any,
    advance: Advance,
) -> tuple[Reconciliation, Account]:
    """Read images and references, encode them, and score them under the chosen protocols.

    `dataset` has the subjects and prompts; a finished run has its own. `encoders` by role replace
    those of every protocol; `only` are the encoders of the embedded world, by default those of the
    images. With `strict` an encoder that cannot be loaded is an error, and the user's own subjects
    need no class noun if the prompts are texts. Raises UserError if no image can be scored.
    """
    from dbbench.protocols.scoring import reconcile

    # Names are checked before the work.
    choose_cast(protocols, metrics=metrics, flags=flags, overrides=encoders)
    with TemporaryDirectory(prefix="dbbench-score-") as folder:
        submission, used = gather(
            images,
            references,
            dataset,
            method=method,
            identifier=identifier,
            any_noun=strict,
            scratch=Path(folder),
        )
        banner = submission.banner or used.banner
        only = only or submission.encoders or (mini_encoders() if banner else None)
        cast = choose_cast(protocols, metrics=metrics, flags=flags, overrides=encoders, only=only)
        roles = [metric.role for _, metric, encoder in cast.uses if encoder is None]
        if strict and roles:
            raise UserError(
                f'no encoder for role {roles[0]}; give one: encoders={{"{roles[0]}": ...}}'
            )
        encodings = encode(
            cast,
            submission.pictures,
            used.files,
            FeatureStore(),
            device=device,
            status=status,
            advance=advance,
            strict=strict,
        )
        status("averaging")
        result = reconcile(cast, submission, used.files, encodings)
        where = describe(used)
    names = {picture.image: picture.name for picture in submission.pictures}
    broken = [f"{names.get(p, p)} {reason}" for p, reason in encodings.refused.items()]
    lines = (*submission.refused, *broken)
    if result.summary.empty:
        raise UserError(f"no image could be scored: {[*result.notes, *lines, 'no images'][0]}")
    paths = [source for source in images if isinstance(source, Path)]
    name = paths[0].resolve().stem if len(images) == len(paths) == 1 else f"{len(images)}-methods"
    return result, Account(name, where, full_banner(banner, cast.needed), lines)


def gather(
    images: Sequence[Path | Records],
    references: str | References | None,
    dataset: Dataset,
    *,
    method: str | None,
    identifier: str,
    scratch: Path,
    any_noun: bool = False,
) -> tuple[Submission, References]:
    """Return all images, and the references of their subjects only.

    `dataset` has the subjects and prompts; a finished run has its own. Raises UserError if no image
    can be scored, two sources have a method of the same name, or the references are not found.
    """
    chosen = references if isinstance(references, References) else None
    if isinstance(references, str) and references != MINI:
        chosen = find_references(references, (), scratch)
    submission = Submission()
    for source in images:
        part = read_submission(
            source,
            scratch=scratch,
            dataset=dataset,
            method=method,
            identifier=identifier,
            own_subjects=chosen.files if chosen else (),
            any_noun=any_noun,
        )
        if doubles := set(submission.methods) & set(part.methods):
            raise UserError(
                f'two sources have a method "{min(doubles)}"; rename a folder, or add a column'
                " method to the manifests"
            )
        submission = submission.join(part)
    subjects = dict.fromkeys(picture.subject for picture in submission.pictures)
    if references is None and submission.references:
        chosen = References("the run", submission.references, submission.banner)
    if chosen is None:
        chosen = find_references(references if references == MINI else None, subjects, scratch)
    own = {name: chosen.files[name] for name in subjects if name in chosen.files}
    return submission, replace(chosen, files=own)


def choose_cast(
    protocols: Sequence[str | Protocol] | None,
    *,
    metrics: Sequence[str] = (),
    overrides: Mapping[str, str] | None = None,
    only: Mapping[str, str] | None = None,
    flags: Sequence[str] = FLAGS,
) -> Cast:
    """Return the chosen protocols with their encoders; the other options are as in `cast_roles`.

    The default is `paper` and all protocols that need no other encoders.
    """

    def cast(readings: Sequence[Protocol]) -> Cast:
        return cast_roles(readings, metrics=metrics, flags=flags, overrides=overrides, only=only)

    if protocols is not None:
        names = protocol_names() if list(protocols) == [EVERY] else protocols
        chosen = [p if isinstance(p, Protocol) else load_protocol(p) for p in names]
        return cast(list({protocol.name: protocol for protocol in chosen}.values()))
    paper = load_protocol("paper")
    needed = set(cast([paper]).needed)
    others = [load_protocol(name) for name in protocol_names() if name != paper.name]
    return cast([paper, *(other for other in others if set(cast([other]).needed) <= needed)])


def mini_encoders() -> dict[str, str]:
    """Return the embedded world's encoders by role."""
    return dict(load_suite(MINI).encoders)

"""Encoding of a submission: which encoder plays which role where, and the features of all images.

Protocols that name the same encoder share its features; the feature store sees each image once. An
encoder that cannot be had costs the metrics that need it, and no others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dbbench.errors import UserError
from dbbench.evaluation.encoder import (
    Distance,
    Encoder,
    UnitVectors,
    load_encoder,
    say_cut_texts,
)
from dbbench.evaluation.one_colour import LEVELS, Spread
from dbbench.image_sets.image_set import Picture
from dbbench.protocols.roles import Cast

if TYPE_CHECKING:
    from dbbench.advance import Advance
    from dbbench.evaluation.features import FeatureStore

Group = tuple[str, str, int | None]
"""Method, subject and seed: images that are scored together, since their prompts are siblings."""


@dataclass(frozen=True)
class Encodings:
    """The features of all images and texts, by encoder."""

    vectors: Mapping[str, Mapping[Path, UnitVectors]]
    """Encoder -> file -> its vector, (D,) float32."""
    texts: Mapping[str, Mapping[str, UnitVectors]]
    distances: Mapping[str, Mapping[Group, NDArray[np.float64]]]
    """Distance network -> group -> MM, the group's pictures and then its subject's references."""
    missing: Mapping[str, str]
    """Encoder -> why it cannot be had."""
    refused: Mapping[Path, str] = field(default_factory=dict)
    """File -> why it is no image."""
    of_one_colour: frozenset[Path] = frozenset()
    """Files that show nothing."""
    cut: tuple[str, ...] = ()
    """One line for each encoder that does not read all texts to the end."""

    def stack(self, encoder: str, files: Sequence[Path]) -> UnitVectors:
        """Return the vectors of some files, ND float32."""
        rows = self.vectors[encoder]
        return np.stack([rows[file] for file in files])


def encode(
    cast: Cast,
    pictures: Sequence[Picture],
    references: Mapping[str, Sequence[Path]],
    store: FeatureStore,
    *,
    device: str,
    status: Any,
    advance: Advance,
    strict: bool = False,
) -> Encodings:
    """Load the encoders and send every image and text through them once.

    `status` gets what is going on, `advance` how far the images are. With `strict`, raises
    UserError for an encoder that cannot be loaded.
    """
    loaded, missing = _load(cast.needed, device, status)
    if strict and missing:
        raise UserError(next(iter(missing.values())))
    encoders = {r: e for r, e in loaded.items() if not isinstance(e, Distance)}
    files = list(
        dict.fromkeys([p.image for p in pictures] + [f for fs in references.values() for f in fs])
    )
    vectors: dict[str, Mapping[Path, UnitVectors]] = {}
    status(f"encoding {len(files)} images")
    *encoded, spread = store.encode_with([*encoders.values(), Spread()], files, advance=advance)
    for reference, result in zip(encoders, encoded, strict=True):
        kept = [files[i] for i in result.kept]
        vectors[reference] = dict(zip(kept, result.vectors, strict=True))
    refused: dict[Path, str] = dict(spread.refused)
    blank = frozenset(
        files[i] for i, row in zip(spread.kept, spread.vectors, strict=True) if row <= LEVELS
    )
    cut: list[str] = []
    texts: dict[str, Mapping[str, UnitVectors]] = {}
    for reference, wanted in _texts(cast, pictures).items():
        if reference in encoders:
            try:
                rows = store.encode_texts(encoders[reference], wanted)
            except UserError as error:
                texts[reference] = {}
                missing[reference] = str(error)
                continue
            texts[reference] = dict(zip(wanted, rows, strict=True))
            cut.append(say_cut_texts(encoders[reference], wanted))
    distances: dict[str, Mapping[Group, NDArray[np.float64]]] = {}
    for reference, network in loaded.items():
        if isinstance(network, Distance):
            status(f"comparing images with {reference}")
            real = references if _with_real(cast, reference) else {}
            distances[reference] = _distances(network, pictures, real, store, refused, advance)
    said = tuple(dict.fromkeys(filter(None, cut)))
    return Encodings(vectors, texts, distances, missing, refused, blank, said)


def group_pictures(pictures: Iterable[Picture]) -> dict[Group, list[Picture]]:
    """Return the images of each method, subject and seed."""
    groups: dict[Group, list[Picture]] = {}
    for picture in pictures:
        groups.setdefault((picture.method, picture.subject, picture.seed), []).append(picture)
    return groups


def _load(
    needed: Iterable[str], device: str, status: Any
) -> tuple[dict[str, Encoder | Distance], dict[str, str]]:
    loaded: dict[str, Encoder | Distance] = {}
    missing: dict[str, str] = {}
    for reference in needed:
        status(f"loading {reference}")
        try:
            loaded[reference] = load_encoder(reference, device=device)
        except UserError as error:
            missing[reference] = str(error)
    return loaded, missing


def _texts(cast: Cast, pictures: Sequence[Picture]) -> dict[str, list[str]]:
    """Return the distinct texts that each encoder has to encode."""
    wanted: dict[str, dict[str, None]] = {}
    for protocol in cast.protocols:
        for metric in cast.metrics[protocol.name]:
            reference = cast.encoder(protocol, metric)
            if metric.compares == "text" and reference and pictures:
                own = wanted.setdefault(reference, {})
                own.update(dict.fromkeys(picture.text(protocol.text) for picture in pictures))
    return {reference: list(texts) for reference, texts in wanted.items()}


def _with_real(cast: Cast, reference: str) -> bool:
    """Whether a metric wants this network's distances to the real images."""
    return any(
        metric.compares == "distances" and cast.encoder(protocol, metric) == reference
        for protocol in cast.protocols
        for metric in cast.metrics[protocol.name]
    )


def _distances(
    network: Distance,
    pictures: Sequence[Picture],
    references: Mapping[str, Sequence[Path]],
    store: FeatureStore,
    refused: dict[Path, str],
    advance: Advance,
) -> dict[Group, NDArray[np.float64]]:
    """Return the distances within each group; images that are none are added to `refused`."""
    groups = group_pictures(pictures)
    found: dict[Group, NDArray[np.float64]] = {}
    for done, (group, own) in enumerate(groups.items()):
        real = [file for file in references.get(group[1], ()) if file not in refused]
        result = store.distances(network, [*(picture.image for picture in own), *real])
        refused |= result.refused
        found[group] = result.matrix
        advance(done + 1, len(groups), {})
    return found

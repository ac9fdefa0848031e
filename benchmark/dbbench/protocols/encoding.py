"""Encodes all images and texts with the encoders of all protocols.

Protocols with the same encoder share its features; each image is encoded once. If an encoder cannot
be loaded, only the metrics that need it are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
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
"""Method, subject and seed of images that are scored together, such as those of one prompt."""


@dataclass(frozen=True)
class Encodings:
    """The features of all images and texts, by encoder."""

    vectors: Mapping[str, Mapping[Path, UnitVectors]]
    """Encoder -> file -> its vector, (D,) float32."""
    texts: Mapping[str, Mapping[str, UnitVectors]]
    distances: Mapping[str, Mapping[Group, NDArray[np.float64]]]
    """Distance network -> group -> MM, the group's pictures and then its subject's references."""
    missing: Mapping[str, str]
    """Encoder -> why it cannot be loaded."""
    refused: Mapping[Path, str] = field(default_factory=dict)
    """File -> why it is not a valid image."""
    of_one_colour: frozenset[Path] = frozenset()
    """Files that show nothing."""
    cut: tuple[str, ...] = ()
    """One line for each encoder that does not read all texts to the end."""

    def stack(self, encoder: str, files: Sequence[Path]) -> UnitVectors:
        """Return the vectors of these files, ND float32."""
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
    """Load the encoders and encode every image and text once.

    `status` is called with a line for each step, `advance` with the number of finished images.
    With `strict`, raises UserError for an encoder that cannot be loaded.
    """
    loaded: dict[str, Encoder | Distance] = {}
    missing: dict[str, str] = {}
    for reference in cast.needed:
        status(f"loading {reference}")
        try:
            loaded[reference] = load_encoder(reference, device=device)
        except UserError as error:
            missing[reference] = str(error)
    if strict and missing:
        raise UserError(next(iter(missing.values())))
    encoders = {r: e for r, e in loaded.items() if not isinstance(e, Distance)}
    files = list(dict.fromkeys(chain((p.image for p in pictures), *references.values())))
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
                texts[reference] = dict(zip(wanted, rows, strict=True))
                cut.append(say_cut_texts(encoders[reference], wanted))
            except UserError as error:
                texts[reference] = {}
                missing[reference] = str(error)
    distances: dict[str, Mapping[Group, NDArray[np.float64]]] = {}
    with_real = {encoder for _, metric, encoder in cast.uses if metric.compares == "distances"}
    for reference, network in loaded.items():
        if isinstance(network, Distance):
            status(f"comparing images with {reference}")
            real = references if reference in with_real else {}
            distances[reference] = _distances(network, pictures, real, store, refused, advance)
    said = tuple(dict.fromkeys(filter(None, cut)))
    return Encodings(vectors, texts, distances, missing, refused, blank, said)


def group_pictures(pictures: Iterable[Picture]) -> dict[Group, list[Picture]]:
    """Return the images of each method, subject and seed."""
    groups: dict[Group, list[Picture]] = {}
    for picture in pictures:
        groups.setdefault((picture.method, picture.subject, picture.seed), []).append(picture)
    return groups


def _texts(cast: Cast, pictures: Sequence[Picture]) -> dict[str, list[str]]:
    """Return the distinct texts that each encoder has to encode."""
    wanted: dict[str, dict[str, None]] = {}
    for protocol, metric, reference in cast.uses:
        if metric.compares == "text" and reference and pictures:
            own = wanted.setdefault(reference, {})
            own.update(dict.fromkeys(picture.text(protocol.text) for picture in pictures))
    return {reference: list(texts) for reference, texts in wanted.items()}


def _distances(
    network: Distance,
    pictures: Sequence[Picture],
    references: Mapping[str, Sequence[Path]],
    store: FeatureStore,
    refused: dict[Path, str],
    advance: Advance,
) -> dict[Group, NDArray[np.float64]]:
    """Return the distances within each group; invalid images are added to `refused`."""
    groups = group_pictures(pictures)
    found: dict[Group, NDArray[np.float64]] = {}
    for done, (group, own) in enumerate(groups.items()):
        real = [file for file in references.get(group[1], ()) if file not in refused]
        result = store.distances(network, [*(picture.image for picture in own), *real])
        refused |= result.refused
        found[group] = result.matrix
        advance(done + 1, len(groups), {})
    return found

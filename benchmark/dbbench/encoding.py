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
from dbbench.evaluation.encoder import Distance, Encoder, Vectors, load_encoder
from dbbench.evaluation.metric import Metric, load_metric
from dbbench.protocol import Protocol, load_protocol
from dbbench.submission import Picture

if TYPE_CHECKING:
    from dbbench.advance import Advance
    from dbbench.evaluation.features import FeatureStore

Group = tuple[str, str, int | None]
"""Method, subject and seed: images that are scored together, since their prompts are siblings."""


@dataclass(frozen=True)
class Cast:
    """The metrics that each protocol shows, and the encoder in each role."""

    protocols: tuple[Protocol, ...]
    metrics: Mapping[str, tuple[Metric, ...]]
    """Protocol -> its metrics, what the user added, and the flags of the first protocol."""
    encoders: Mapping[tuple[str, str], str]
    """Protocol and role -> encoder; a role that nobody plays is missing."""
    own: frozenset[tuple[str, str]] = frozenset()
    """Where a role is played by the protocol's own choice."""

    def encoder(self, protocol: Protocol, metric: Metric) -> str | None:
        """Return the encoder that feeds a metric, None where there is none."""
        return self.encoders.get((protocol.name, metric.role))

    def flags(self, protocol: Protocol) -> tuple[Metric, ...]:
        """Return the metrics that flag images instead of measuring a method."""
        return tuple(metric for metric in self.metrics[protocol.name] if metric.flag)

    def measures(self, protocol: Protocol) -> tuple[Metric, ...]:
        """Return the other metrics."""
        return tuple(metric for metric in self.metrics[protocol.name] if not metric.flag)

    @property
    def needed(self) -> tuple[str, ...]:
        """Every encoder that some metric needs, once."""
        found = [
            self.encoder(protocol, metric)
            for protocol in self.protocols
            for metric in self.metrics[protocol.name]
        ]
        return tuple(dict.fromkeys(reference for reference in found if reference))


def cast_roles(
    protocols: Sequence[Protocol],
    *,
    metrics: Sequence[str] = (),
    flags: Sequence[str] = ("copy", "collapse"),
    overrides: Mapping[str, str] | None = None,
    only: Mapping[str, str] | None = None,
) -> Cast:
    """Decide who plays which role: an override, else the protocol's own choice, else `paper`'s.

    `only` are the encoders of a world in which no others mean anything, and take the place of both.
    `metrics` are shown under every protocol beside its own.
    """
    paper = load_protocol("paper")
    chosen: dict[str, tuple[Metric, ...]] = {}
    encoders: dict[tuple[str, str], str] = {}
    own: set[tuple[str, str]] = set()
    for number, protocol in enumerate(protocols):
        # What is flagged is the same whichever the reading; once is enough.
        names = [*protocol.metrics, *metrics, *(flags if number == 0 else ())]
        chosen[protocol.name] = tuple(load_metric(name) for name in dict.fromkeys(names))
        defaults = only or {**paper.encoders, **protocol.encoders}
        for role, reference in {**defaults, **(overrides or {})}.items():
            encoders[protocol.name, role] = reference
            if reference == protocol.encoders.get(role):
                own.add((protocol.name, role))
    return Cast(tuple(protocols), chosen, encoders, frozenset(own))


@dataclass(frozen=True)
class Encodings:
    """The features of all images and texts, by encoder."""

    vectors: Mapping[str, Mapping[Path, Vectors]]
    """Encoder -> file -> its vector, (D,) float32."""
    texts: Mapping[str, Mapping[str, Vectors]]
    distances: Mapping[str, Mapping[Group, NDArray[np.float64]]]
    """Distance network -> group -> MM, the group's pictures and then its subject's references."""
    missing: Mapping[str, str]
    """Encoder -> why it cannot be had."""
    refused: Mapping[Path, str] = field(default_factory=dict)
    """File -> why it is no image."""

    def stack(self, encoder: str, files: Sequence[Path]) -> Vectors:
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
) -> Encodings:
    """Load the encoders and send every image and text through them once.

    `status` hears what is going on, `advance` how far the images are.
    """
    loaded, missing = _load(cast.needed, device, status)
    encoders = {r: e for r, e in loaded.items() if not isinstance(e, Distance)}
    files = list(
        dict.fromkeys([p.image for p in pictures] + [f for fs in references.values() for f in fs])
    )
    vectors: dict[str, Mapping[Path, Vectors]] = {}
    refused: dict[Path, str] = {}
    if encoders:
        status(f"encoding {len(files)} images")
        encoded = store.encode_with(list(encoders.values()), files, advance=advance)
        for reference, result in zip(encoders, encoded, strict=True):
            kept = [files[i] for i in result.kept]
            vectors[reference] = dict(zip(kept, result.vectors, strict=True))
            refused |= result.refused
    texts: dict[str, Mapping[str, Vectors]] = {}
    for reference, wanted in _texts(cast, pictures).items():
        if reference in encoders:
            try:
                rows = store.encode_texts(encoders[reference], wanted)
            except UserError as error:
                texts[reference] = {}
                missing[reference] = str(error)
                continue
            texts[reference] = dict(zip(wanted, rows, strict=True))
    distances: dict[str, Mapping[Group, NDArray[np.float64]]] = {}
    for reference, network in loaded.items():
        if isinstance(network, Distance):
            status(f"comparing images with {reference}")
            real = references if _with_real(cast, reference) else {}
            distances[reference] = _distances(network, pictures, real, store, refused, advance)
    return Encodings(vectors, texts, distances, missing, refused)


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

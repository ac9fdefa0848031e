"""Oracle: the real images scored as if they had been generated, under each protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from dbbench.advance import Advance
from dbbench.data.dataset import Dataset
from dbbench.errors import UserError
from dbbench.evaluation.metric import Metric
from dbbench.image_sets.references import describe, find_references
from dbbench.protocols.averages import average
from dbbench.protocols.encoding import Encodings, encode
from dbbench.protocols.protocol import Protocol
from dbbench.protocols.roles import Cast
from dbbench.protocols.scorecard import choose_cast, mini_encoders
from dbbench.protocols.scoring import (
    explain_missing,
    playable,
    real_values,
    say_blank_references,
)
from dbbench.suites.banner import full_banner

ORACLE_COLUMNS = [
    *("protocol", "metric", "value", "low", "high", "with_self_pairs", "published"),
    *("subjects", "images", "encoder"),
]


@dataclass(frozen=True)
class Oracle:
    """The table of `score_oracle`, with its encoders and references."""

    table: pd.DataFrame
    cast: Cast
    references: str
    banner: str | None
    notes: tuple[str, ...]
    """One line for each metric or image that is not scored."""


def score_real_images(
    data: str | None,
    dataset: Dataset,
    *,
    protocols: Sequence[str] | None = None,
    encoders: Mapping[str, str] | None = None,
    device: str,
    status: Any,
    advance: Advance,
) -> Oracle:
    """Score the photographs in a folder, or "mini", as `dbbench oracle` does.

    `dataset` has the subjects; `encoders` are the overrides of `choose_cast`. Raises UserError if
    no image can be scored.
    """
    with TemporaryDirectory(prefix="dbbench-oracle-") as folder:
        everyone = [subject.name for subject in dataset.subjects]
        found = find_references(data, everyone, Path(folder))
        only = mini_encoders() if found.banner else None
        cast = choose_cast(protocols, overrides=encoders, only=only, flags=())
        table, notes = score_oracle(
            cast, found.files, device=device, status=status, advance=advance
        )
        if table.empty:
            raise UserError(f"no image could be scored: {'; '.join(notes) or 'no images'}")
        banner = full_banner(found.banner, cast.needed)
        return Oracle(table, cast, describe(found), banner, notes)


def score_oracle(
    cast: Cast,
    references: Mapping[str, tuple[Path, ...]],
    *,
    device: str,
    status: Any,
    advance: Advance,
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return one row per protocol and metric, and a line for each metric that is not scored.

    `value`, with its 95% interval, includes the comparison of an image with itself only if the
    protocol does; `with_self_pairs` always includes it. `published` is given only for the
    protocol's own encoder.
    """
    from dbbench.evaluation.features import FeatureStore

    encodings = encode(
        cast, (), references, FeatureStore(), device=device, status=status, advance=advance
    )
    whole = {
        subject: [file for file in files if file not in encodings.refused]
        for subject, files in references.items()
    }
    notes = [f"{path} {reason}" for path, reason in encodings.refused.items()]
    notes += say_blank_references(whole, encodings)
    missing: dict[str, list[tuple[Metric, Protocol]]] = {}
    rows = []
    for protocol in cast.protocols:
        for metric in cast.measures(protocol):
            if metric.compares != "references":
                continue
            encoder, reason = playable(cast, protocol, metric, encodings)
            if encoder is None:
                missing.setdefault(reason, []).append((metric, protocol))
                continue
            own = _table(protocol, metric, encoder, whole, encodings)
            if own.empty:
                reason = "no subject has two images to compare"
                missing.setdefault(reason, []).append((metric, protocol))
                continue
            value, interval = average(own, protocol)
            with_self = _table(protocol, metric, encoder, whole, encodings, self_pairs=True)
            rows.append(
                {
                    "protocol": protocol.name,
                    "metric": metric.name,
                    "value": value,
                    "low": interval.low,
                    "high": interval.high,
                    "with_self_pairs": average(with_self, protocol)[0],
                    "published": protocol.real.scores.get(metric.name)
                    if protocol.real and (protocol.name, metric.role) in cast.own
                    else None,
                    "subjects": own["subject"].nunique(),
                    "images": len(own),
                    "encoder": encoder,
                }
            )
    frame = pd.DataFrame(rows, columns=ORACLE_COLUMNS)
    numbers = ["value", "low", "high", "with_self_pairs", "published"]
    return frame.astype(dict.fromkeys(numbers, "float64")), (*explain_missing(missing), *notes)


def _table(
    protocol: Protocol,
    metric: Metric,
    encoder: str,
    references: Mapping[str, Sequence[Path]],
    encodings: Encodings,
    *,
    self_pairs: bool | None = None,
) -> pd.DataFrame:
    """Return the values of all real images, with the number of pairs behind each."""
    parts = []
    for subject, files in references.items():
        values, pairs = real_values(
            protocol, metric, encoder, files, encodings, self_pairs=self_pairs
        )
        parts.append(pd.DataFrame({"subject": subject, "value": values, "pairs": pairs}))
    return pd.concat(parts, ignore_index=True)

"""Selects the encoder for each role of each protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbbench.evaluation.flags import FLAGS
from dbbench.evaluation.metric import Metric, load_metric
from dbbench.protocols.protocol import Protocol, load_protocol


@dataclass(frozen=True)
class Cast:
    """The metrics that each protocol shows, and the encoder in each role."""

    protocols: tuple[Protocol, ...]
    metrics: Mapping[str, tuple[Metric, ...]]
    """Protocol -> its metrics and the user's; the first protocol also has the flags."""
    encoders: Mapping[tuple[str, str], str]
    """Protocol and role -> encoder; a role without an encoder is missing."""
    own: frozenset[tuple[str, str]] = frozenset()
    """Protocol and role, where the encoder is the protocol's own choice."""

    def encoder(self, protocol: Protocol, metric: Metric) -> str | None:
        """Return the encoder of a metric, or None if its role has none."""
        return self.encoders.get((protocol.name, metric.role))

    def measures(self, protocol: Protocol) -> tuple[Metric, ...]:
        """Return the metrics that measure a method instead of flagging images."""
        return tuple(metric for metric in self.metrics[protocol.name] if not metric.flag)

    @property
    def uses(self) -> list[tuple[Protocol, Metric, str | None]]:
        """Each metric of each protocol with its encoder; None if its role has no encoder."""
        pairs = [(p, m) for p in self.protocols for m in self.metrics[p.name]]
        return [(p, m, self.encoder(p, m)) for p, m in pairs]

    @property
    def needed(self) -> tuple[str, ...]:
        """Every encoder that some metric needs, once."""
        return tuple(dict.fromkeys(encoder for _, _, encoder in self.uses if encoder))


def cast_roles(
    protocols: Sequence[Protocol],
    *,
    metrics: Sequence[str] = (),
    flags: Sequence[str] = FLAGS,
    overrides: Mapping[str, str] | None = None,
    only: Mapping[str, str] | None = None,
) -> Cast:
    """Select the encoder for each role: an override, else the protocol's own, else `paper`'s.

    `only`, the encoders of the embedded world, replace those of the protocol and of `paper`.
    `metrics` are added to the metrics of every protocol.
    """
    paper = load_protocol("paper")
    chosen: dict[str, tuple[Metric, ...]] = {}
    encoders: dict[tuple[str, str], str] = {}
    own: set[tuple[str, str]] = set()
    for number, protocol in enumerate(protocols):
        # Flags do not depend on the protocol, so the first protocol has them.
        names = [*protocol.metrics, *metrics, *(flags if number == 0 else ())]
        chosen[protocol.name] = tuple(load_metric(name) for name in dict.fromkeys(names))
        defaults = only or {**paper.encoders, **protocol.encoders}
        for role, reference in {**defaults, **(overrides or {})}.items():
            encoders[protocol.name, role] = reference
            if reference == protocol.encoders.get(role):
                own.add((protocol.name, role))
    return Cast(tuple(protocols), chosen, encoders, frozenset(own))

"""Which encoder fills which role of a protocol."""

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
    """Protocol -> its metrics, what the user added, and the flags of the first protocol."""
    encoders: Mapping[tuple[str, str], str]
    """Protocol and role -> encoder; a role that nobody plays is missing."""
    own: frozenset[tuple[str, str]] = frozenset()
    """Where a role is played by the protocol's own choice."""

    def encoder(self, protocol: Protocol, metric: Metric) -> str | None:
        """Return the encoder that feeds a metric, None where there is none."""
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

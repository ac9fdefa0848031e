"""The sentences beside a reconciliation's tables, and the format of its numbers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from dbbench.evaluation.decision import undecidable
from dbbench.evaluation.scores import REAL
from dbbench.protocols.protocol import Protocol
from dbbench.protocols.scoring import Reconciliation
from dbbench.reports.formats.table import NOT_KNOWN


def encoder_lines(result: Reconciliation) -> list[str]:
    """Return which encoder played which role; where protocols differ, under which."""
    roles: dict[str, dict[str, list[str]]] = {}
    for protocol in result.cast.protocols:
        for metric in result.cast.measures(protocol):
            if encoder := result.cast.encoder(protocol, metric):
                names = roles.setdefault(metric.role, {}).setdefault(encoder, [])
                if protocol.name not in names:
                    names.append(protocol.name)
    lines = []
    for role, encoders in roles.items():
        for encoder, names in encoders.items():
            where = "" if len(encoders) == 1 else f" ({', '.join(names)})"
            lines.append(f"encoder {role}: {encoder}{where}")
    return lines


def remarks(result: Reconciliation) -> list[str]:
    """Return what the numbers can and cannot show, and what of the data set is missing."""
    left_out = [note for note in result.differences["left_out"].unique() if note]
    return [*_coverage_lines(result), *left_out, *_power_lines(result)]


def number(value: float | None, protocol: Protocol, metric: str, *, signed: bool = False) -> str:
    """Return a score with as many decimals as its scale asks for; "-" where there is none."""
    if value is None or pd.isna(value):
        return NOT_KNOWN
    decimals = 1 if protocol.scale.get(metric, 1.0) >= 10 else 3
    return f"{value:{'+' if signed else ''}.{decimals}f}"


def span(
    low: float | None, high: float | None, protocol: Protocol, metric: str, *, signed: bool = False
) -> str:
    """Return an interval, "-" where there is none."""
    if low is None or high is None or pd.isna(low) or pd.isna(high):
        return NOT_KNOWN
    ends = (number(end, protocol, metric, signed=signed) for end in (low, high))
    return " to ".join(ends)


def count(subjects: int) -> str:
    """Return "1 subject", "30 subjects"."""
    return f"{subjects} subject{'' if subjects == 1 else 's'}"


def spread(fewest: Any, most: Any) -> str:
    """Return "4", "1 to 4"."""
    return f"{fewest}" if fewest == most else f"{fewest} to {most}"


def _coverage_lines(result: Reconciliation) -> Iterable[str]:
    for method, own in result.coverage.groupby("method", sort=False):
        prompts, planned = own["prompts"].sum(), own["prompts_planned"].sum()
        each = spread(own["fewest_per_prompt"].min(), own["most_per_prompt"].max())
        other = own["other_prompts"].sum()
        yield (
            f"coverage of {method}: {len(own)} of 30 subjects, {prompts} of their {planned} prompts"
            f"{f' and {other} other' if other else ''}, {each} images each"
            f"{'' if prompts == planned else ' (missing ones in score.md)'}"
        )


def _power_lines(result: Reconciliation) -> Iterable[str]:
    """Yield how large a difference this design can see, and the paper's rule of thumb beside it."""
    protocol = result.cast.protocols[0]
    summary = result.summary[result.summary["protocol"] == protocol.name]
    differences = result.differences[result.differences["protocol"] == protocol.name]
    for metric in result.cast.measures(protocol):
        pairs = differences[differences["metric"] == metric.name]
        own = summary[(summary["metric"] == metric.name) & (summary["method"] != REAL)]
        if own.empty:
            continue
        several = len(pairs) > 0
        needed = (pairs if several else own)["detectable"].max()
        subjects = (pairs if several else own)["subjects"].min()
        what = "two of these methods" if several else "this method and a fixed, published mean"
        if pd.isna(needed):
            size = int(pairs["comparisons"].max()) if several else 1
            yield f"{metric.label}: {undecidable(subjects, size) or 'no difference can be shown'}"
            continue
        thumb = protocol.rule_of_thumb.get(metric.name)
        beside = ""
        if thumb is not None and (protocol.name, metric.role) in result.cast.own:
            beside = f"; the paper calls {thumb:g} significant to users"
        yield (
            f"{metric.label}: {count(subjects)} tell {what} apart from a true difference of "
            f"{number(needed, protocol, metric.name)} on (80% power, Holm p < 0.05){beside}"
        )

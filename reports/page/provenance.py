"""Where a report's numbers come from: weights, versions, settings, machine, time, and credits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dbbench.protocols.protocol import load_protocol
from dbbench.reports.page.curves import machine, read_costs
from dbbench.reports.page.gallery import SubjectPictures
from dbbench.reports.results import Results


def credits_of(pictures: Iterable[SubjectPictures]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return each subject's credits with the numbers of their images, as ("1, 2, 4", credit)."""
    found = []
    for subject in pictures:
        numbers: dict[str, list[int]] = {}
        for position, reference in enumerate(subject.references, 1):
            numbers.setdefault(reference.credit, []).append(position)
        lines = [(", ".join(map(str, places)), credit) for credit, places in numbers.items()]
        found.append((subject.name, lines))
    credits = {credit for _, lines in found for _, credit in lines}
    if len(credits) == 1:
        return [("every subject", [("all", credits.pop())])]
    return found


def facts_of(results: Results, price: float | None) -> list[tuple[str, str]]:
    """Return the facts about a report as (name, value): weights, settings, protocol, versions."""
    record, suite = results.record, results.suite
    identities = record.get("identities", {})
    encoders = identities.get("encoders", {})
    facts = [
        ("Suite", f"{suite.name}: {suite.description}" if suite.description else suite.name),
        ("Backbone", f"{suite.backbone.path}, {suite.backbone.resolution} px"),
        ("Backbone fingerprint", _at(identities, "backbone", "fingerprint")),
    ]
    for role, reference in suite.encoders.items():
        facts.append((f"Encoder in the role {role}", reference))
        facts.append((f"Fingerprint of {reference}", _at(encoders, role, "fingerprint")))
    for method, found in identities.get("methods", {}).items():
        settings = ", ".join(f"{key}={value}" for key, value in found.get("settings", {}).items())
        facts.append((f"Settings of {method}", settings))
    sample = suite.sample.model_dump(exclude={"batch_size"})
    reading = load_protocol("paper")
    facts += [
        ("Sampling", ", ".join(f"{key}={value}" for key, value in sample.items())),
        ("Run seeds", ", ".join(map(str, results.leaderboard.expectation.seeds))),
        ("Reference images", results.suite.source),
        (
            "Reading of the paper",
            f"{reading.name}: each image against {reading.references} reference images, "
            f"prompt text {reading.text.replace('-', ' ')}, real images "
            f"{'with' if reading.self_pairs else 'without'} self-pairs",
        ),
        ("Device", machine(results) or str(record.get("device", ""))),
        *_hours(results, price),
        ("Versions", ", ".join(f"{k} {v}" for k, v in record.get("versions", {}).items())),
    ]
    return [(name, value) for name, value in facts if value]


def _hours(results: Results, price: float | None) -> list[tuple[str, str]]:
    """Return the run's time per stage and in total, and its cost at a price per hour."""
    costs = read_costs(results)
    lines = [(f"Time in {cost.stage}", cost.line) for cost in costs]
    hours = sum(cost.seconds for cost in costs) / 3600
    if hours:
        total = f"{hours:.2f} hours of one device"
        if price is not None:
            total += f", {hours * price:.2f} at {price:g} per hour"
        lines.append(("Total time", total))
    return lines


def _at(mapping: Mapping[str, Any], key: str, inner: str) -> str:
    return str(mapping.get(key, {}).get(inner, ""))

"""Make the plan of a request, or that of an output folder as its last call recorded it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dbbench.data.dataset import load_dataset
from dbbench.errors import UserError
from dbbench.evaluation.metric import load_metric
from dbbench.planning.identity import Identities
from dbbench.planning.plan import Plan
from dbbench.planning.request import Request
from dbbench.plugins import add_method_file, find
from dbbench.storage.record import Record
from dbbench.storage.remote import Remote
from dbbench.suites.runs import Run
from dbbench.suites.suite import Suite


def make_plan(request: Request, device: str) -> Plan:
    """Return the plan, with the recorded fingerprints of its folder; load no network."""
    suite, out, runs = request.suite, request.out, request.runs
    for reference in suite.method_files.values():
        add_method_file(reference)
    _check_names(suite, runs)
    record = Record(out)
    record.refuse_other(suite)
    identities = Identities(suite, device)
    identities.recall(record.identities(), record.selection().join(runs, request.dataset).methods)
    return Plan(suite, out, request.dataset, identities, request.remote)


def _check_names(suite: Suite, runs: Sequence[Run]) -> None:
    """Raise UserError for an unknown plug-in or a metric without its encoder."""
    for method in [*suite.methods, *(run.method for run in runs)]:
        find("methods", suite.row(method).plugin)
    for reference in suite.encoders.values():
        find("encoders", reference.partition(":")[0])
    for name in suite.metrics:
        metric = load_metric(name)
        if metric.compares == "distances":
            raise UserError(
                f"metric {name} is not scored by dbbench run; leave it out, and score the finished"
                f" run: dbbench score {suite.name} --metrics {name}"
            )
        role = metric.role
        if role not in suite.encoders:
            raise UserError(
                f'metric {name} needs an encoder for role "{role}", and suite "{suite.name}" has'
                f" none; add one: --set encoders.{role}=..."
            )


def recorded_plan(
    out: Path, remote: Remote | None = None, *, look: bool = True
) -> tuple[Plan, tuple[Run, ...]]:
    """Return the plan of an output folder as its last call recorded it, and all selected runs.

    With `look`, given weights that were trained anew since then make what follows from them stale.
    Raises UserError if the folder contains no results.
    """
    record = Record(out)
    suite = record.suite()
    for reference in suite.method_files.values():
        add_method_file(reference)
    selection = record.selection()
    identities = Identities(suite, str(record.read().get("device", "cpu")))
    identities.recall(record.identities(), selection.methods, trust=True, look=look)
    plan = Plan(suite, out, load_dataset(suite.source), identities, remote)
    return plan, selection.runs(suite)

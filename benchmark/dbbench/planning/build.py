"""Make the plan of a request, or that of an output folder as its last call recorded it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from dbbench.data.dataset import load_dataset
from dbbench.errors import UserError, unknown
from dbbench.evaluation.metric import load_metric
from dbbench.generation.method import load_method, setting_names
from dbbench.planning.identity import Identities
from dbbench.planning.plan import Plan
from dbbench.planning.request import Request
from dbbench.plugins import add_method_file, find
from dbbench.storage.record import Record
from dbbench.storage.remote import Remote
from dbbench.suites.rows import CONDITIONS
from dbbench.suites.runs import Run
from dbbench.suites.suite import Suite


def make_plan(request: Request, device: str) -> Plan:
    """Return the plan, with the recorded fingerprints of its folder; load no network."""
    runs = request.runs
    for reference in request.suite.method_files.values():
        add_method_file(reference)
    _check_names(request.suite, runs)
    if request.file:
        _check_rows(request.suite, request.file)
    record = Record(request.out)
    record.refuse_other(request.suite)
    suite = _with_earlier_rows(request.suite, record)
    selection = record.selection().join(runs, request.dataset)
    kept = _not_found(suite, selection.methods)
    identities = Identities(suite, device)
    identities.recall(record.identities(), selection.without(kept).methods)
    return Plan(suite, request.out, request.dataset, identities, request.remote, kept)


def _with_earlier_rows(suite: Suite, record: Record) -> Suite:
    """Add the rows that earlier calls in the folder ran and this suite does not define."""
    if not record.read():
        return suite
    earlier = record.suite()
    names = [name for name in record.selection().methods if name not in suite.methods]
    names += [earlier.row(name).training.name for name in names]
    plugins = [earlier.row(name).plugin for name in names]
    rows = {name: earlier.methods[name] for name in names if name in earlier.methods}
    files = {name: earlier.method_files[name] for name in plugins if name in earlier.method_files}
    return suite.model_copy(
        update={"methods": rows | suite.methods, "method_files": files | suite.method_files}
    )


def _not_found(suite: Suite, rows: Iterable[str]) -> dict[str, str]:
    """Register the methods of these rows; return the rows without one, each with the reason."""
    reasons = {}
    for name in rows:
        plugin = suite.row(name).plugin
        try:
            if plugin in suite.method_files:
                add_method_file(suite.method_files[plugin])
            find("methods", plugin)
        except UserError as error:
            reasons[name] = str(error)
    return reasons


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


def _check_rows(suite: Suite, file: str) -> None:
    """Raise UserError for a bad setting of any row, with file, row and key; imports torch."""
    rows = [suite.row(name) for name in suite.methods]
    every = {key for row in rows for key in setting_names(row.plugin)}
    try:
        for key in suite.train.keys() - every:
            raise unknown("setting", key, sorted(every), "dbbench list methods")
    except UserError as error:
        raise UserError(f"{file}, [train]: {error}") from None
    for row in rows:
        try:
            known = [*setting_names(row.plugin), *CONDITIONS]
            for key in row.settings.keys() - set(known):
                raise unknown("setting", key, known, "dbbench list methods")
            load_method(row.plugin, row.method_settings(setting_names(row.plugin)))
        except UserError as error:
            reason = str(error).removeprefix(f"method {row.plugin}: ")
            raise UserError(f"{file}, [methods.{row.name}]: {reason}") from None


def recorded_plan(
    out: Path, remote: Remote | None = None, *, look: bool = True
) -> tuple[Plan, tuple[Run, ...]]:
    """Return the plan of an output folder as its last call recorded it, and all selected runs.

    With `look`, given weights that were trained anew since then make what follows from them stale.
    Raises UserError if the folder contains no results.
    """
    record = Record(out)
    suite, selection = record.suite(), record.selection()
    kept = _not_found(suite, selection.methods)
    selection = selection.without(kept)
    identities = Identities(suite, str(record.read().get("device", "cpu")))
    identities.recall(record.identities(), selection.methods, trust=True, look=look)
    plan = Plan(suite, out, load_dataset(suite.source), identities, remote, kept)
    return plan, selection.runs(suite)

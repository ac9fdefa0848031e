"""Experiment: a suite file that extends another suite and contains only the differences.

`extends` names the suites that it can extend, such as ["paper", "mini"]: one file is then the same
experiment on Stable Diffusion and in the embedded world, and the training settings are in one
place. `[on.NAME]` contains the differences for one of these suites only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dbbench.errors import UserError, unknown
from dbbench.validation import built_in, read_settings

PAPER = (
    "table1",
    "prior-ablation",
    "class-noun-ablation",
    "input-images",
    "identifier",
    "prior-count",
    "steps",
    "applications",
)
"""The suites with experiments of the paper; later ones can reuse the artifacts of earlier ones."""


def bases(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the suites that a suite's file can extend; empty without `extends`."""
    extends = values.get("extends", ())
    return (extends,) if isinstance(extends, str) else tuple(extends)


def resolve(values: Mapping[str, Any], on: str | None = None) -> dict[str, Any]:
    """Return the file's values merged with those of the suite that it extends.

    Tables are merged key by key. Methods are rows: the result has only the rows in the file, and
    each inherits the values of the row `base`, or of the row of the same name. The name becomes
    NAME-EXTENDED, so that the results of the experiment on different suites are kept apart.
    """

    own = dict(values)
    choices = bases(own)
    own.pop("extends", None)
    differences = own.pop("on", {})
    if not choices:
        if on is not None and on != own.get("name"):
            raise UserError(f'suite "{own.get("name")}" does not extend another suite; remove --on')
        return own
    below = on or choices[0]
    if below not in choices:
        raise unknown("suite to extend", below, choices, "")
    for name in differences:
        if name not in choices:
            raise unknown("key", f"on.{name}", [f"on.{choice}" for choice in choices], "")
    base = resolve(read_suite(below))
    own = merge(own, differences.get(below, {}))
    rows = own.get("methods") or dict(base.get("methods", {}))
    inherited = base.get("methods", {})
    methods = {
        name: {**inherited.get(row.get("base", name), {}), **row} for name, row in rows.items()
    }
    merged = merge(base, own) | {"methods": methods}
    merged["name"] = f"{own.get('name', 'unnamed')}-{below}"
    return merged


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two tables recursively; values of `above` replace those of `below`."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


def suite_names() -> tuple[str, ...]:
    """Return the names of the suites that come with dbbench."""
    return tuple(built_in("suite"))


def read_suite(name_or_path: str) -> dict[str, Any]:
    """Return the values in a suite's file, without those that it inherits."""
    return read_settings("suite", name_or_path)

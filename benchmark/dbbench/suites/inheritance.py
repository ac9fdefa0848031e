"""Experiment: a suite file that stands on another suite and says only what is different there.

`extends` names the suites it can stand on, such as ["paper", "mini"]: one file is then the same
experiment on Stable Diffusion and in the embedded world, and what it costs to train well stands in
one place. `[on.NAME]` holds what is different on one of them alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dbbench.errors import UserError, unknown
from dbbench.validation import built_in, read_toml

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
"""The suites that are experiments of the paper; later ones can take over what earlier ones make."""


def bases(values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the suites that a suite's file can stand on; none where it stands by itself."""
    extends = values.get("extends", ())
    return (extends,) if isinstance(extends, str) else tuple(extends)


def resolve(values: Mapping[str, Any], on: str | None = None) -> dict[str, Any]:
    """Return the file's values filled in with those of the suite it stands on.

    Tables are merged key by key. Methods are rows: only those that the file names are there, and
    each takes over what the suite below says of the row `base`, or of the row of its own name.
    The name becomes NAME-BELOW, so that the experiment's results here and there stay apart.
    """

    own = dict(values)
    choices = bases(own)
    own.pop("extends", None)
    differences = own.pop("on", {})
    if not choices:
        if on is not None and on != own.get("name"):
            raise UserError(f'suite "{own.get("name")}" extends no other suite; leave --on out')
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
    """Return both, table by table; where both have a value, that of `above`."""
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
    return read_toml("suite", name_or_path)

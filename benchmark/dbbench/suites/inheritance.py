"""Experiment: a suite file that stands on another suite and says only what is different there.

`extends` names the suites it can stand on, such as ["paper", "mini"]: one file is then the same
experiment on Stable Diffusion and in the embedded world, and what it costs to train well stands in
one place. `[on.NAME]` holds what is different on one of them alone.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from dbbench.errors import UserError, unknown

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
    folder = files("dbbench").joinpath("suites")
    return tuple(sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".toml")))


def read_suite(text: str) -> dict[str, Any]:
    """Return what a suite's file says, as it stands there."""
    if text.endswith(".toml") or "/" in text:
        path = Path(text)
        if not path.is_file():
            raise UserError(f'no suite file "{text}" (dbbench list suites names the built-in ones)')
        content = path.read_text(encoding="utf-8")
    elif text in suite_names():
        content = files("dbbench").joinpath("suites", f"{text}.toml").read_text(encoding="utf-8")
    else:
        raise unknown("suite", text, suite_names(), "dbbench list suites")
    try:
        return tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f'suite "{text}" is not valid TOML: {error}') from None

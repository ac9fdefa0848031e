"""Settings from TOML files: their base class, reading them, and one-line messages for errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from dbbench.errors import UserError, nearest, unknown
from dbbench.text_files import read_toml


class Settings(BaseModel):
    """Base class of all that a suite file contains: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def built_in(kind: Literal["suite", "protocol"]) -> list[str]:
    """Return the names of the suites or protocols that come with dbbench, sorted."""
    folder = files("dbbench").joinpath(f"{kind}s")
    return sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".toml"))


def read_settings(kind: Literal["suite", "protocol"], name_or_path: str) -> dict[str, Any]:
    """Return the values in the TOML file of a built-in suite or protocol, or in the user's own.

    A user's file without a name has that of the file.
    Raises UserError for an unknown name, and for a file that is missing or not valid TOML.
    """
    if name_or_path.endswith(".toml") or "/" in name_or_path:
        path = Path(name_or_path)
        if not path.is_file():
            raise UserError(
                f'no {kind} file "{path}" (dbbench list {kind}s names the built-in {kind}s)'
            )
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._") or kind
        return {"name": name} | read_toml(path, kind)
    if name_or_path in built_in(kind):
        return read_toml(files("dbbench").joinpath(f"{kind}s", f"{name_or_path}.toml"), kind)
    raise unknown(kind, name_or_path, built_in(kind), f"dbbench list {kind}s")


def explain_validation(error: ValidationError, model: type[BaseModel]) -> str:
    """Return one line for the first problem that pydantic found; it names the nearest known key."""
    problem = error.errors()[0]
    location = [str(part) for part in problem["loc"]]
    dotted = ".".join(location) or "value"
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        guess = nearest(location[-1], known)
        parent = "".join(f"{part}." for part in location[:-1])
        advice = (
            f'did you mean "{parent}{guess}"?'
            if guess
            else f"known keys: {', '.join(sorted(known))}"
        )
        return f'unknown key "{dotted}"; {advice}'
    if problem["type"] == "missing":
        return f'"{dotted}" is missing'
    reason = str(problem["msg"]).removeprefix("Value error, ")
    reason = reason[:1].lower() + reason[1:]
    if problem["type"] == "value_error":
        return f"{dotted}: {reason}"
    return f"{dotted} = {problem['input']!r}: {reason}"


def _fields_at(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    """Return the keys that are allowed at this place of a nested model."""
    here: Any = model
    for part in location:
        if part.isdigit():
            continue
        annotation = here.model_fields[part].annotation
        inner = [a for a in (annotation, *get_args(annotation)) if isinstance(a, type)]
        nested = [a for a in inner if issubclass(a, BaseModel)]
        if not nested:
            return []
        here = nested[0]
    return list(here.model_fields)

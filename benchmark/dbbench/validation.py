"""The base class of all settings models, and one-line messages for pydantic's errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from dbbench.errors import nearest


class Settings(BaseModel):
    """Base class of all that a suite file contains: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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

"""Errors that the user can fix: one line with the value and the remedy; every module uses it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """An error that the user can fix; printed as one line, exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def nearest(value: str, known: Iterable[str]) -> str | None:
    """Return the known name closest to `value`, ignoring case, or None if none is close."""
    by_folded = {name.casefold(): name for name in sorted(known)}
    matches = get_close_matches(value.casefold(), list(by_folded), n=1, cutoff=0.5)
    return by_folded[matches[0]] if matches else None


def unknown(kind: str, value: str, known: Iterable[str], command: str) -> UserError:
    """Return the error for an unknown name: it suggests the nearest known name and a remedy.

    `command` lists the known names, such as "dbbench list metrics"; with "" the error lists them.
    """
    names = sorted(known)
    guess = nearest(value, names)
    suggestion = f'; did you mean "{guess}"?' if guess is not None else ""
    if command:
        remedy = f" ({command})" if guess is not None else f"; see: {command}"
    else:
        remedy = f" (known: {', '.join(names) or 'none'})"
    return UserError(f'unknown {kind} "{value}"{suggestion}{remedy}')

"""Errors that the user can put right: one line with value and remedy; all modules use it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake or circumstance that the user can put right; printed as one line, exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def nearest(value: str, known: Iterable[str]) -> str | None:
    """Return the known name closest to `value`, ignoring case, or None where none is close."""
    by_folded = {name.casefold(): name for name in sorted(known)}
    matches = get_close_matches(value.casefold(), list(by_folded), n=1, cutoff=0.5)
    return by_folded[matches[0]] if matches else None


def unknown(kind: str, value: str, known: Iterable[str], command: str) -> UserError:
    """Return the error for a name that does not exist: nearest known name, and where to look.

    `command` is what lists the known names, such as "dbbench list metrics"; "" names them here.
    """
    names = sorted(known)
    guess = nearest(value, names)
    suggestion = f'; did you mean "{guess}"?' if guess is not None else ""
    if command:
        remedy = f" ({command})" if guess is not None else f"; see: {command}"
    else:
        remedy = f" (known: {', '.join(names) or 'none'})"
    return UserError(f'unknown {kind} "{value}"{suggestion}{remedy}')

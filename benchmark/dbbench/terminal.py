"""The console that every command prints to: a user's text is shown as it is."""

from __future__ import annotations

from rich.console import Console


def plain_console(
    *, stderr: bool = False, quiet: bool = False, soft_wrap: bool = False, highlight: bool = True
) -> Console:
    """Return a console that reads no markup in text: "[b]" and ":dog:" in a path stay as they are.

    What is bold or coloured is said by the style of a print, or by a rich.text.Text.
    """
    return Console(
        stderr=stderr,
        quiet=quiet,
        soft_wrap=soft_wrap,
        highlight=highlight,
        markup=False,
        emoji=False,
    )

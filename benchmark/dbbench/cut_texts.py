"""Texts that are longer than a network reads: the line that says so."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 60
"""Characters of a text that are shown."""


def say_cut(texts: Sequence[str], tokens: Sequence[int], limit: int, reader: str) -> str:
    """Return the line on those of the texts that have more tokens than `reader` reads; "" if none.

    `tokens` and `limit` count the marks of beginning and end as well.
    """
    counts = dict(zip(texts, tokens, strict=True))
    long = {text: count for text, count in counts.items() if count > limit}
    if not long:
        return ""
    text, count = max(long.items(), key=lambda item: item[1])
    shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
    share = f"{len(long)} of {len(counts)} texts" if len(counts) > 1 else "a text"
    return (
        f"{share} {'are' if len(long) > 1 else 'is'} cut: {reader} reads {limit} tokens, and what"
        f' is behind has no effect; the longest has {count}: "{shown}"'
    )

"""Which images of two methods may be compared: those of the same subject, prompt and seed."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

ENOUGH = 0.5
"""The share of the smaller side's images that both must have for a comparison."""


@dataclass(frozen=True)
class Shared:
    """The rows of two score tables whose subject, prompt and seed are in both."""

    a: pd.DataFrame
    b: pd.DataFrame
    keys: tuple[str, ...]
    """The columns that decide; a column without values on one side, or without one in common
    (other seeds), is left out."""
    left_out: tuple[int, int]
    """How many rows of a and of b the other has no counterpart of."""

    @property
    def problem(self) -> str:
        """Why these are too few rows for a comparison; "" if they are enough."""
        kept, out = (len(self.a), len(self.b)), self.left_out
        sides = [(k, k + o) for k, o in zip(kept, out, strict=True)]
        shared, whole = min(sides, key=lambda side: side[1])
        if shared >= ENOUGH * whole:
            return ""
        return f"only {shared} of {whole} images have the same {self.what} in both"

    @property
    def swapped(self) -> Shared:
        """The same with b first."""
        return Shared(self.b, self.a, self.keys, self.left_out[::-1])

    @property
    def what(self) -> str:
        """The keys in words."""
        *first, last = self.keys
        return f"{', '.join(first)} and {last}" if first else last

    def note(self, a: str, b: str) -> str:
        """Say what is left out of the comparison of the methods `a` and `b`; "" if nothing is.

        Subjects that one side lacks are counted elsewhere.
        """
        if self.keys == ("subject",):
            return ""
        sides = zip((a, b), self.left_out, strict=True)
        parts = [
            f"{count} image{'' if count == 1 else 's'} of {name}" for name, count in sides if count
        ]
        if not parts:
            return ""
        return f"{a} - {b} leaves out {' and '.join(parts)}: no counterpart of the same {self.what}"


def shared_rows(a: pd.DataFrame, b: pd.DataFrame) -> Shared:
    """Keep the rows of each table that have a counterpart in the other.

    Columns: subject, and prompt and seed where there are any.
    """
    keys = ["subject"]
    for column in ("prompt", "seed"):
        if column in a and column in b:
            common = set(a[column].dropna().unique()) & set(b[column].dropna().unique())
            either = a[column].notna().any() and b[column].notna().any()
            if common or (column == "prompt" and either):
                keys.append(column)
    cells = [pd.MultiIndex.from_frame(table[keys]) for table in (a, b)]
    kept = a.loc[cells[0].isin(cells[1])], b.loc[cells[1].isin(cells[0])]
    return Shared(*kept, tuple(keys), (len(a) - len(kept[0]), len(b) - len(kept[1])))

"""Tables on the terminal: columns where they fit, else one value after the other; none is cut."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = Sequence[str | Text]
NARROW = (0, 1, 0, 0)
LONGEST, SHORT = 24, 12
"""A longer word among the texts is folded, such as a path; the second holds where it is narrow."""


def print_table(
    console: Console,
    title: str,
    header: Sequence[str],
    rows: Sequence[Row],
    *,
    banners: Sequence[str] = (),
    left: Collection[int] = (0,),
) -> None:
    """Print a table; a row of one cell is a heading. Nothing in it is read as markup.

    Without a title it is a plain list, with no lines around it.
    Columns in `left` hold texts, which may wrap; all others hold numbers and keep their width. On a
    terminal that is too narrow each row is printed as "mean: 0.419; rank: 1" under its name.
    """
    lines = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    for padding, gap, word in (((0, 1), 3, LONGEST), (NARROW, 2, LONGEST), (NARROW, 2, SHORT)):
        space = console.width - gap * (len(header) - 1) - 2
        if widths := _widths(header, lines, left, space, word):
            table = Table(
                title=Text(title, style="table.title") if title else None,
                caption=Text("\n".join(banners), style="table.caption") if banners else None,
                box=box.SIMPLE_HEAD if title else None,
                header_style="bold",
                pad_edge=False,
                padding=padding,
            )
            for place, (name, width) in enumerate(zip(header, widths, strict=True)):
                side = "left" if place in left else "right"
                table.add_column(Text(name), justify=side, width=width, overflow="fold")  # type: ignore[arg-type]
            for line in lines:
                table.add_row(*line, style="bold" if len(line) == 1 else "")
            console.print(table)
            return
    if title:
        console.print(Text(title, style="table.title"))
    for line in lines:
        names = [line[0], *(cell for n, cell in enumerate(line) if n in left and n and cell)]
        console.print(Text(", ").join(names), style="bold" if len(line) == 1 else "")
        indent = " " * (_indent(line[0].plain) + 2)
        rest = [
            f"{header[place]}: {cell.plain.strip()}"
            for place, cell in enumerate(line)
            if place > 0 and place not in left and cell.plain.strip()
        ]
        for text in _packed(rest, console.width - len(indent)):
            console.print(Text(indent + text, style=line[0].style))
    for banner in banners:
        console.print(Text(banner, style="table.caption"))
    if title:
        console.print()


def _widths(
    header: Sequence[str],
    lines: Sequence[Sequence[Text]],
    left: Collection[int],
    space: int,
    fold: int,
) -> list[int]:
    """Return the columns' widths, the widest texts narrowed first; none where they cannot fit."""
    natural, least = [], []
    for place, name in enumerate(header):
        cells = [line[place].plain for line in lines if place < len(line)]
        widest = max((cell_len(part) for cell in cells for part in cell.split("\n")), default=0)
        limit = fold if place else LONGEST
        word = max(_longest_word(text, limit) for text in (name, *(cells if place in left else ())))
        natural.append(max(widest, cell_len(name)))
        least.append(word if place in left else max(widest, word))
    if sum(least) > space:
        return []
    while sum(natural) > space:
        slack = [wide - low for wide, low in zip(natural, least, strict=True)]
        natural[max(range(len(slack)), key=lambda place: (slack[place] > 0, natural[place]))] -= 1
    return natural


def _longest_word(text: str, limit: int) -> int:
    return _indent(text) + min(limit, max(map(cell_len, text.split()), default=0))


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def _packed(parts: Sequence[str], width: int) -> Iterator[str]:
    """Yield lines of "name: value; name: value", no longer than `width` where that can be."""
    line = ""
    for part in parts:
        if line and cell_len(f"{line}; {part}") > width:
            yield f"{line};"
            line = part
        else:
            line = f"{line}; {part}" if line else part
    if line:
        yield line

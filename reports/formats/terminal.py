"""Tables on the terminal: columns where they fit, else one value after the other; none is cut."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = Sequence[str | Text]
LONGEST = 24
"""A longer word among the texts is folded, such as a path."""


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

    Columns in `left` hold texts, which may wrap; all others hold numbers and keep their width. On a
    terminal that is too narrow each row is printed as "mean: 0.419; rank: 1" under its name.
    """
    lines = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    for padding, gap in (((0, 1), 3), ((0, 1, 0, 0), 2)):
        space = console.width - gap * (len(header) - 1) - 2
        if widths := _widths(header, lines, left, space):
            table = Table(
                title=Text(title, style="table.title"),
                caption=Text("\n".join(banners), style="table.caption") if banners else None,
                box=box.SIMPLE_HEAD,
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
    console.print(Text(title, style="table.title"))
    for line in lines:
        names = [cell for place, cell in enumerate(line) if place in left or place == 0]
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
    console.print()


def _widths(
    header: Sequence[str], lines: Sequence[Sequence[Text]], left: Collection[int], space: int
) -> list[int]:
    """Return the columns' widths, the widest texts narrowed first; none where they cannot fit."""
    natural, least = [], []
    for place, name in enumerate(header):
        cells = [line[place].plain for line in lines if place < len(line)]
        widest = max(map(cell_len, cells), default=0)
        word = max(map(_longest_word, [name, *cells] if place in left else [name]))
        natural.append(max(widest, cell_len(name)))
        least.append(word if place in left else max(widest, word))
    if sum(least) > space:
        return []
    while sum(natural) > space:
        slack = [wide - low for wide, low in zip(natural, least, strict=True)]
        natural[max(range(len(slack)), key=lambda place: (slack[place] > 0, natural[place]))] -= 1
    return natural


def _longest_word(text: str) -> int:
    return _indent(text) + min(LONGEST, max(map(cell_len, text.split()), default=0))


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

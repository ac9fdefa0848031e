"""A table as LaTeX with booktabs: \\usepackage{booktabs} and \\input are all that a paper needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

_MARKS = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "\u2212": "$-$",
    '"': "''",
}


def latex_table(
    name: str, caption: str, header: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1
) -> str:
    """Return a table environment; the first `texts` columns are words, the rest are numbers."""
    columns = "l" * texts + "r" * (len(header) - texts)
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{tab:{name}}}",
        rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
        r"\toprule",
        " & ".join(map(escape, header)) + r" \\",
        r"\midrule",
        *(" & ".join(map(escape, row)) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def latex_document(names: Iterable[str]) -> str:
    """Return a document that shows the tables beside it, to look at them."""
    inputs = "\n".join(rf"\input{{{name}.tex}}" for name in names)
    return (
        "\\documentclass{article}\n\\usepackage[utf8]{inputenc}\n\\usepackage[T1]{fontenc}\n"
        "\\usepackage{booktabs}\n\\usepackage[margin=1cm,landscape]{geometry}\n"
        f"\\begin{{document}}\n\\small\n{inputs}\n\\end{{document}}\n"
    )


def escape(text: str) -> str:
    """Return text in which nothing is a command, and negative numbers have a real minus."""
    if len(text) > 1 and text[0] == "-" and text[1].isdigit():
        text = f"\u2212{text[1:]}"
    return "".join(_MARKS.get(mark, mark) for mark in text)

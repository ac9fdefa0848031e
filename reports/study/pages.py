"""Print and write a study's results: tables on the terminal and in files, and an HTML page."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from dbbench.files import write_text
from dbbench.reports.formats.latex import latex_document
from dbbench.reports.formats.table import Table, cell, markdown_table, tex, write_table
from dbbench.reports.formats.terminal import print_table
from dbbench.reports.study.preferences import Preferences


def write_study(preferences: Preferences, folder: Path) -> list[Table]:
    """Write every table in four formats; return the tables."""
    made = preferences.all_tables()
    for table, banners in made:
        write_table(table, folder, origin="user study", banners=banners)
    return [table for table, _ in made]


def write_study_page(preferences: Preferences, folder: Path) -> Path:
    """Write a study's tables, results.md, results.tex and page; return the page's path."""
    from dbbench.reports.page.render import environment, style

    made = write_study(preferences, folder)
    tables = preferences.all_tables()
    text = [f"# User study: {', '.join(preferences.questions)}\n"]
    text += [markdown_table(table, banners) for table, banners in tables]
    text += [f"{cell(note)}.\n" for note in preferences.notes]
    write_text(folder / "results.md", "\n".join(text))
    source = "\n".join(tex(t, origin="user study", banners=banners) for t, banners in tables)
    write_text(folder / "results.tex", source)
    write_text(folder / "all.tex", latex_document(table.name for table in made))
    banner = "; ".join(preferences.banners) or None
    context = {"style": style(), "banner": banner, "study": preferences}
    page = environment().get_template("study.html.j2").render(context)
    write_text(folder / "index.html", page)
    return folder / "index.html"


def print_study(preferences: Preferences, console: Console) -> None:
    """Print all tables within 80 columns, then findings and notes."""
    for table, banners in preferences.all_tables():
        if table.name == "study-verdicts":
            continue
        print_table(console, table.title, table.header, table.rows, banners=banners)
    for finding in preferences.findings:
        styles = {"reproduced": "green", "not reproduced": "red"}
        colour = "yellow" if finding.simulated else styles.get(finding.outcome, "yellow")
        console.print(finding.sentence, style=colour, highlight=False, markup=False)
    for note in preferences.notes:
        console.print(note, style="dim", highlight=False, markup=False)

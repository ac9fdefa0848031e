"""Tables of what there is to choose from, for `dbbench list`; imports no plugin."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from dbbench.data.prompt import load_prompts
from dbbench.data.subject import load_subjects, select_subjects
from dbbench.plugins import Kind, find, names, provenance
from dbbench.protocols.protocol import load_protocol, protocol_names
from dbbench.suites.inheritance import bases, read_suite, suite_names
from dbbench.suites.suite import load_suite


def subjects_table() -> Table:
    """The 30 subjects."""
    table = _table("subject", "class noun", "kind", "images")
    for subject in load_subjects():
        table.add_row(subject.name, subject.class_noun, subject.kind, str(len(subject.photos)))
    return table


def prompts_table() -> Table:
    """Both lists of 25 prompts."""
    table = _table("id", "category", "for", "text")
    objects, live = load_prompts(False), load_prompts(True)
    both = {prompt.id for prompt in objects} & {prompt.id for prompt in live}
    for prompt in objects:
        kind = "object, live" if prompt.id in both else "object"
        table.add_row(prompt.id, prompt.category, kind, prompt.text)
    for prompt in live:
        if prompt.id not in both:
            table.add_row(prompt.id, prompt.category, "live", prompt.text)
    return table


def suites_table() -> Table:
    """The suites that come with dbbench, then the experiments that stand on them."""
    table = _table("suite", "backbone", "px", "subjects", "what it is")
    experiments = []
    for name in suite_names():
        values = read_suite(name)
        if below := bases(values):
            experiments.append((name, f"that of {' or '.join(below)}", "", values))
        else:
            backbone = load_suite(name).backbone
            table.add_row(name, backbone.path, str(backbone.resolution), *_about(values))
    for name, below_it, resolution, values in experiments:
        table.add_row(name, below_it, resolution, *_about(values))
    return table


def protocols_table() -> Table:
    """The published readings of the paper."""
    table = _table("protocol", "what it is, what it chooses, and the source")
    for name in protocol_names():
        protocol = load_protocol(name)
        choices = f"references {protocol.references}, text {protocol.text}"
        table.add_row(
            name,
            f"{protocol.description}\n{choices}, mean over {protocol.aggregation}s"
            f"\n[dim]{escape(protocol.source)}[/]\n",
        )
    return table


def _about(values: dict[str, Any]) -> tuple[str, str]:
    return str(len(select_subjects(values.get("subjects", "all")))), values["description"]


def plugins_table(kind: Kind) -> Table:
    """Methods, encoders or metrics, each with the first line of its own file."""
    table = _table(kind[:-1], "what it is, and where it is from")
    for name in names(kind):
        what, where = _describe(find(kind, name).module), provenance(kind, name)
        table.add_row(name, f"{escape(what)}\n[dim]{escape(where)}[/]")
    return table


def _describe(module: str) -> str:
    """Return the first line of a module's docstring, read from its source."""
    try:
        spec = find_spec(module)
        source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
        return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    except (ImportError, OSError, SyntaxError, ValueError):
        return "cannot be read"


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    return table

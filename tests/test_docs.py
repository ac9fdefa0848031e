"""Claims about the documentation: what it names exists, and the ten questions are answered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TOPS = ("benchmark", "baselines", "reports", "subjects", "prompts", "tests", "docs")
NAMED = re.compile(rf"(?<![\w./-])(?:{'|'.join(TOPS)})/[\w./+*-]*[\w/]")
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)")
QUESTIONS = 10


def pages(repository: Path) -> Iterator[Path]:
    yield repository / "README.md"
    yield repository / "CONTRIBUTING.md"
    yield from sorted((repository / "docs").rglob("*.md"))


def test_every_source_file_that_a_page_names_exists(repository: Path) -> None:
    missing = []
    for page in pages(repository):
        # What a command writes need not be there.
        text = re.sub(r"--out \S+", "", page.read_text("utf-8"))
        named = {match.rstrip("/") for match in NAMED.findall(text)}
        missing += [f"{page.name}: {name}" for name in named if not any(repository.glob(name))]
    assert not missing, sorted(missing)


def test_every_link_to_a_file_leads_somewhere(repository: Path) -> None:
    missing = []
    for page in pages(repository):
        for target in LINK.findall(page.read_text("utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                missing.append(f"{page.name}: {target}")
    assert not missing, sorted(missing)


def test_every_module_in_the_tree_of_the_architecture_is_in_its_package(repository: Path) -> None:
    text = (repository / "docs/architecture.md").read_text("utf-8")
    missing, seen = [], 0
    for row in _table(text, "## The tree"):
        folder = CODE.findall(row[0])[0]
        for module in CODE.findall(row[-1]):
            if module.endswith(".py"):
                seen += 1
                missing += [f"{folder}{module}"] * (not (repository / folder / module).is_file())
    assert not missing, missing
    assert seen > 50


def test_the_ten_questions_are_answered_in_at_most_two_files_each(repository: Path) -> None:
    rows = _table((repository / "docs/architecture.md").read_text("utf-8"), "## Ten questions")
    assert len(rows) == QUESTIONS
    for question, answer in rows:
        files = [name for name in CODE.findall(answer) if (repository / name).is_file()]
        assert 1 <= len(files) <= 2, question


def test_the_readme_is_one_page_with_the_two_commands(repository: Path) -> None:
    text = (repository / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 120
    for line in ("    make demo", "    make test"):
        assert line in text


@pytest.mark.parametrize("host", ["pypi", "pythonhosted", "conda.anaconda"])
def test_no_page_names_a_registry(repository: Path, host: str) -> None:
    for page in pages(repository):
        assert f"{host}.org" not in page.read_text("utf-8"), page


def _table(text: str, heading: str) -> list[list[str]]:
    """The rows of the first table below a heading, as cells."""
    below = text.partition(f"{heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in below.splitlines() if line.startswith("|")]
    return rows[2:]

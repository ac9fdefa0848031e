"""Preferences: results of user studies as the paper's Table 2, with verdicts; reports show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dbbench.errors import UserError
from dbbench.evaluation.decision import Difference
from dbbench.evaluation.statistics import Interval
from dbbench.reports.formats.table import Table, percent, span
from dbbench.reports.page.verdicts import Outcome, decide
from dbbench.suites.paper_table import Claim

if TYPE_CHECKING:
    from dbbench.study.analysis.summary import Analysis

TITLE = "Table 2: what people prefer"
SOURCE = "arXiv 2208.12242, Table 2"
NOTE = (
    "Published: 72 raters and 1,800 answers for each question, by majority vote of three raters, "
    "DreamBooth and Textual Inversion on Stable Diffusion."
)
LABELS = {"dreambooth": "DreamBooth", "textual_inversion": "Textual Inversion"}
PAPER_METHODS = ("dreambooth", "textual_inversion")
PUBLISHED = {"subject": (0.68, 0.22, 0.10), "prompt": (0.81, 0.12, 0.07)}
"""For each question the published shares of DreamBooth, Textual Inversion and undecided."""
ROWS = ("first", "second", "undecided")


@dataclass(frozen=True)
class Finding:
    """Whether this study reproduces the paper's preference for DreamBooth."""

    text: str
    outcome: Outcome
    numbers: str
    simulated: bool

    @property
    def sentence(self) -> str:
        """The finding, the verdict and the numbers behind it."""
        mark = " (simulated raters)" if self.simulated else ""
        return f"{self.text}: {self.outcome}{mark} ({self.numbers})."


@dataclass(frozen=True)
class PreferenceShare:
    """A share of the pairs by majority vote; None if it was not measured, or not published."""

    found: float | None
    low: float | None
    high: float | None
    published: float | None


@dataclass(frozen=True)
class Preferences:
    """The results of several studies, and the problems with studies that are not readable."""

    studies: tuple[Analysis, ...]
    problems: tuple[str, ...] = ()
    made_of: tuple[tuple[str, ...], ...] = ()
    """The names of each study's runs; only `find_preferences` sets them."""
    title = TITLE
    source = SOURCE
    note = NOTE

    def of(self, run: Path) -> Preferences:
        """Return the studies that were made from an output folder."""
        chosen = [run.absolute().name in names for names in self.made_of]
        return Preferences(tuple(compress(self.studies, chosen)))

    @property
    def banners(self) -> tuple[str, ...]:
        """The banners that every result of these studies must show."""
        return tuple(dict.fromkeys(b for study in self.studies for b in study.banners))

    @property
    def questions(self) -> tuple[str, ...]:
        """The title of each study's question."""
        from dbbench.reports.study.study_tables import study_title

        return tuple(study_title(study) for study in self.studies)

    @property
    def rows(self) -> list[tuple[str, list[PreferenceShare]]]:
        """The paper's rows for each pair of methods, with a share for each study."""
        pairs: dict[tuple[str, str], list[Mapping[Any, Any] | None]] = {}
        for place, study in enumerate(self.studies):
            for row in study.majority.to_dict("records"):
                pair = (str(row["first"]), str(row["second"]))
                pairs.setdefault(pair, [None] * len(self.studies))[place] = row
        rows = []
        for pair in sorted(pairs, key=lambda pair: pair != PAPER_METHODS):
            for number, key in enumerate(ROWS):
                names = [LABELS.get(method, method) for method in pair]
                name = "undecided" if key == "undecided" else names[number]
                of = f" ({' or '.join(names)})" if len(pairs) > 1 else ""
                shares = [
                    _share(
                        found, key, PUBLISHED.get(study.question) if pair == PAPER_METHODS else None
                    )
                    for study, found in zip(self.studies, pairs[pair], strict=True)
                ]
                rows.append((f"{name}{of}", shares))
        return rows

    @property
    def findings(self) -> list[Finding]:
        """One finding for each study that compares the paper's two methods."""
        found = []
        for study, question in zip(self.studies, self.questions, strict=True):
            for row in study.majority.to_dict("records"):
                if (row["first"], row["second"]) == PAPER_METHODS:
                    found.append(_finding(row, question, study.simulated))
        return found

    @property
    def notes(self) -> list[str]:
        """Counts of each study, missing results, and studies that are not readable."""
        lines = []
        for study, question in zip(self.studies, self.questions, strict=True):
            pairs, answers = (int(study.majority[key].sum()) for key in ("pairs", "answers"))
            counts = f"{pairs:,} pairs, {answers:,} answers, {len(study.checks)} raters"
            lines.append("; ".join([f"{question}: {counts}", *study.notes]))
        return [*lines, *self.problems]

    def table(self) -> Table:
        """Return the paper's table."""
        header, data, rows = ["preferred"], [], []
        for question in self.questions:
            header += [question, "95%", "published"]
        for name, shares in self.rows:
            line = [name]
            for study, share in zip(self.studies, shares, strict=True):
                line += [percent(share.found), span(share.low, share.high)]
                line.append(percent(share.published))
                values = {"found": share.found, "low": share.low, "high": share.high}
                values["published"] = share.published
                data.append({"preferred": name, "question": study.question, **values})
            rows.append(line)
        title = f"{TITLE} ({SOURCE})"
        note = f"{NOTE} Here: {'; '.join(self.notes)}."
        return Table("study", title, header, rows, pd.DataFrame(data), note=note)

    def all_tables(self) -> list[tuple[Table, tuple[str, ...]]]:
        """Return the paper's table, the verdicts and each study's tables, with their banners."""
        if not self.studies:
            return []
        from dbbench.reports.study.study_tables import study_tables

        findings = self.findings
        header = ["finding", "verdict", "numbers"]
        rows = [[f.text, _marked(f), f.numbers] for f in findings]
        verdicts = Table(
            "study-verdicts",
            "findings of the user study",
            header,
            rows,
            pd.DataFrame([vars(finding) for finding in findings]),
            texts=3,
        )
        found = [(self.table(), self.banners), (verdicts, self.banners)]
        for study in self.studies:
            found += [(table, study.banners) for table in study_tables(study)]
        return [(table, banners) for table, banners in found if table.rows]

    @property
    def details(self) -> list[tuple[Table, tuple[str, ...]]]:
        """The tables of each study, without the paper's table and the verdicts."""
        return self.all_tables()[1 + bool(self.findings) :]


def find_preferences(*runs: Path) -> Preferences:
    """Return the studies beside these output folders that were made from them and have answers."""
    from dbbench.study.design.study import SQLITE_FILE, STUDY_FILE, load_study

    studies, made_of, problems = [], [], []
    names = {run.absolute().name for run in runs}
    for place in sorted({run.absolute().parent for run in runs}):
        for record in sorted(place.glob(f"*/{STUDY_FILE}")):
            if not (record.parent / SQLITE_FILE).is_file():
                continue
            try:
                own = load_study(record.parent).runs
                if names & set(own):
                    studies.append(_analyse(record.parent))
                    made_of.append(own)
            except UserError as error:
                problems.append(f"{record.parent.name}: {error}")
    return Preferences(tuple(studies), tuple(problems), tuple(made_of))


def read_preferences(sources: Sequence[Path]) -> Preferences:
    """Return the studies in these folders and files of answers.

    A folder without answers of people is read with its simulated answers. Raises UserError if a
    source is not readable.
    """
    return Preferences(tuple(_analyse(source) for source in sources))


def _analyse(source: Path) -> Analysis:
    from dbbench.study import require_extra

    require_extra()
    from dbbench.study.analysis.results import analyse_file, analyse_folder, simulated_url
    from dbbench.study.design.study import SIMULATED_FILE, SQLITE_FILE

    if source.is_file():
        return analyse_file(source)
    only_simulated = not (source / SQLITE_FILE).is_file() and (source / SIMULATED_FILE).is_file()
    return analyse_folder(source, simulated_url(source) if only_simulated else None)


def _share(
    row: Mapping[Any, Any] | None, key: str, published: Sequence[float] | None
) -> PreferenceShare:
    printed = None if published is None else published[ROWS.index(key)]
    if row is None:
        return PreferenceShare(None, None, None, printed)
    value, low, high = (_known(row[f"{key}_{end}"]) for end in ("share", "low", "high"))
    return PreferenceShare(value, low, high, printed)


def _finding(row: Mapping[Any, Any], question: str, simulated: bool) -> Finding:
    low, high = _known(row["difference_low"]), _known(row["difference_high"])
    difference, pairs = float(row["difference"]), int(row["pairs"])
    text = f"People prefer DreamBooth to Textual Inversion in {question}"
    claim = Claim(text=text, metric="preference", first=PAPER_METHODS[0], second=PAPER_METHODS[1])
    outcome = decide(claim, Difference(difference, Interval(low, high), None, pairs))
    between = "" if low is None or high is None else f", 95% {100 * low:+.1f} to {100 * high:+.1f}"
    numbers = f"{100 * difference:+.1f} points{between}, {pairs:,} pairs"
    return Finding(text, outcome, numbers, simulated)


def _marked(finding: Finding) -> str:
    return f"{finding.outcome}{' (simulated raters)' if finding.simulated else ''}"


def _known(value: Any) -> float | None:
    return None if pd.isna(value) else float(value)

"""The regression gate: a finished run against a baseline in JSON, and what `dbbench check` prints.

What is compared is one training: a subject with a seed, its mean over all images. A change of code
that makes nothing worse leaves these as likely to rise as to fall. The decision is that of every
table (`evaluation/decision.py`), with trainings in place of subjects; all methods and metrics of
the check are one family, so that the chance of even one false alarm stays below 5%. A difference
that is certain but small may be tolerated, metric by metric.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich.console import Console
from rich.text import Text

from dbbench.errors import UserError, unknown
from dbbench.evaluation.decision import Difference, decide, undecidable
from dbbench.evaluation.metric import Metric
from dbbench.files import write_text
from dbbench.reports.comparable import difference_between, identity
from dbbench.reports.formats.table import cell, number, p_value
from dbbench.reports.formats.terminal import print_table
from dbbench.reports.results import Results
from dbbench.text_files import read_toml

BASELINE_VERSION = 1
FAMILY = "all lines of the check"


@dataclass(frozen=True)
class Line:
    """One method on one metric: new minus baseline over the trainings that both have."""

    method: str
    metric: Metric
    baseline: float
    new: float
    found: Difference
    """New minus baseline, over trainings in place of subjects."""
    tolerance: float

    @property
    def trainings(self) -> int:
        """How many trainings both have."""
        return self.found.subjects

    @property
    def loss(self) -> float:
        """How much worse the new value is, in the metric's units; negative is better."""
        return (self.baseline - self.new) * (1 if self.metric.higher_is_better else -1)

    @property
    def regressed(self) -> bool:
        """Whether it is worse by more than is tolerated, and not by chance."""
        return self.found.decided and self.loss > self.tolerance

    @property
    def verdict(self) -> str:
        """The verdict as the tables show it."""
        if self.regressed:
            return "REGRESSED"
        worse = self.found.decided and self.loss > 0
        return "worse, tolerated" if worse else "no regression"


def baseline_of(results: Results) -> dict[str, Any]:
    """Return the content of a baseline file: the run's identity, and the means of each training."""
    scores = results.scores.loc[results.scores["seed"].notna()]
    keys = ["method", "metric", "subject", "seed"]
    means = scores.groupby(keys, observed=True)["value"].mean().reset_index()
    trainings: dict[str, dict[str, dict[str, float]]] = {}
    for method, metric, subject, seed, value in means.itertuples(index=False, name=None):
        rows = trainings.setdefault(str(method), {}).setdefault(str(metric), {})
        rows[f"{subject}/{seed}"] = float(value)
    return {
        "version": BASELINE_VERSION,
        "suite": results.suite.name,
        "identity": identity(results),
        "trainings": trainings,
    }


def write_baseline(results: Results, path: Path) -> None:
    """Write the run as the baseline of later checks."""
    text = json.dumps(baseline_of(results), indent=1, ensure_ascii=False, sort_keys=True)
    write_text(path, text + "\n")


def read_baseline(path: Path) -> dict[str, Any]:
    """Read a baseline. Raises UserError for one that is missing, damaged or of another version."""
    remedy = "make it with: dbbench check RUN --against FILE --update"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = document["version"]
        if found != BASELINE_VERSION or not isinstance(document["trainings"], dict):
            raise UserError(
                f"{path} is a baseline of version {found}, not {BASELINE_VERSION}; {remedy}"
            )
    except FileNotFoundError:
        raise UserError(f"there is no baseline {path}; {remedy}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no baseline ({error}); {remedy}") from None
    return dict(document)


def read_tolerance(path: Path | None, metrics: Mapping[str, Metric]) -> dict[str, float]:
    """Read a TOML file of metric = how much worse is tolerated; none without a file."""
    if path is None:
        return {}
    values = read_toml(path, "the tolerance file")
    for name, value in values.items():
        if name not in metrics:
            raise unknown("metric", name, metrics, "")
        if not isinstance(value, int | float) or value < 0:
            raise UserError(
                f"{path}: {name} = {value!r}; write how much is tolerated, such as 0.01"
            )
    return {name: float(value) for name, value in values.items()}


def check(
    results: Results, baseline: Mapping[str, Any], tolerance: Mapping[str, float]
) -> tuple[Line, ...]:
    """Compare a run with a baseline, method by method and metric by metric.

    Different seeds are paired in their order; the result then includes the noise between seeds.
    Raises UserError if the two cannot be compared, if the run lacks trainings that the baseline
    has, and if there are too few trainings for any loss to be significant.
    """
    if problem := difference_between(identity(results), baseline["identity"]):
        raise UserError(
            f"{results.out} (suite {results.suite.name}) cannot be compared with this baseline"
            f" (suite {baseline.get('suite', 'unknown')}); they differ in {problem}"
        )
    new = baseline_of(results)["trainings"]
    metrics = {metric.name: metric for metric in results.metrics}
    found: list[tuple[str, str, list[float], list[float]]] = []
    for method, by_metric in sorted(baseline["trainings"].items()):
        for metric, old in by_metric.items():
            pairs = _pairs(old, new.get(method, {}).get(metric, {}))
            if missing := len(old) - len(pairs):
                raise UserError(
                    f"{results.out} lacks {missing} of {len(old)} trainings of {method}; finish the"
                    " run, or write a new baseline with --update"
                )
            found.append((method, metric, [a for a, _ in pairs], [b for _, b in pairs]))
    _require_enough_trainings(found)
    decided = decide(((now, old) for _, _, old, now in found), family=FAMILY)
    return tuple(
        Line(
            method,
            metrics[metric],
            sum(old) / len(old),
            sum(now) / len(now),
            difference,
            tolerance.get(metric, 0.0),
        )
        for (method, metric, old, now), difference in zip(found, decided, strict=True)
    )


def _pairs(old: Mapping[str, float], new: Mapping[str, float]) -> list[tuple[float, float]]:
    """Pair trainings by subject and seed, or by the order of the seeds if these differ."""
    if old.keys() <= new.keys():
        return [(old[key], new[key]) for key in sorted(old)]
    return [
        (a, b)
        for subject in sorted({key.rpartition("/")[0] for key in old})
        for a, b in zip(_of(old, subject), _of(new, subject), strict=False)
    ]


def _of(trainings: Mapping[str, float], subject: str) -> list[float]:
    own = {key: value for key, value in trainings.items() if key.rpartition("/")[0] == subject}
    return [own[key] for key in sorted(own, key=lambda key: int(key.rpartition("/")[2]))]


def _require_enough_trainings(found: list[tuple[str, str, list[float], list[float]]]) -> None:
    """Raise UserError where not even a loss in every training could be told from chance."""
    fewest = min((len(old) for _, _, old, _ in found), default=0)
    if reason := undecidable(fewest, len(found), unit="training"):
        raise UserError(
            f"{reason} (a training is a subject with a seed); add subjects or seeds, or check fewer"
            " methods"
        )


HEADER = ("method", "metric", "baseline", "now", "difference", "trainings", "p (Holm)", "verdict")
HOW = (
    "Paired by subject and seed; sign-flip test, Holm over all lines, which are one family. "
    "REGRESSED is worse with p < 0.05 and by more than the tolerance."
)


def print_lines(lines: Sequence[Line], console: Console, *, title: str, banner: str | None) -> None:
    """Print one line for each method and metric; they fit into 80 columns."""
    rows = []
    for line in lines:
        method, metric, *numbers, _, p, verdict = _cells(line)
        style = "bold red" if line.regressed else ""
        cells = (f"{method}, {metric}", *numbers, p, verdict)
        rows.append([Text(cell, style=style) for cell in cells])
    header = ("method, metric", "baseline", "now", "change", "p (Holm)", "verdict")
    banners = [banner] if banner else []
    print_table(console, title, header, rows, banners=banners, left=(0, 5))
    counts = sorted({line.trainings for line in lines})
    trainings = " or ".join(map(str, counts))
    console.print(f"{trainings} trainings of each (subjects x seeds). {HOW}", style="dim")


def junit(lines: Sequence[Line], *, suite: str, banner: str | None) -> str:
    """Return JUnit XML: one test case for each method and metric."""
    failed = [line for line in lines if line.regressed]
    root = ElementTree.Element("testsuites")
    counts = {"tests": str(len(lines)), "failures": str(len(failed)), "errors": "0"}
    cases = ElementTree.SubElement(root, "testsuite", {"name": f"dbbench check {suite}", **counts})
    if banner:
        properties = ElementTree.SubElement(cases, "properties")
        ElementTree.SubElement(properties, "property", name="banner", value=banner)
    for line in lines:
        name = {"classname": f"{suite}.{line.method}", "name": line.metric.name, "time": "0"}
        case = ElementTree.SubElement(cases, "testcase", name)
        text = ", ".join(f"{key} {value}" for key, value in zip(HEADER, _cells(line), strict=True))
        if line.regressed:
            ElementTree.SubElement(case, "failure", message=text, type="regression").text = text
        else:
            ElementTree.SubElement(case, "system-out").text = text
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def summary(lines: Sequence[Line], *, title: str, banner: str | None) -> str:
    """Return the table in Markdown, the verdict first."""
    failed = sum(line.regressed for line in lines)
    verdict = f"{failed} of {len(lines)} regressed" if failed else "no regression"
    text = f"## {cell(title)}: {verdict}\n\n"
    if banner:
        text += f"**{cell(banner)}**\n\n"
    text += f"| {' | '.join(HEADER)} |\n|---|---|{'---:|' * 5}---|\n"
    for line in lines:
        cells = [cell(value) for value in _cells(line)]
        text += f"| {' | '.join(f'**{c}**' if line.regressed else c for c in cells)} |\n"
    return text + f"\n{HOW}\n"


def _cells(line: Line) -> list[str]:
    return [
        line.method,
        line.metric.label,
        number(line.baseline),
        number(line.new),
        number(line.new - line.baseline, signed=True),
        str(line.trainings),
        p_value(line.found.p_holm),
        line.verdict,
    ]

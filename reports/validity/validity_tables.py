"""Validity -> its tables, each with a note on how to read it, and its lessons in sentences."""

from __future__ import annotations

import pandas as pd

from dbbench.evaluation.limits import LIMITS
from dbbench.evaluation.metric import Metric, load_metric
from dbbench.reports.formats.table import NOT_KNOWN, Table, interval, number
from dbbench.validity.limits import LIMIT_DEFECTS
from dbbench.validity.measure import ORDER_QUESTIONS, Validity
from dbbench.validity.power import SPREADS

MEANT_DEFECTS = {
    "references": ("other identity", "hallucinated"),
    "text": ("wrong place", "copied"),
}
"""The defects that a metric should detect, by what it compares."""
ASPECTS = {
    "identity": "identity as a whole",
    "noun": "class noun",
    "main": "main color",
    "second": "second color",
    "pattern": "pattern",
    "proportions": "proportions",
    "context": "prompt shown",
}
PASS_SHARE = 0.75
"""A metric fails an order that it promises if it ranks fewer pairs than this correctly."""


def validity_tables(validity: Validity) -> list[Table]:
    """Return all tables; their `data` has unrounded numbers with intervals."""
    return [
        _orders(validity),
        _means(validity),
        _correlations(validity),
        _power(validity),
        _limits(validity),
        _others(validity),
    ]


def lessons(validity: Validity) -> list[str]:
    """Return the lessons of the numbers, one sentence each."""
    return [
        *_order_lessons(validity),
        *_copy_lesson(validity),
        *_correlation_lessons(validity),
        *_power_lessons(validity),
        *_limit_lessons(validity),
    ]


def cell_of(table: pd.DataFrame, row: object, column: str) -> float | None:
    """Return one number of a table, None if it is missing."""
    if row not in table.index or column not in table.columns:
        return None
    return float(table.to_dict("index")[row][column])


def percent(value: float | None) -> str:
    """Return a share as a whole percentage, "-" if it is missing."""
    return NOT_KNOWN if value is None or pd.isna(value) else f"{round(100 * value)}%"


def _metrics(names: pd.Series[str]) -> dict[str, Metric]:
    return {name: load_metric(name) for name in dict.fromkeys(names)}


def _orders(validity: Validity) -> Table:
    data = validity.orders
    metrics = _metrics(data["metric"])
    wide = data.pivot(index="question", columns="metric", values="value")
    rows = []
    for place, question in enumerate(ORDER_QUESTIONS):
        asked = [m.label for m in metrics.values() if m.compares in question.asked_of]
        shares = [percent(cell_of(wide, place, name)) for name in metrics]
        rows.append([question.text, ", ".join(asked), *shares])
    header = ["order", "promised by", *(m.label for m in metrics.values())]
    note = (
        "The share of pairs of one subject and prompt that a metric ranks in the right order. 50%"
        " is chance; below it the metric prefers the worse image. Only the metrics in the second"
        " column promise the order; the other columns show what else changes a metric."
    )
    title = "does a metric rank two images in the right order?"
    return Table("validity-orders", title, header, rows, data, texts=2, note=note)


def _means(validity: Validity) -> Table:
    data = validity.means
    metrics = _metrics(data["metric"])
    wide = data.pivot(index="kind", columns="metric", values="value")
    rows = [
        [str(kind), *(number(cell_of(wide, kind, name)) for name in metrics)]
        for kind in dict.fromkeys(data["kind"])
    ]
    header = ["kind of image", *(m.label for m in metrics.values())]
    note = (
        "Means over subjects. Perfect: the subject as prompted. Copied: a reference in other light."
        " Collapsed: the prompt's first image repeated. Entangled: the subject in its place's"
        " color. Hallucinated: another pattern and second color. Altered: parts of the identity"
        " exchanged at random. A score alone means little: compare it with these rows."
    )
    title = "scores of each kind of image"
    return Table("validity-kinds", title, header, rows, data, note=note)


def _correlations(validity: Validity) -> Table:
    data = validity.correlations
    metrics = _metrics(data["metric"])
    wide = data.pivot(index="with", columns="metric", values="value")
    rows = []
    for known in map(str, dict.fromkeys(data["with"])):
        cells = [number(cell_of(wide, known, name), signed=True) for name in metrics]
        rows.append([ASPECTS[known], *cells])
    header = ["rank correlation with", *(m.label for m in metrics.values())]
    note = (
        "Spearman's correlation within a subject, as mean over subjects. Identity: images in the"
        " right place, with the correctness of the identity as a whole (the mean of its five parts)"
        " and of each part. Prompt shown: images in right and wrong places, with whether the prompt"
        " is shown. If a correlation is near 0, the metric does not detect errors of that part."
    )
    title = "do scores follow the truth?"
    return Table("validity-correlations", title, header, rows, data, note=note)


def _power(validity: Validity) -> Table:
    data = validity.power
    metrics = _metrics(data["metric"])
    images = sorted(data["images"].unique())
    cells = data.set_index(["metric", "defect", "spread", "subjects", "images"])["share"]
    rows = []
    for name, metric in metrics.items():
        for defect in MEANT_DEFECTS.get(metric.compares, ()):
            for subjects in sorted(data["subjects"].unique()):
                found = [
                    _share(cells.get((name, defect, spread, subjects, count)))
                    for spread in SPREADS
                    for count in images
                ]
                rows.append([metric.label, defect, str(subjects), *found])
    counts = [f"{spread}, {n}" for spread in SPREADS for n in images]
    header = ["metric", "bad images are", "subjects", *counts]
    note = (
        "The smallest share of bad images in one of two methods that the paired test over subjects"
        " (5%, two-sided) detects in 80% of comparisons, with 1, 2 or 4 images per prompt."
        " Evenly: every subject has the same share. By subject: some have almost none and some"
        " many, as with real methods. Never: a sign-flip test of five subjects cannot reach 5%."
    )
    title = "how many subjects and images are needed to distinguish two methods"
    return Table("validity-power", title, header, rows, data, texts=2, note=note)


def _from(share: str) -> str:
    return "at no share" if share == _share(None) else f"from a share of {share} on"


def _share(value: float | None) -> str:
    if value is None or pd.isna(value):
        return "never"
    return "under 1%" if value < 0.01 else f"{100 * value:.0f}%"


def _limits(validity: Validity) -> Table:
    data = validity.limits
    own = data.loc[data["own"]].set_index("limit").to_dict("index")
    rows = []
    for limit in LIMITS:
        row = own[limit.name]
        rows.append(
            [
                limit.label,
                str(row["defect"]),
                number(row["without"]),
                number(row["with_half"]),
                number(row["value"], signed=True),
                interval(row["low"], row["high"], signed=True),
                number(row["pooled"], signed=True),
                percent(row["images"]),
            ]
        )
    header = [
        "limit",
        "truth",
        "none bad",
        "half bad",
        "rank corr.",
        "95%",
        "all subjects",
        "images",
    ]
    note = (
        "From 0 to 50% of a subject's images have the defect. Rank corr.: correlation of the number"
        " with the true share within a subject. All subjects: the same over all subjects together;"
        " it is high only if a number has the same meaning for all. Images: how often a bad image"
        " has a higher number than a good one. If only the correlation within a subject is high,"
        " compare methods on the same subjects, never two subjects."
    )
    title = "do the limits' numbers follow the truth?"
    return Table("limits-truth", title, header, rows, data, texts=2, note=note)


def _others(validity: Validity) -> Table:
    data = validity.limits
    wide = data.pivot(index="limit", columns="defect", values="relative")
    rows = [
        [limit.label, *(percent(cell_of(wide, limit.name, defect)) for defect in LIMIT_DEFECTS)]
        for limit in LIMITS
    ]
    note = (
        "How much a number changes when half of the images have a defect; 100% is the change for"
        " the limit's own defect. A large value for another defect means that the limit cannot"
        " distinguish the two: a copied reference does not show the context either, and images of"
        " another object look like hallucinations."
    )
    title = "what else changes the limits' numbers"
    shown = data[["limit", "defect", "without", "with_half", "relative"]]
    return Table("limits-others", title, ["limit", *LIMIT_DEFECTS], rows, shown, note=note)


def _order_lessons(validity: Validity) -> list[str]:
    found = []
    metrics = _metrics(validity.orders["metric"])
    for name, own in validity.orders.loc[validity.orders["asked"]].groupby("metric", sort=False):
        label, rows = metrics[str(name)].label, own.sort_values("value")
        kept = rows.loc[rows["value"] >= PASS_SHARE]
        if len(kept):
            share = percent(kept["value"].iloc[0])
            text = ORDER_QUESTIONS[int(kept["question"].iloc[0])].text
            kept_text = f"the order “{text}” in {share} of pairs"
            if len(rows) > 1:
                kept_text = (
                    f"{len(kept)} of {len(rows)} promised orders; the weakest is {kept_text}"
                )
            found.append(f"{label} keeps {kept_text}.")
        for row in rows.loc[rows["value"] < PASS_SHARE].to_dict("records"):
            text, share = ORDER_QUESTIONS[row["question"]].text, percent(row["value"])
            found.append(f"{label} fails the order “{text}”: it is right in {share} of pairs.")
    return found


def _copy_lesson(validity: Validity) -> list[str]:
    place = next(i for i, q in enumerate(ORDER_QUESTIONS) if q.worse == "copied")
    own = validity.orders.loc[validity.orders["question"] == place].set_index("metric")["value"]
    metrics = _metrics(validity.orders["metric"])
    preferring = [
        f"{metrics[str(name)].label} ({percent(1 - share)} of pairs)"
        for name, share in own.items()
        if share < 0.5
    ]
    if not preferring:
        return []
    return [f"A copied reference scores above the perfect image in {_listed(preferring)}: "
            "always read these metrics together with CLIP-T and the flags."]  # fmt: skip


def _correlation_lessons(validity: Validity) -> list[str]:
    found = []
    metrics = _metrics(validity.correlations["metric"])
    for name, own in validity.correlations.groupby("metric", sort=False):
        metric, values = metrics[str(name)], own.set_index("with")["value"]
        if metric.compares != "references":
            continue
        parts = values.drop(["identity", "context"], errors="ignore").sort_values()
        found.append(
            f"{metric.label} has a rank correlation of {number(values['identity'])} with the"
            f" correctness of the identity; it detects the"
            f" {ASPECTS[str(parts.index[-1])]} best ({number(parts.iloc[-1])}) and the"
            f" {ASPECTS[str(parts.index[0])]} least ({number(parts.iloc[0])})."
        )
    return found


def _power_lessons(validity: Validity) -> list[str]:
    found = []
    metrics = _metrics(validity.power["metric"])
    cells = validity.power.set_index(["metric", "defect", "spread", "subjects", "images"])["share"]
    few, many = 10, int(validity.power["subjects"].max())
    for name, metric in metrics.items():
        for defect in MEANT_DEFECTS.get(metric.compares, ())[:1]:
            small, large = (
                _share(cells.get((name, defect, SPREADS[1], subjects, images)))
                for subjects, images in ((few, 1), (many, 4))
            )
            found.append(
                f"{metric.label} detects “{defect}” images {_from(small)}, with {few}"
                f" subjects and one image per prompt; {_from(large)}, with {many} subjects and"
                " four images. Here the share differs between subjects."
            )
    return found


def _limit_lessons(validity: Validity) -> list[str]:
    own = validity.limits.loc[validity.limits["own"]].set_index("limit")["pooled"]
    values = [f"{limit.label} {number(own[limit.name])}" for limit in LIMITS]
    return [
        "Over all subjects together, the limits' numbers follow the true share of bad images with"
        f" a rank correlation of: {_listed(values)}."
    ]


def _listed(items: list[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else items[0]

"""Rows of a suite: a method, or the same method under other conditions and with its own name.

A row of a suite is usually a method: `[methods.dreambooth]`. With `base` it is that method under
another name, so that an ablation is a list of rows. Besides the method's settings a row can have

    base          the method (or, with `at`, the row) that it varies
    class_noun    the class noun in training and prompts: "" is none, a table maps the correct noun
    references    how many of the subject's images are used in training; scores compare with all
    prior_images  how many of the suite's class images are used in training
    at            a fraction of the base row's training: use that checkpoint, without a new training
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dbbench.data.subject import Subject

CONDITIONS = ("base", "class_noun", "references", "prior_images", "at")


@dataclass(frozen=True)
class SuiteRow:
    """A method with its settings and conditions, under the name of a row."""

    name: str
    plugin: str
    """The method's name."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The row's values for settings of its method."""
    common: Mapping[str, Any] = field(default_factory=dict)
    """The suite's values for every method with a setting of that name."""
    class_noun: str | Mapping[str, str] | None = None
    references: int | None = None
    prior_images: int | None = None
    at: float | None = None
    base: SuiteRow | None = None
    """With `at`, the row whose training it uses."""
    snapshots: tuple[float, ...] = ()
    """Fractions of its training at which other rows need a checkpoint."""

    @property
    def training(self) -> SuiteRow:
        """The row whose training it uses: itself unless `at` is given."""
        return self.base or self

    def method_settings(self, known: Iterable[str]) -> dict[str, Any]:
        """Return the values of the settings in `known`; the row's own replace common ones."""
        common = {key: self.common[key] for key in known if key in self.common}
        return common | dict(self.settings)

    def noun(self, subject: Subject) -> str:
        """Return the class noun that this row uses for the subject."""
        if self.class_noun is None:
            return subject.class_noun
        if isinstance(self.class_noun, str):
            return self.class_noun
        return self.class_noun.get(subject.class_noun, subject.class_noun)

    @property
    def conditions(self) -> dict[str, Any]:
        """The conditions of its training other than method settings and class noun."""
        given = {
            "references": self.references,
            "prior_images": self.prior_images,
            "snapshots": self.snapshots or None,
        }
        return {key: value for key, value in given.items() if value is not None}


def row_of(
    methods: Mapping[str, Mapping[str, Any]], name: str, common: Mapping[str, Any]
) -> SuiteRow:
    """Return the row of that name; without such a row, the method of that name as it is."""
    row = methods.get(name, {})
    base = str(row.get("base", name))
    settings = {key: value for key, value in row.items() if key not in CONDITIONS}
    if row.get("at") is not None:
        trained = row_of(methods, base, common)
        return replace(trained, name=name, settings=settings, at=row["at"], base=trained)
    return SuiteRow(
        name,
        plugin=base,
        settings=settings,
        common=common,
        class_noun=row.get("class_noun"),
        references=row.get("references"),
        prior_images=row.get("prior_images"),
        snapshots=tuple(
            sorted(
                float(other["at"])
                for other in methods.values()
                if other.get("at") is not None and other.get("base") == name
            )
        ),
    )


def row_problem(methods: Mapping[str, Mapping[str, Any]], name: str) -> str | None:
    """Return the first error in a row's conditions, to follow "methods."; None if there is none."""
    row = methods[name]
    for key in ("references", "prior_images"):
        value = row.get(key)
        if value is not None and (not isinstance(value, int) or value < 1):
            return f"{name}.{key} = {value!r}: write an integer of at least 1"
    noun = row.get("class_noun")
    if noun is not None and not isinstance(noun, str | Mapping):
        return f'{name}.class_noun = {noun!r}: write a word, "" for none, or a table of words'
    if (at := row.get("at")) is not None:
        base = row.get("base")
        if not isinstance(at, int | float) or not 0 < at <= 1:
            return f"{name}.at = {at!r}: write a fraction of the training, above 0 and at most 1"
        if not isinstance(base, str) or base not in methods or "at" in methods[base]:
            return f'{name}.base = {base!r}: "at" needs the name of a row that has no "at" itself'
    return None

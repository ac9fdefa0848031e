"""Row: a method of a suite, or the same method under other conditions and a name of its own.

A suite names its rows, and a row is usually a method: `[methods.dreambooth]`. With `base` it is
that method under a name of its own, so that an ablation is simply several rows. Beside the method's
own settings a row may hold

    base          the method (or, with `at`, the row) that it varies
    class_noun    what training and prompts call the class: "" is none, a table maps the right noun
    references    how many of the subject's images are trained on; scores still compare with all
    prior_images  how many of the suite's class images are trained on
    at            a share of the base row's training: its checkpoint there, without another training
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dbbench.data.subject import Subject

CONDITIONS = ("base", "class_noun", "references", "prior_images", "at")


@dataclass(frozen=True)
class Row:
    """What is run under a row's name."""

    name: str
    plugin: str
    """The method's name."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What the row sets of its method's own settings."""
    common: Mapping[str, Any] = field(default_factory=dict)
    """What the suite sets for every method that has a setting of that name."""
    class_noun: str | Mapping[str, str] | None = None
    references: int | None = None
    prior_images: int | None = None
    at: float | None = None
    base: Row | None = None
    """With `at`, the row whose training it uses."""
    snapshots: tuple[float, ...] = ()
    """Shares of its training at which other rows look into it."""

    @property
    def training(self) -> Row:
        """The row whose training it uses: itself unless `at` is given."""
        return self.base or self

    def method_settings(self, known: Iterable[str]) -> dict[str, Any]:
        """Return what is set for a method whose setting names are `known`: common, then own."""
        common = {key: self.common[key] for key in known if key in self.common}
        return common | dict(self.settings)

    def noun(self, subject: Subject) -> str:
        """Return what this row calls the subject's class."""
        if self.class_noun is None:
            return subject.class_noun
        if isinstance(self.class_noun, str):
            return self.class_noun
        return self.class_noun.get(subject.class_noun, subject.class_noun)

    @property
    def conditions(self) -> dict[str, Any]:
        """What of its training is neither a setting of the method nor the class noun."""
        given = {
            "references": self.references,
            "prior_images": self.prior_images,
            "snapshots": self.snapshots or None,
        }
        return {key: value for key, value in given.items() if value is not None}


def row_of(methods: Mapping[str, Mapping[str, Any]], name: str, common: Mapping[str, Any]) -> Row:
    """Return a row of a suite's methods; a name without a row is that method itself."""
    row = methods.get(name, {})
    base = str(row.get("base", name))
    settings = {key: value for key, value in row.items() if key not in CONDITIONS}
    if row.get("at") is not None:
        trained = row_of(methods, base, common)
        return replace(trained, name=name, settings=settings, at=row["at"], base=trained)
    return Row(
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
    """Return what is wrong with the conditions of a row, to follow "methods."; None if nothing."""
    row = methods[name]
    for key in ("references", "prior_images"):
        value = row.get(key)
        if value is not None and (not isinstance(value, int) or value < 1):
            return f"{name}.{key} = {value!r}: write a whole number from 1 on"
    noun = row.get("class_noun")
    if noun is not None and not isinstance(noun, str | Mapping):
        return f'{name}.class_noun = {noun!r}: write a word, "" for none, or a table of words'
    if (at := row.get("at")) is not None:
        base = row.get("base")
        if not isinstance(at, int | float) or not 0 < at <= 1:
            return f"{name}.at = {at!r}: write a share of the training, above 0 and at most 1"
        if not isinstance(base, str) or base not in methods or "at" in methods[base]:
            return f'{name}.base = {base!r}: "at" needs the row whose training it looks into'
    return None

"""Protocol: a published reading of the paper's metrics, from one TOML file in `protocols/`.

The paper leaves open what its numbers depend on (which references, which text, which networks, how
to average). A protocol names each of these choices and who made it; scoring applies them.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from dbbench.errors import UserError
from dbbench.image_sets.image_set import Text
from dbbench.validation import Settings, built_in, explain_validation, read_toml

CHOICES = ("references", "text", "aggregation", "self_pairs", "encoders", "scale")
"""What a protocol has to give a reason for."""


class PublishedReal(Settings):
    """The row of real images that somebody published under a protocol: the oracle's target."""

    scores: dict[str, float] = Field(min_length=1)
    source: str


class Protocol(Settings):
    """A reading of the paper: the choices that it left open, named and sourced."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9+._-]*$")
    description: str
    source: str
    """The paper and, where there is one, the published code that was read."""
    metrics: tuple[str, ...] = Field(min_length=1)
    """The metrics that its tables show."""
    encoders: dict[str, str] = Field(min_length=1)
    """Role -> encoder. It may name more than `metrics` need, for those that a user adds."""
    references: Literal["all", "first"] = "all"
    """Each image against all real images of its subject, or against the first one only."""
    text: Text = "without-identifier"
    """What an image is compared with, of the prompt "a sks dog in the jungle": "a dog in the
    jungle", the prompt as the model got it, or "a in the jungle"."""
    aggregation: Literal["subject", "image", "pair"] = "subject"
    """Mean per subject, then over subjects; or one mean over all images, or over all pairs of an
    image and a reference, so that subjects with more references weigh more."""
    self_pairs: bool = False
    """Whether the real-images row compares an image with itself."""
    scale: dict[str, float] = Field(default_factory=dict)
    """Metric -> what its values are multiplied with."""
    floor: dict[str, float] = Field(default_factory=dict)
    """Metric -> the value below which none counts, before scaling."""
    reasons: dict[str, str]
    """Choice -> who made it: the source, or that it is not published and what is taken instead."""
    real: PublishedReal | None = None
    rule_of_thumb: dict[str, float] = Field(default_factory=dict)
    """Metric -> the difference that its authors call noticeable; on its own encoders only."""

    @model_validator(mode="after")
    def _every_choice_has_a_reason(self) -> Protocol:
        missing = [choice for choice in CHOICES if not self.reasons.get(choice)]
        if missing:
            raise ValueError(f'"{missing[0]}" has no reason; name its source under [reasons]')
        for table in (self.scale, self.floor, self.rule_of_thumb):
            if foreign := sorted(set(table) - set(self.metrics)):
                raise ValueError(f'"{foreign[0]}" is none of its metrics')
        return self

    def value(self, metric: str, score: float) -> float:
        """Return a metric's plain score as this protocol states it."""
        return max(score, self.floor.get(metric, score)) * self.scale.get(metric, 1.0)


def protocol_names() -> tuple[str, ...]:
    """Return the names of the protocols that come with dbbench, `paper` first."""
    return tuple(sorted(built_in("protocol"), key=lambda name: name != "paper"))


@cache
def load_protocol(name_or_path: str) -> Protocol:
    """Return the protocol of that name, or the one in that TOML file.

    Raises UserError for an unknown name, a file that cannot be read, and an unknown or bad key.
    """
    values = read_toml("protocol", name_or_path)
    try:
        return Protocol.model_validate(values)
    except ValidationError as error:
        reason = explain_validation(error, Protocol)
        raise UserError(f'protocol "{name_or_path}": {reason}') from None

"""Protocol: a published interpretation of the paper's metrics, from one TOML file.

The paper does not define everything that its numbers depend on (references, text, networks,
average). A protocol defines each of these choices, with its source; scoring applies them.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from dbbench.errors import UserError
from dbbench.image_sets.image_set import PromptForm
from dbbench.validation import Settings, built_in, explain_validation, read_settings

CHOICES = ("references", "text", "aggregation", "self_pairs", "encoders", "scale")
"""The choices for which a protocol must give a reason."""


class PublishedReal(Settings):
    """Published scores of real images under a protocol; the oracle is compared with them."""

    scores: dict[str, float] = Field(min_length=1)
    source: str


class Protocol(Settings):
    """The choices that the paper does not define, each with its source."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9+._-]*$")
    description: str
    source: str
    """The paper and, if available, the published code."""
    metrics: tuple[str, ...] = Field(min_length=1)
    """The metrics in its tables."""
    encoders: dict[str, str] = Field(min_length=1)
    """Role -> encoder. It may name more than `metrics` need, for those that a user adds."""
    references: Literal["all", "first"] = "all"
    """Compare each image with all real images of its subject, or only with the first."""
    text: PromptForm = "without-identifier"
    """The text that an image is compared with. For the prompt "a sks dog in the jungle": "a dog in
    the jungle", the prompt as it was given to the model, or "a in the jungle"."""
    aggregation: Literal["subject", "image", "pair"] = "subject"
    """Mean per subject, then over subjects; or one mean over all images, or over all pairs of an
    image and a reference, so that subjects with more references weigh more."""
    self_pairs: bool = False
    """Whether the real-images row compares an image with itself."""
    scale: dict[str, float] = Field(default_factory=dict)
    """Metric -> the factor of its values."""
    floor: dict[str, float] = Field(default_factory=dict)
    """Metric -> the lower limit of its values, before scaling."""
    reasons: dict[str, str]
    """Choice -> its source; for an unpublished choice, a note with the value used instead."""
    real: PublishedReal | None = None
    rule_of_thumb: dict[str, float] = Field(default_factory=dict)
    """Metric -> the difference that the authors call noticeable; only with their encoders."""

    @model_validator(mode="after")
    def _every_choice_has_a_reason(self) -> Protocol:
        missing = [choice for choice in CHOICES if not self.reasons.get(choice)]
        if missing:
            raise ValueError(f'"{missing[0]}" has no reason; give its source under [reasons]')
        for table in (self.scale, self.floor, self.rule_of_thumb):
            if foreign := sorted(set(table) - set(self.metrics)):
                raise ValueError(f'"{foreign[0]}" is not one of its metrics')
        return self

    def value(self, metric: str, score: float) -> float:
        """Return a metric's score after the protocol's lower limit and factor."""
        return max(score, self.floor.get(metric, score)) * self.scale.get(metric, 1.0)


def protocol_names() -> tuple[str, ...]:
    """Return the names of the protocols that come with dbbench, `paper` first."""
    return tuple(sorted(built_in("protocol"), key=lambda name: name != "paper"))


@cache
def load_protocol(name_or_path: str) -> Protocol:
    """Return the protocol of that name, or the one in that TOML file.

    Raises UserError for an unknown name, a file that cannot be read, and an unknown or bad key.
    """
    values = read_settings("protocol", name_or_path)
    try:
        return Protocol.model_validate(values)
    except ValidationError as error:
        reason = explain_validation(error, Protocol)
        raise UserError(f'protocol "{name_or_path}": {reason}') from None

"""Suite: what to run, read from one TOML file; `plan_runs` turns it into runs for the stages."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from dbbench.data.dataset import Dataset
from dbbench.data.prompt import Category, PromptTemplate, load_applications
from dbbench.data.subject import Subject
from dbbench.errors import UserError, unknown
from dbbench.plugins import add_method_file, is_file_reference
from dbbench.suites.banner import full_banner
from dbbench.suites.inheritance import bases, read_suite, resolve
from dbbench.suites.paper_table import PaperTable
from dbbench.suites.rows import SuiteRow, row_of, row_problem
from dbbench.suites.sampling import SampleSettings
from dbbench.validation import Settings, explain_validation


class PromptChoice(Settings):
    """The prompts of a suite: the data set's or those of applications.toml, all or some."""

    set: Literal["dataset", "applications"] = "dataset"
    categories: tuple[Category, ...] = ()
    """Empty is all."""
    first: int | None = Field(default=None, ge=1)
    """Only the first so many of these prompts."""

    def of(self, dataset: Dataset, subject: Subject) -> tuple[PromptTemplate, ...]:
        """Return the prompts for a subject of a data set."""
        own = self.set == "dataset"
        prompts = dataset.prompts(subject) if own else load_applications(subject.live)
        chosen = [p for p in prompts if not self.categories or p.category in self.categories]
        return tuple(chosen[: self.first])


class BackboneSettings(Settings):
    """Which text-to-image pipeline, and at which resolution in pixels."""

    path: str
    resolution: int = Field(default=512, ge=8)
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    frozen: Literal["float32", "bfloat16"] = "float32"
    """How weights that are not trained are held on a GPU: bfloat16 needs half the memory for them,
    and changes no result, because passes there read them in bfloat16."""
    revision: str | None = None
    config: str | None = None
    """For a single file: the folder or hub id of a pipeline of the same kind."""
    variant: str | None = None
    """Which files of a folder or hub id, such as "fp16"; needed only where there are several."""
    compile: bool = False
    """Compile the denoiser (torch.compile): faster from some hundred steps or images on."""


class PriorSettings(Settings):
    """The class images of the prior-preservation loss, made once per class noun by the backbone.

    `count` is their number; the sampler's `images_per_prompt` is not used.
    """

    count: int = Field(default=1000, ge=1)
    prompt: str = "a {class_noun}"
    sampler: SampleSettings = SampleSettings(scheduler="ddpm", steps=100)

    @field_validator("prompt")
    @classmethod
    def _has_placeholder(cls, value: str) -> str:
        if "{class_noun}" not in value:
            raise ValueError(f'prior prompt "{value}" has no {{class_noun}} in it')
        return value


class DriftSettings(Settings):
    """Images of the class noun alone ("a dog") from each trained model, for PRES."""

    count: int = Field(default=0, ge=0)
    prompt: str = "a {class_noun}"


class ExpectedScores(Settings):
    """Scores that this recipe should reach, by metric, with their source."""

    method: str
    scores: dict[str, float]
    source: str


class Suite(Settings):
    """Everything that affects the scores, except the choice of subjects, methods and seeds."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    banner: str | None = None
    source: str = "photos"
    """The data set's name."""
    subjects: str = "all"
    prompts: PromptChoice = PromptChoice()
    backbone: BackboneSettings
    methods: dict[str, dict[str, Any]] = Field(min_length=1)
    method_files: dict[str, str] = Field(default_factory=dict)
    """Methods that are not installed: name -> "path/to/file.py:Class"."""
    train: dict[str, Any] = Field(default_factory=dict)
    prior: PriorSettings = PriorSettings()
    sample: SampleSettings = SampleSettings()
    drift: DriftSettings = DriftSettings()
    encoders: dict[str, str] = Field(min_length=1)
    metrics: tuple[str, ...] = Field(default=("dino", "clip-i", "clip-t"), min_length=1)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    keep_checkpoints: bool = True
    expected: tuple[ExpectedScores, ...] = ()
    table: PaperTable | None = None

    @property
    def full_banner(self) -> str | None:
        """What stands on every table: the banner, and a line on encoders of the embedded world."""
        return full_banner(self.banner, self.encoders.values())

    @field_validator("methods")
    @classmethod
    def _has_sound_rows(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name in value:
            if (problem := row_problem(value, name)) is not None:
                raise ValueError(problem)
        return value

    def row(self, name: str) -> SuiteRow:
        """Return the row of that name; without such a row, the method of that name as it is."""
        return row_of(self.methods, name, self.train)


def load_suite(name_or_path: str | Path, on: str | None = None) -> Suite:
    """Return the suite of that name, or the one in that TOML file.

    An experiment's file `extends` other suites; `on` selects one of them, the first if None.
    Raises UserError for an unknown name, a file that cannot be read, and an unknown or bad key.
    """
    values = read_suite(str(name_or_path))
    return _validate(resolve(values, on), origin=f'suite "{name_or_path}"')


def default_suite(device: str) -> tuple[str, str]:
    """Return the default suite for a device, and the reason."""
    if device.startswith("cuda"):
        return "paper", "there is a CUDA device"
    return "mini", f"there is no CUDA device in use ({device})"


def choose_suite(name: str | Path | Suite | None, on: str | None, device: str) -> Suite:
    """Return a suite as in `load_suite`; where `name` or `on` is None the device decides it."""
    if isinstance(name, Suite):
        return name
    default, _ = default_suite(device)
    name = str(name or default)
    if on is None and default in bases(read_suite(name)):
        on = default
    return load_suite(name, on)


def override(suite: Suite, assignments: Sequence[str]) -> Suite:
    """Return the suite with each "dotted.key=TOML value" applied in order.

    "train.X" applies to every method with a setting X and replaces the methods' own values of X;
    a later "methods.NAME.X" replaces it for one method. A value that is not TOML is a string.
    """
    values = suite.model_dump()
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not separator or not all(parts):
            raise UserError(f'cannot read "--set {assignment}"; write it as --set train.steps=400')
        _assign(values, parts, _toml_value(text.strip()), assignment)
        if parts[0] == "train" and len(parts) > 1:
            for settings in values["methods"].values():
                settings.pop(parts[1], None)
    return _validate(values, origin="--set") if assignments else suite


def on_dataset(suite: Suite, dataset: str) -> Suite:
    """Return the suite for a data set; if it is not its own, with another name and a banner."""
    if suite.source == dataset:
        return suite
    name = f"{suite.name}-{dataset}"
    worth = "scores mean little" if suite.banner else "not comparable with published numbers"
    banner = f"{name}: {dataset} on the {suite.backbone.path} backbone, {worth}"
    return suite.model_copy(update={"name": name, "banner": banner, "source": dataset})


def with_method_files(suite: Suite, methods: Sequence[str]) -> tuple[Suite, list[str]]:
    """Add methods given as "file.py:Class" to the suite; return it, and the names of all.

    Raises UserError as `add_method_file` does.
    """
    files, names = dict(suite.method_files), []
    for method in methods:
        if is_file_reference(method):
            path, _, attribute = method.rpartition(":")
            method = add_method_file(method)
            # Later calls come from other folders.
            files[method] = f"{Path(path).expanduser().resolve()}:{attribute}"
        names.append(method)
    return suite.model_copy(update={"method_files": files}), names


def _validate(values: dict[str, Any], *, origin: str) -> Suite:
    try:
        return Suite.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{origin}: {explain_validation(error, Suite)}") from None


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _assign(values: dict[str, Any], parts: Sequence[str], value: Any, assignment: str) -> None:
    here = values
    for depth, part in enumerate(parts[:-1]):
        inner = here.get(part)
        if inner is None and parts[0] == "methods" and depth == 1:
            inner = here[part] = {}
        if not isinstance(inner, dict):
            if part not in here:
                raise unknown("key", ".".join(parts[: depth + 1]), here, "")
            raise UserError(f'"--set {assignment}": "{part}" is a single value and has no keys')
        here = inner
    here[parts[-1]] = value

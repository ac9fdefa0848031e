"""dbbench: subject-driven generation measured by the DreamBooth protocol.

    import dbbench

    dbbench.run("mini", subjects=["dog"], out="results/mini").leaderboard
    dbbench.score("my-images", "photos")

Every name below is imported when it is first used, so that `import dbbench` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbbench.advance import Advance as Advance
    from dbbench.api.results import RunResults as RunResults
    from dbbench.api.results import load_run as load_run
    from dbbench.api.run import run as run
    from dbbench.api.score import score as score
    from dbbench.data.dataset import Dataset as Dataset
    from dbbench.data.dataset import ReferenceImage as ReferenceImage
    from dbbench.data.dataset import load_dataset as load_dataset
    from dbbench.data.prompt import PromptTemplate as PromptTemplate
    from dbbench.data.subject import Subject as Subject
    from dbbench.errors import UserError as UserError
    from dbbench.evaluation.encoder import Distance as Distance
    from dbbench.evaluation.encoder import Encoder as Encoder
    from dbbench.evaluation.encoder import Preparing as Preparing
    from dbbench.evaluation.encoder import UnitVectors as UnitVectors
    from dbbench.evaluation.encoder import encoder_fingerprint as encoder_fingerprint
    from dbbench.evaluation.metric import Comparison as Comparison
    from dbbench.evaluation.metric import Features as Features
    from dbbench.evaluation.metric import Metric as Metric
    from dbbench.evaluation.metric import Values as Values
    from dbbench.generation.backbone import Backbone as Backbone
    from dbbench.generation.method import Checkpoint as Checkpoint
    from dbbench.generation.method import Concept as Concept
    from dbbench.generation.method import Diverged as Diverged
    from dbbench.generation.method import Method as Method
    from dbbench.generation.method import checkpoint_metadata as checkpoint_metadata
    from dbbench.generation.resume import SaveInterval as SaveInterval
    from dbbench.generation.resume import Saves as Saves
    from dbbench.running.options import RunOptions as RunOptions
    from dbbench.suites.sampling import SampleSettings as SampleSettings
    from dbbench.suites.suite import Suite as Suite
    from dbbench.suites.suite import load_suite as load_suite
    from dbbench.validation import Settings as Settings

__version__ = "0.1.0"

_HOMES = {
    "advance": ("Advance",),
    "api.results": ("RunResults", "load_run"),
    "api.run": ("run",),
    "api.score": ("score",),
    "data.dataset": ("Dataset", "ReferenceImage", "load_dataset"),
    "data.prompt": ("PromptTemplate",),
    "data.subject": ("Subject",),
    "errors": ("UserError",),
    "evaluation.encoder": (
        "Distance",
        "Encoder",
        "Preparing",
        "UnitVectors",
        "encoder_fingerprint",
    ),
    "evaluation.metric": ("Comparison", "Features", "Metric", "Values"),
    "generation.backbone": ("Backbone",),
    "generation.method": (*("Checkpoint", "Concept", "Diverged", "Method", "checkpoint_metadata"),),
    "generation.resume": ("SaveInterval", "Saves"),
    "running.options": ("RunOptions",),
    "suites.sampling": ("SampleSettings",),
    "suites.suite": ("Suite", "load_suite"),
    "validation": ("Settings",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

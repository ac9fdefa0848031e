"""The networks of one process: each is loaded once, when a task first needs it."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dbbench.evaluation.encoder import load_encoder
from dbbench.generation.method import load_method
from dbbench.planning.identity import Identities
from dbbench.planning.plan import Plan
from dbbench.planning.task import Task
from dbbench.suites.rows import SuiteRow

if TYPE_CHECKING:
    from dbbench.evaluation.encoder import Encoder
    from dbbench.generation.backbone import Backbone
    from dbbench.generation.method import Method


@dataclass
class Models:
    """Backbone, encoders and methods; loading one records its fingerprint in `identities`."""

    plan: Plan
    device: str
    _backbone: Backbone | None = None
    _encoders: dict[str, Encoder] = field(default_factory=dict)
    _methods: dict[str, Method] = field(default_factory=dict)

    @property
    def identities(self) -> Identities:
        """The plan's record of fingerprints."""
        return self.plan.identities

    def load_for(self, tasks: Iterable[Task], status: Callable[[str], None]) -> bool:
        """Load the tasks' networks and those without a fingerprint; return whether any was."""
        stages = {task.stage for task in tasks}
        roles = {role for task in tasks if task.stage == "encode" for role, _ in task.artifacts}
        roles |= set(self.plan.roles) - set(self.identities.encoders)
        loaded = False
        if self._backbone is None and (
            self.identities.backbone is None or stages & {"prior", "train", "sample"}
        ):
            status(f"loading the backbone {self.plan.suite.backbone.path} on {self.device}")
            _ = self.backbone
            loaded = True
        for role in sorted(roles - set(self._encoders)):
            status(f"loading the encoder {self.plan.suite.encoders[role]} on {self.device}")
            self.encoder(role)
            loaded = True
        return loaded

    def release(self) -> None:
        """Free the memory of the networks for other processes."""
        self._backbone = None
        self._encoders.clear()
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()

    @property
    def backbone(self) -> Backbone:
        """The suite's backbone, loaded on first use."""
        if self._backbone is None:
            _make_deterministic()
            from dbbench.generation.backbone import load_backbone

            settings = self.plan.suite.backbone
            self._backbone = load_backbone(
                settings.path,
                resolution=settings.resolution,
                device=self.device,
                dtype=settings.dtype,
                frozen=settings.frozen,
                revision=settings.revision,
                config=settings.config,
                variant=settings.variant,
                compile=settings.compile,
            )
            self.identities.backbone = self._backbone.fingerprint
        return self._backbone

    def encoder(self, role: str) -> Encoder:
        """Return the suite's encoder for a role, such as "dino"; load it on first use."""
        if role not in self._encoders:
            encoder = load_encoder(self.plan.suite.encoders[role], device=self.device)
            self._encoders[role] = encoder
            self.identities.encoders[role] = encoder.fingerprint
        return self._encoders[role]

    def method(self, row: SuiteRow) -> Method:
        """Return the method of a row's training, with the suite's settings."""
        name = row.training.name
        if name not in self._methods:
            self._methods[name] = load_method(row.plugin, self.identities.methods[name].settings)
        return self._methods[name]


def _make_deterministic() -> None:
    """Choose deterministic algorithms where they exist."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation.*")
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Filling new memory with NaN finds bugs and costs time; the bits do not depend on it.
    setattr(torch.utils.deterministic, "fill_uninitialized_memory", False)  # noqa: B010
    torch.backends.cudnn.benchmark = False

"""Fingerprints of networks and settings, recorded so that planning needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dbbench.errors import unknown
from dbbench.files import files_in, fingerprint, hash_file
from dbbench.generation.method import load_method, setting_names
from dbbench.planning.given import GivenWeights
from dbbench.plugins import find, provenance
from dbbench.suites.rows import SuiteRow
from dbbench.suites.suite import Suite
from dbbench.versions import versions


@dataclass(frozen=True)
class MethodFacts:
    """A method's settings with all defaults, and whether it uses class images."""

    settings: Mapping[str, Any]
    needs_prior: bool


@dataclass
class Identities:
    """Fingerprints of backbone and encoders, and the facts of each method, as far as known.

    Each is recorded with a stamp, a hash of what is quick to read: names, sizes and times of weight
    files, package versions, the settings as written. A record is valid while its stamp is the same.
    """

    suite: Suite
    device: str
    backbone: str | None = None
    encoders: dict[str, str] = field(default_factory=dict)
    methods: dict[str, MethodFacts] = field(default_factory=dict)
    given: GivenWeights = field(default_factory=GivenWeights)

    def recall(
        self,
        record: Mapping[str, Any],
        methods: Iterable[str],
        *,
        trust: bool = False,
        look: bool = True,
    ) -> None:
        """Take the valid entries of an earlier call's record, or with `trust` all of them.

        Given weights are looked at even then, unless `look` is false.
        """
        known = record.get("backbone", {})
        if known and (trust or known["stamp"] == self._backbone_stamp()):
            self.backbone = known["fingerprint"]
        for role, reference in self.suite.encoders.items():
            known = record.get("encoders", {}).get(role, {})
            if known and (trust or known["stamp"] == self._encoder_stamp(reference)):
                self.encoders[role] = known["fingerprint"]
        for row in self._trained(methods):
            known = record.get("methods", {}).get(row.name, {})
            if known and (trust or known["stamp"] == _method_stamp(row)):
                self.methods[row.name] = MethodFacts(known["settings"], known["needs_prior"])
        self.given = GivenWeights(dict(record.get("given", {})), trust=trust, look=look)

    def resolve_methods(self, methods: Iterable[str]) -> None:
        """Load the methods and check their settings. Raises UserError; imports torch."""
        missing = [row for row in self._trained(methods) if row.name not in self.methods]
        if not missing:
            return
        rows = [*map(self.suite.row, self.suite.methods), *missing]
        fields = {row.plugin: setting_names(row.plugin) for row in rows}
        every = sorted({key for keys in fields.values() for key in keys})
        for key in self.suite.train:
            if key not in every:
                raise unknown(
                    "training setting",
                    f"train.{key}",
                    [f"train.{name}" for name in every],
                    "dbbench list methods",
                )
        for row in missing:
            method = load_method(row.plugin, row.method_settings(fields[row.plugin]))
            self.methods[row.name] = MethodFacts(
                method.settings.model_dump(mode="json"), method.needs_prior
            )

    def record(self, earlier: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `recall` reads; unknown entries are copied from the earlier record."""
        kinds = ("backbone", "encoders", "methods")
        document: dict[str, Any] = {kind: dict(earlier.get(kind, {})) for kind in kinds}
        if self.backbone is not None:
            document["backbone"] = {"stamp": self._backbone_stamp(), "fingerprint": self.backbone}
        for role, value in self.encoders.items():
            stamp = self._encoder_stamp(self.suite.encoders[role])
            document["encoders"][role] = {"stamp": stamp, "fingerprint": value}
        for name, facts in self.methods.items():
            stamp = _method_stamp(self.suite.row(name))
            document["methods"][name] = {"stamp": stamp, **asdict(facts)}
        if given := earlier.get("given", {}) | self.given.found:
            document["given"] = given
        return document

    def _backbone_stamp(self) -> str:
        settings = self.suite.backbone
        files = _files(settings.path, settings.config or "")
        chosen = settings.model_dump(exclude=None if settings.variant else {"variant"})
        return fingerprint([chosen, self.device, files, versions()])

    def _encoder_stamp(self, reference: str) -> str:
        scheme, _, argument = reference.partition(":")
        source = provenance("encoders", scheme)
        # "NAME@/path/weights.safetensors", "local-dir:/path": the path is a part of it.
        files = _files(argument, *re.split("[@:]", argument))
        return fingerprint([reference, source, self.device, files, versions()])

    def _trained(self, methods: Iterable[str]) -> Iterable[SuiteRow]:
        """Return the rows whose trainings these rows use."""
        rows = (self.suite.row(name).training for name in methods)
        return {row.name: row for row in rows}.values()


def _method_stamp(row: SuiteRow) -> str:
    written = [dict(row.common), dict(row.settings)]
    source = [provenance("methods", row.plugin), _module_hash(row.plugin)]
    return fingerprint([written, source, versions()])


def _files(*paths: str) -> list[Any]:
    """Name, size and time of each file of the embedded weights and of local paths."""
    embedded = Path(__file__).parents[1] / "mini" / "weights"
    places = [embedded, *(Path(path).expanduser() for path in dict.fromkeys(paths) if path)]
    files = (file for place in places for file in sorted(files_in(place)))
    return [[str(f), (status := f.stat()).st_size, status.st_mtime_ns] for f in files]


def _module_hash(method: str) -> str:
    """Hash the file that defines a method, so that changed defaults change the stamp."""
    try:
        spec = find_spec(find("methods", method).module)
    except (ImportError, ValueError):
        return ""
    origin = None if spec is None else spec.origin
    return hash_file(Path(origin)) if origin and Path(origin).is_file() else ""

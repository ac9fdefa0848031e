"""Where a name becomes an object; built-ins and third parties both come in as entry points."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import ValidationError

from dbbench.errors import UserError, unknown
from dbbench.suite import explain_validation

if TYPE_CHECKING:
    from dbbench.encoder import Encoder
    from dbbench.method import Method
    from dbbench.metric import Metric

Kind = Literal["methods", "encoders", "metrics"]


def names(kind: Kind) -> tuple[str, ...]:
    """Return the names that can be used for a kind of plugin, without importing any of them."""
    return tuple(sorted(_points(kind)))


def find(kind: Kind, name: str) -> EntryPoint:
    """Return the entry point behind a name. Raises UserError for an unknown one."""
    try:
        return _points(kind)[name]
    except KeyError:
        raise unknown(kind[:-1], name, names(kind), f"dbbench list {kind}") from None


def provenance(kind: Kind, name: str) -> str:
    """Return where a plugin comes from: "package.module:object", with a third party's version.

    It enters the fingerprints. dbbench's own parts leave the version out: each of them states by a
    stage's version number when its results change.
    """
    point = find(kind, name)
    if point.dist is None or point.dist.name == "dbbench":
        return point.value
    return f"{point.value} ({point.dist.name} {point.dist.version})"


def setting_names(method: str) -> tuple[str, ...]:
    """Return the names of a method's settings; imports the method, and so torch."""
    return tuple(_load("methods", method).Settings.model_fields)


def load_method(name: str, settings: Mapping[str, Any]) -> Method:
    """Return a method with its settings checked. Raises UserError for an unknown or bad one."""
    method_class = _load("methods", name)
    try:
        checked = method_class.Settings.model_validate(dict(settings))
    except ValidationError as error:
        reason = explain_validation(error, method_class.Settings)
        raise UserError(f"method {name}: {reason}") from None
    return cast("Method", method_class(checked))


def load_encoder(reference: str, *, device: str) -> Encoder:
    """Return the encoder of "scheme:argument", such as "timm:vit_small_patch16_224.dino"."""
    scheme, _, argument = reference.partition(":")
    return cast("Encoder", _load("encoders", scheme)(argument, device=device))


def load_metric(name: str) -> Metric:
    """Return a metric."""
    return cast("Metric", _load("metrics", name)())


def _load(kind: Kind, name: str) -> Any:
    point = find(kind, name)
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise UserError(
            f'{kind[:-1]} "{name}" ({point.value}) cannot be loaded: {error}; '
            "reinstall the package that brings it"
        ) from error


@cache
def _points(kind: Kind) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"dbbench.{kind}")}

"""Plug-ins by name: entry points of dbbench and of other packages, and methods in Python files."""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, Literal

from dbbench.errors import UserError, unknown
from dbbench.files import hash_file

PluginKind = Literal["datasets", "methods", "encoders", "metrics"]


@dataclass(frozen=True)
class FilePoint:
    """A method in a Python file, "path/to/file.py:Class", used like an entry point."""

    path: Path
    attribute: str

    @property
    def module(self) -> str:
        """The name under which the file is imported; a changed file gets another name."""
        return f"dbbench_file_{re.sub(r'[^A-Za-z0-9]', '_', self.path.stem)}_{self.digest}"

    @property
    def digest(self) -> str:
        """The first 16 digits of the file's SHA-256."""
        return hash_file(self.path)[:16]

    @property
    def value(self) -> str:
        """File name, class and content hash; the folder is not part of it."""
        return f"{self.path.name}:{self.attribute} ({self.digest})"

    def load(self) -> Any:
        """Import the file and return the class."""
        if self.module not in sys.modules:
            spec = spec_from_file_location(self.module, self.path)
            if spec is None or spec.loader is None:
                raise ImportError(f"{self.path} is no Python file")
            sys.modules[self.module] = module = module_from_spec(spec)
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[self.module]
                raise
        return getattr(sys.modules[self.module], self.attribute)


def is_file_reference(text: str) -> bool:
    """Return whether the text is "path/to/file.py:Class" and not an installed name."""
    return ".py:" in text or text.endswith(".py")


def add_method_file(reference: str) -> str:
    """Register the method of "path/to/file.py:Class" in this process; return its name.

    Raises UserError if there is no such file or class, or the class is no method.
    """
    place, _, attribute = reference.rpartition(":")
    path = Path(place).expanduser().resolve()
    if not place.endswith(".py") or not attribute.isidentifier():
        raise UserError(f'cannot read "{reference}"; write it as path/to/file.py:Class')
    if not path.is_file():
        raise UserError(f"the method file {place} does not exist; correct the path")
    point = FilePoint(path, attribute)
    try:
        found = point.load()
    except AttributeError:
        raise UserError(f"{place} has no class {attribute}; name one that it defines") from None
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{place} cannot be imported ({reason}); correct it") from error
    name = getattr(found, "name", None)
    missing = [m for m in ("Settings", "needs_prior", "fit", "generate") if not hasattr(found, m)]
    if not isinstance(name, str) or missing:
        raise UserError(
            f"{reference} is no method: it has no {', '.join(missing) or 'name'};"
            " see docs/methods.md"
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise UserError(f'{reference} has the name "{name}"; use letters, digits, "-", "_"')
    if name in _points("methods"):
        raise UserError(f'{reference} has the name "{name}", like an installed method; rename it')
    _method_files[name] = point
    return name


def names(kind: PluginKind) -> tuple[str, ...]:
    """Return the names of the installed plug-ins of a kind, without importing them."""
    return tuple(sorted(_points(kind)))


def find(kind: PluginKind, name: str) -> EntryPoint | FilePoint:
    """Return the entry point of a name. Raises UserError if it is unknown."""
    if kind == "methods" and name in _method_files:
        return _method_files[name]
    try:
        return _points(kind)[name]
    except KeyError:
        raise unknown(kind[:-1], name, names(kind), f"dbbench list {kind}") from None


def provenance(kind: PluginKind, name: str) -> str:
    """Return the source of a plug-in: "package.module:object", and another package's version.

    It is part of the fingerprints. dbbench's own version is left out: the version number of a stage
    is increased when its results change.
    """
    point = find(kind, name)
    if isinstance(point, FilePoint) or point.dist is None or point.dist.name == "dbbench":
        return point.value
    return f"{point.value} ({point.dist.name} {point.dist.version})"


def describe(kind: PluginKind, name: str) -> str:
    """Return the first line of the docstring of a plug-in's module, without importing it."""
    try:
        spec = find_spec(find(kind, name).module)
        source = Path(spec.origin).read_text(encoding="utf-8") if spec and spec.origin else ""
        return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
    except (ImportError, OSError, SyntaxError, ValueError):
        return "cannot be read"


def load_plugin(kind: PluginKind, name: str) -> Any:
    """Import a plug-in and return its object. Raises UserError if it is unknown or cannot load."""
    point = find(kind, name)
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise UserError(
            f'{kind[:-1]} "{name}" ({point.value}) cannot be loaded: {error}; reinstall its package'
        ) from error


@cache
def _points(kind: PluginKind) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"dbbench.{kind}")}


_method_files: dict[str, FilePoint] = {}

"""What the tests of suite, stages, executor, command and resumption share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import tinted_plugin
from rich.console import Console

from dbbench import plugin
from dbbench.executor import Executor, execute
from dbbench.mini.source import MiniSource
from dbbench.session import Outcome
from dbbench.suite import Suite, load_suite, override, plan_runs


@pytest.fixture(scope="session")
def plugin_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The third party's package, installed into a folder."""
    return tinted_plugin.install(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="session")
def suite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite on a random Stable Diffusion of 16 pixels."""
    import tiny_backbone

    folder = tmp_path_factory.mktemp("suite")
    backbone = tiny_backbone.write(folder / "backbone")
    path = folder / "tiny.toml"
    path.write_text(tinted_plugin.SUITE.format(backbone=backbone))
    return path


@pytest.fixture
def installed(plugin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The third party's package, to be found by this process."""
    monkeypatch.syspath_prepend(plugin_folder)
    plugin._points.cache_clear()
    yield
    plugin._points.cache_clear()


@pytest.fixture
def suite(installed: None, suite_file: Path) -> Suite:
    return load_suite(suite_file)


def run(
    suite: Suite,
    out: Path,
    *settings: str,
    subjects: str = "dog,can",
    methods: list[str] | None = None,
    seeds: list[int] | None = None,
    console: Console | None = None,
    executor: Executor | None = None,
    together: int = 1,
) -> Outcome:
    """Do what `dbbench run` does."""
    chosen = override(suite, settings)
    return execute(
        chosen,
        out,
        MiniSource(chosen.backbone.resolution),
        plan_runs(chosen, subjects.split(","), methods, seeds),
        device="cpu",
        console=console or Console(quiet=True),
        executor=executor,
        together=together,
    )


def contents(out: Path, *patterns: str) -> dict[str, str]:
    """Return the hash of each file that a pattern matches, by name."""
    patterns = patterns or ("references/**/*", "prior/**/*", "runs/**/*", "features/**/*")
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in patterns
        for path in sorted(out.glob(pattern))
        if path.is_file()
    }


def written(out: Path) -> dict[str, int]:
    """Return the time at which each artifact was made."""
    manifests = sorted(out.rglob("manifest.json"))
    return {
        path.parent.relative_to(out).as_posix(): path.parent.stat().st_ctime_ns
        for path in manifests
    }

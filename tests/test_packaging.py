"""Claims about what is shipped: the wheel is whole, and works where it was not built."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

DERIVED = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*", "results")


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    """The contents of pyproject.toml."""
    return tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))


@pytest.fixture(scope="module")
def wheel(
    repository: Path, project: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The wheel, built by way of the source archive from a copy of the checkout."""
    copy = tmp_path_factory.mktemp("source") / "dbbench"
    copy.mkdir()
    for folder in ("benchmark", *_top_folders(project)):
        shutil.copytree(repository / folder, copy / folder, ignore=DERIVED)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(repository / file, copy)
    _run(sys.executable, "-m", "build", "--no-isolation", ".", cwd=copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of another environment, in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    venv.create(folder, with_pip=True)
    commands = folder / "bin"
    _run(commands / "python", "-m", "pip", "install", "--no-index", "--no-deps", wheel, cwd=folder)
    # Lend it the dependencies. A folder named in a .pth file has its own .pth files ignored, so
    # this environment's editable dbbench stays invisible.
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return commands


def test_wheel_holds_every_file_of_the_source(
    repository: Path, project: dict[str, Any], wheel: Path
) -> None:
    folders = _top_folders(project) | {"benchmark/dbbench": "dbbench"}
    expected = {
        (PurePosixPath(inside) / path.relative_to(repository / folder)).as_posix()
        for folder, inside in folders.items()
        for path in (repository / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
    }
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert expected - shipped == set()
    assert shipped - expected == set()


def test_wheel_claims_one_import_name_only(wheel: Path) -> None:
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"dbbench"}


def test_installed_command_runs_elsewhere(installed: Path, repository: Path) -> None:
    where = _run(installed / "python", "-c", "import dbbench; print(dbbench.__file__)", cwd="/")
    assert not Path(where.strip()).is_relative_to(repository)
    assert "report" in _run(installed / "dbbench", "--help", cwd="/")
    subjects = _run(installed / "dbbench", "list", "subjects", cwd="/")
    assert "grey_sloth_plushie" in subjects
    assert "eiffel-tower" in _run(installed / "dbbench", "list", "prompts", cwd="/")
    assert "mini" in _run(installed / "dbbench", "list", "suites", cwd="/")
    assert "textual_inversion" in _run(installed / "dbbench", "list", "methods", cwd="/")
    assert "clip-t" in _run(installed / "dbbench", "list", "metrics", cwd="/")


def test_every_entry_point_names_a_module_that_exists(project: dict[str, Any]) -> None:
    groups = project["project"]["entry-points"]
    targets = [target for group in groups.values() for target in group.values()]
    targets += project["project"]["scripts"].values()
    assert len(targets) >= 10
    for target in targets:
        module, _, name = target.partition(":")
        spec = importlib.util.find_spec(module)
        assert spec is not None, target
        assert spec.origin is not None
        source = Path(spec.origin).read_text("utf-8")
        assert re.search(rf"^(class|def) {name}\b|^{name}\b.* = ", source, re.MULTILINE), target


def test_lock_pins_every_dependency_with_hashes_and_names_no_host(
    repository: Path, project: dict[str, Any]
) -> None:
    text = (repository / "requirements.lock").read_text("utf-8")
    lines = text.splitlines()
    assert all(re.match(r"[a-z0-9._-]+==[^ ]+ |    --hash=sha256:[0-9a-f]{64}", x) for x in lines)
    pinned = set(re.findall(r"^([a-z0-9._-]+)==", text, re.MULTILINE))
    requirements = project["project"]["dependencies"]
    requirements += project["project"]["optional-dependencies"]["dev"]
    named = {re.split(r"[\[<>=!~ ]", line)[0].lower().replace("_", "-") for line in requirements}
    assert named - pinned == set()


def _top_folders(project: dict[str, Any]) -> dict[str, str]:
    """Return the folders that lie at the top of the checkout -> their place inside the wheel."""
    mapping = project["tool"]["setuptools"]["package-dir"]
    return {folder: name.replace(".", "/") for name, folder in mapping.items() if name}


def _run(*command: str | Path, cwd: str | Path) -> str:
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout

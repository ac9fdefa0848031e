"""Claims about the notebook of the documentation: it runs offline, and shows what it claims."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

NOTEBOOK = "docs/notebooks/score_your_images.ipynb"


def outputs_of(notebook: Any) -> str:
    """All text that the cells have printed or shown."""
    texts = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            texts.append(output.get("text") or output.get("data", {}).get("text/plain", ""))
    return "\n".join(texts)


def test_the_committed_notebook_was_executed_and_names_no_folder_of_a_machine(
    repository: Path,
) -> None:
    notebook = nbformat.read(repository / NOTEBOOK, as_version=4)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    assert not re.search(r"/(home|root|tmp|work|Users)/", outputs_of(notebook))


@pytest.mark.slow
def test_the_notebook_runs_and_its_leaderboard_is_as_committed(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbconvert.preprocessors import ExecutePreprocessor

    monkeypatch.setenv("DBBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    notebook = nbformat.read(repository / NOTEBOOK, as_version=4)
    committed = leaderboard_of(notebook)
    execute = ExecutePreprocessor(timeout=600, kernel_name="python3")
    execute.preprocess(notebook, {"metadata": {"path": str(tmp_path)}})
    ran = leaderboard_of(notebook)
    assert ran.keys() == committed.keys()
    for method, values in committed.items():
        assert ran[method] == pytest.approx(values, abs=0.002)
    dino, _, clip_t = range(3)
    assert ran["perfect"][dino] > ran["repainted"][dino] > ran["another"][dino]
    assert ran["copies"][dino] > ran["perfect"][dino]
    assert ran["copies"][clip_t] < ran["another"][clip_t]


def leaderboard_of(notebook: Any) -> dict[str, list[float]]:
    """Method -> DINO, CLIP-I and CLIP-T, as the notebook's table shows them."""
    rows = re.findall(r"^(\w+) +(-?\d\.\d+) +(-?\d\.\d+) +(-?\d\.\d+)$", outputs_of(notebook), re.M)
    assert len(rows) == 4
    return {method: [float(value) for value in values] for method, *values in rows}

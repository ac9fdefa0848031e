"""Copies and collapses of a report are the scores of the two metrics, in any order of a suite."""

from dataclasses import replace
from pathlib import Path

import harness
import numpy as np
import pandas as pd
import pytest
from finished_run import MakeRun
from harness import installed, plugin_folder, suite, suite_file  # noqa: F401
from typer.testing import CliRunner

from dbbench.cli import app
from dbbench.evaluation.metric import Features, evaluate, load_metric, real_ceiling
from dbbench.files import read_json
from dbbench.reports.page.flags import Flagged, read_flags
from dbbench.reports.page.limits import measure
from dbbench.reports.results import load_results
from dbbench.suites.suite import Suite

Values = dict[tuple[str, ...], float]
METHODS = ("plain", "tinted")


def score(suite: Suite, out: Path, *metrics: str) -> Path:  # noqa: F811
    """Run the suite; with other metrics than last time, only score again."""
    names = ", ".join(f'"{name}"' for name in metrics)
    settings = (f"metrics=[{names}]", "sample.images_per_prompt=2", "prompts.first=4")
    harness.run(suite, out, *settings, subjects="dog", methods=list(METHODS))
    return out


def flags_of(out: Path) -> dict[tuple[str, str], list[Flagged]]:
    return read_flags(load_results(out))


def flagged(out: Path, kind: str) -> Values:
    """What the report flags: an image by run, prompt and number; of a prompt its first."""
    return {
        (str(flag.run), flag.prompt, str(flag.number)): flag.found.value
        for method in METHODS
        for flag in flags_of(out)[method, kind]
    }


def by_definition(out: Path, kind: str) -> Values:
    """What the metric scores above the ceiling, image by image, from the encoder that it names."""
    metric, found = load_metric(kind), {}
    for samples in sorted(out.glob("runs/*/*/*/samples/samples.json")):
        run, entries = samples.parents[1], read_json(samples)["images"]
        vectors = np.load(run / "features" / metric.role / "images.npy")
        real = np.load(out / "features/real" / run.parent.name / metric.role / "images.npy")
        ceiling = real_ceiling(real)
        assert ceiling is not None
        prompts = [entry["prompt"] for entry in entries]
        values = evaluate(metric, prompts, Features(vectors, references=real))
        table = pd.DataFrame({"prompt": prompts, "value": values})
        if kind == "collapse":
            table["value"] = table.groupby("prompt")["value"].transform("mean")
            table = table.drop_duplicates("prompt")
        for row, one in table[table["value"] > ceiling].iterrows():
            key = (str(run.relative_to(out / "runs")), one["prompt"], str(entries[row]["number"]))
            found[key] = one["value"]
    return found


def test_report_metric_score_table_and_dbbench_score_agree_image_by_image(
    suite: Suite,  # noqa: F811
    tmp_path: Path,
) -> None:
    out = score(suite, tmp_path / "out", "dino", "clip-i", "clip-t")
    expected = {kind: by_definition(out, kind) for kind in ("copy", "collapse")}
    limits = measure(load_results(out))
    images = len(list(out.glob("runs/*/*/*/samples/*/*.png")))
    assert all(0 < len(found) < images for found in expected.values())
    for metrics in (
        ("dino", "clip-i", "clip-t"),
        ("clip-i", "clip-t", "dino"),
        ("clip-i", "dino", "clip-t", "copy", "collapse"),
    ):
        score(suite, out, *metrics)
        pd.testing.assert_frame_equal(measure(load_results(out)), limits)
        results = load_results(out)
        assert results.suite.metrics == metrics
        for kind, found in expected.items():
            assert (kind in set(results.scores["metric"])) == (kind in metrics)
            assert flagged(out, kind) == pytest.approx(found, abs=1e-12)
    command = ["score", str(out), "--out", str(tmp_path / "scored"), "--device", "cpu"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    table = pd.read_csv(tmp_path / "scored" / "flags.csv")
    for kind, found in expected.items():
        own = table.loc[table["flag"] == kind, "value"]
        assert sorted(own) == pytest.approx(sorted(found.values()), abs=1e-6)


def write_features(out: Path, role: str) -> None:
    """Write features of `dog` in which everything resembles everything by chance alone."""
    rng = np.random.default_rng(0)
    for folder, count in (("features/real", 3), ("runs/dreambooth", 6)):
        own = out / folder / "dog" / ("" if count == 3 else "0/features") / role
        own.mkdir(parents=True)
        np.save(own / "images.npy", rng.normal(size=(count, 4)).astype(np.float32))


def test_scores_of_the_score_table_are_taken_as_they_are(make_run: MakeRun) -> None:
    out = make_run(subjects=("dog",))
    write_features(out, "dino")
    results = load_results(out)
    scores = results.scores.replace({"metric": {"dino": "copy"}})
    scores["value"] = 2.0 + np.arange(len(scores))
    flags = read_flags(replace(results, scores=scores))["dreambooth", "copy"]
    own = scores[(scores["metric"] == "copy") & (scores["method"] == "dreambooth")]
    assert [flag.found.value for flag in flags] == own["value"].tolist()


def test_nothing_is_known_without_the_encoder_of_the_metrics(make_run: MakeRun) -> None:
    out = make_run(subjects=("dog",), suite={"metrics": ["clip-i"]})
    write_features(out, "clip")
    assert read_flags(load_results(out)) == {}

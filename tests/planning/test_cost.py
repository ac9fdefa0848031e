"""What a suite will cost is said before it starts: from rates measured here, or by arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import installed, plugin_folder, run, suite, suite_file  # noqa: F401

from dbbench.mini.source import MiniWorld
from dbbench.planning.build import make_plan
from dbbench.planning.cost import ACHIEVED, estimate
from dbbench.planning.plan import Plan
from dbbench.planning.request import Request
from dbbench.storage.events import EventLog
from dbbench.suites.runs import plan_runs
from dbbench.suites.suite import Suite, load_suite, override

# ruff: noqa: F811 - fixtures are imported by name


def plan_for(suite: Suite, out: Path, *, device: str = "cuda") -> Plan:
    return make_plan(Request(suite, out, MiniWorld(), ()), device)


def test_the_arithmetic_is_that_of_passes(tmp_path: Path) -> None:
    suite = override(load_suite("paper"), ["prior.count=10", "methods.dreambooth.steps=100"])
    plan = plan_for(suite, tmp_path)
    tasks = plan.tasks(plan_runs(suite, ["dog", "dog2"], ["dreambooth"]))
    cost = estimate(plan, tasks)
    second = 0.803e12 / ACHIEVED["cuda"]
    assert cost.seconds["prior"] == pytest.approx(10 * 50 * 2 * second)  # one noun for both
    assert cost.seconds["train"] == pytest.approx(2 * 100 * 2 * 3 * second)
    assert cost.seconds["sample"] == pytest.approx(2 * 100 * 50 * 2 * second)
    line = cost.describe("cuda")
    assert "GPU hours" in line
    assert "estimated at 250,000 GFLOP/s, not measured here" in line


@pytest.mark.parametrize("name", ["mini", "paper", "sd21", "sdxl", "sd3"])
def test_every_shipped_suite_has_an_estimate_and_a_similar_path_has_none(
    name: str, tmp_path: Path
) -> None:
    suite = load_suite(name)
    similar = f"{suite.backbone.path}-turbo"
    for path, known in ((suite.backbone.path, True), (similar, False)):
        plan = plan_for(override(suite, [f"backbone.path={path}"]), tmp_path)
        cost = estimate(plan, plan.tasks(plan_runs(plan.suite, ["dog"])))
        assert (bool(cost.seconds), cost.unknown) == (known, not known)


def test_twice_the_resolution_is_four_times_the_cost(tmp_path: Path) -> None:
    costs = []
    for resolution in (256, 512):
        suite = override(load_suite("paper"), [f"backbone.resolution={resolution}"])
        plan = plan_for(suite, tmp_path / str(resolution))
        tasks = plan.tasks(plan_runs(suite, ["dog"], ["textual_inversion"]))
        costs.append(estimate(plan, tasks).seconds["train"])
    assert costs[1] == pytest.approx(4 * costs[0])


def test_rates_measured_in_the_folder_come_first(tmp_path: Path) -> None:
    suite = load_suite("paper")
    events = EventLog(tmp_path)
    for method in ("dreambooth", "textual_inversion"):
        for stage, unit, seconds in (("train", "steps", 50.0), ("sample", "images", 20.0)):
            about = {"method": method, "subject": "can", "seed": 0}
            events.write(stage=stage, status="done", run=about, seconds=seconds, **{unit: 100})
    events.write(stage="prior", status="done", name="can", seconds=10.0, images=100)
    plan = plan_for(suite, tmp_path)
    cost = estimate(plan, plan.tasks(plan_runs(suite, ["dog"])))
    assert cost.seconds["prior"] == pytest.approx(1000 * 0.1)
    assert cost.seconds["train"] == pytest.approx((1000 + 5000) * 0.5)
    assert cost.seconds["sample"] == pytest.approx(200 * 0.2)
    assert "from rates measured in this folder" in cost.describe("cuda")


def test_of_an_unknown_backbone_nothing_is_said_until_it_was_run(
    suite: Suite, tmp_path: Path
) -> None:
    plan = plan_for(suite, tmp_path, device="cpu")
    tasks = plan.tasks(plan_runs(suite, ["can"]))
    assert estimate(plan, tasks).describe("cpu").startswith("no estimate of the time")
    run(suite, tmp_path, subjects="can")
    plan = plan_for(suite, tmp_path, device="cpu")
    cost = estimate(plan, plan.tasks(plan_runs(suite, ["dog"])))
    assert cost.measured
    assert set(cost.seconds) == {"prior", "train", "sample"}

"""What a suite will cost is said before it starts: from rates measured here, or by arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness import installed, plugin_folder, run, suite, suite_file  # noqa: F401

from dbbench.mini.source import MiniWorld
from dbbench.planning.build import make_plan
from dbbench.planning.cost import ACHIEVED, CALL, STEP_CALLS, estimate, estimate_bytes
from dbbench.planning.known import DEFAULTS, KNOWN
from dbbench.planning.plan import Plan
from dbbench.planning.request import Request
from dbbench.plugins import load_plugin
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
    step = STEP_CALLS * KNOWN[suite.backbone.path].calls * CALL
    assert step > 2 * 3 * second  # two images are too few to fill a large GPU
    assert cost.seconds["train"] == pytest.approx(2 * 100 * step)
    assert 8 < 1 / step < 10
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
    for resolution in (512, 1024):
        settings = [f"backbone.resolution={resolution}", "methods.textual_inversion.batch_size=32"]
        suite = override(load_suite("paper"), settings)
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
    assert cost.seconds["train"] == pytest.approx((1000 + 6100) * 0.5)
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


def test_defaults_are_those_of_the_methods() -> None:
    for name, known in DEFAULTS.items():
        fields = load_plugin("methods", name).Settings.model_fields
        real = {key: fields[key].default for key in known if key in fields}
        assert real == {key: value for key, value in known.items() if key in fields}
        assert set(known) - set(real) <= {"steps", "prior_weight"}


@pytest.mark.parametrize(
    ("suite_name", "method", "images", "passes"),
    [
        ("sd21", "dreambooth", 2, 3),  # its file leaves the weight of the class images out
        ("sdxl", "dreambooth_lora", 2, 2),
        ("paper", "textual_inversion", 2, 2),
    ],
)
def test_a_step_is_counted_with_its_class_images_and_passes(
    tmp_path: Path, suite_name: str, method: str, images: int, passes: int
) -> None:
    suite = load_suite(suite_name)
    plan = plan_for(suite, tmp_path, device="cpu")
    tasks = plan.tasks(plan_runs(suite, ["dog"], [method]))
    known, steps = KNOWN[suite.backbone.path], suite.methods[method]["steps"]
    expected = steps * images * passes * known.operations / ACHIEVED["cpu"]
    assert estimate(plan, tasks).seconds["train"] == pytest.approx(expected)


def test_weights_from_elsewhere_are_no_training(tmp_path: Path) -> None:
    suite = override(load_suite("paper"), ["methods.dreambooth.checkpoint=there"])
    plan = plan_for(suite, tmp_path)
    tasks = plan.tasks(plan_runs(suite, ["dog"], ["dreambooth"]))
    assert estimate(plan, tasks).seconds["train"] == 0


@pytest.mark.parametrize(
    ("suite_name", "method", "gigabytes"),
    [
        ("paper", "dreambooth", 3.44),
        ("paper", "textual_inversion", 0.0),
        ("sdxl", "dreambooth_lora", 0.093),
    ],
)
def test_checkpoints_count_for_the_disk(
    tmp_path: Path, suite_name: str, method: str, gigabytes: float
) -> None:
    suite = load_suite(suite_name)
    plan = plan_for(suite, tmp_path)
    tasks = [
        t for t in plan.tasks(plan_runs(suite, ["dog", "can"], [method])) if t.stage == "train"
    ]
    assert estimate_bytes(plan, tasks) == pytest.approx(2 * gigabytes * 1e9, rel=0.01)
    once = plan_for(override(suite, ["keep_checkpoints=false"]), tmp_path)
    assert estimate_bytes(once, tasks) == pytest.approx(gigabytes * 1e9, rel=0.01)

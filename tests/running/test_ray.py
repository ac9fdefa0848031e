"""Claims about the Ray executor, on a real cluster of two nodes on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import (  # noqa: F401
    contents,
    installed,
    kill_at,
    leftovers,
    plugin_folder,
    run,
    suite,
    suite_file,
)

from dbbench.errors import UserError
from dbbench.running.executors.ray_driver import Cluster, connected
from dbbench.storage.events import EventLog
from dbbench.suites.suite import Suite

# ruff: noqa: F811 - fixtures are imported by name

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster(plugin_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A connection to two nodes with one CPU each; a third process of Ray's is the head."""
    from ray.cluster_utils import Cluster as Nodes

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(plugin_folder), *sys.path]))
        patch.setenv("RAY_raylet_start_wait_time_s", "120")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        head = {"num_cpus": 0, "include_dashboard": False}
        nodes = Nodes(initialize_head=True, head_node_args=head)
        for _ in range(2):
            nodes.add_node(num_cpus=1, memory=2 * 10**9)
        try:
            with connected(nodes.address, memory="1GB") as connection:
                yield connection
        finally:
            nodes.shutdown()


def test_a_cluster_makes_what_this_process_makes(
    tmp_path: Path, suite: Suite, cluster: Cluster
) -> None:
    run(suite, tmp_path / "here")
    outcome = run(suite, tmp_path / "there", executor=cluster)
    assert not outcome.failures
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    tables = "scores.parquet", "leaderboard.csv"
    assert contents(tmp_path / "there", *tables) == contents(tmp_path / "here", *tables)
    assert run(suite, tmp_path / "there", executor=cluster).done == 0


def test_events_of_a_cluster_name_node_and_attempts(
    tmp_path: Path, suite: Suite, cluster: Cluster
) -> None:
    run(suite, tmp_path, executor=cluster, subjects="dog,dog2", methods=["tinted"])
    events = [e for e in EventLog(tmp_path).read() if "node" in e]
    assert [e["name"] for e in events if e["stage"] == "prior"] == ["dog"]
    assert {e["attempts"] for e in events} == {1}
    assert all(e["peak_rss_bytes"] > 10**7 for e in events)


def test_a_run_that_fails_on_a_node_stops_no_other(
    tmp_path: Path, suite: Suite, cluster: Cluster
) -> None:
    outcome = run(suite, tmp_path, "methods.tinted.fail_on=dog", executor=cluster)
    (failure,) = outcome.failures
    assert (failure.task.stage, failure.task.name) == ("train", "tinted/dog/0")
    assert failure.reason == "RuntimeError: cannot learn dog"
    assert "Traceback" in failure.log.read_text()
    assert (tmp_path / "runs/plain/dog/0/samples").is_dir()
    assert not run(suite, tmp_path, executor=cluster).failures


def test_a_process_that_is_killed_while_it_trains_is_replaced(
    tmp_path: Path, suite: Suite, cluster: Cluster
) -> None:
    pause = "methods.plain.pause=0.3"
    half_done = "runs/plain/dog/0/.checkpoint.*"
    killer = kill_at(tmp_path / "killed", "train plain/dog/0", once=half_done)
    outcome = run(suite, tmp_path / "killed", pause, executor=cluster)
    killer.join(1)
    assert not killer.is_alive()
    assert not outcome.failures
    trained = [e for e in EventLog(tmp_path / "killed").read() if e["stage"] == "train"]
    assert {e["name"]: e["attempts"] for e in trained} == {
        "plain/dog/0": 2, "plain/can/0": 1, "tinted/dog/0": 1, "tinted/can/0": 1
    }  # fmt: skip
    run(suite, tmp_path / "whole", pause)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    assert not leftovers(tmp_path / "killed")


def test_a_task_that_no_node_can_hold_is_one_line(
    tmp_path: Path, suite: Suite, cluster: Cluster
) -> None:
    greedy = Cluster(cluster.ray, type(cluster.needs)(cpus=64), "cpu")
    with pytest.raises(UserError, match="is large enough for a task .64 CPU.*--cpus-per-task"):
        run(suite, tmp_path, executor=greedy)


def test_no_cluster_is_one_line() -> None:
    with pytest.raises(UserError, match="no Ray cluster at .*ray start"), connected("127.0.0.1:1"):
        pass

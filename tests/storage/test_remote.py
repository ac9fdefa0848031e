"""Claims about output folders behind an address: in memory, and on a server that speaks S3."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib import request as http

import fsspec
import pytest
from harness import contents, installed, plugin_folder, suite, suite_file  # noqa: F401
from harness import run as run_here
from rich.console import Console
from typer.testing import CliRunner, Result

from dbbench.cli import app
from dbbench.cli.status import print_status
from dbbench.errors import UserError
from dbbench.mini.source import MiniWorld
from dbbench.planning.request import Request
from dbbench.reports import write_report
from dbbench.running.options import RunOptions
from dbbench.running.run import execute
from dbbench.running.session import Outcome
from dbbench.storage.artifact import MANIFEST, Damaged
from dbbench.storage.events import EventLog
from dbbench.storage.leases import Leases
from dbbench.storage.remote import Remote, RemoteArtifact, open_folder
from dbbench.storage.run_folder import Training
from dbbench.suites.runs import plan_runs
from dbbench.suites.suite import Suite, override

# ruff: noqa: F811 - fixtures are imported by name


@pytest.fixture
def memory() -> Iterator[str]:
    """The address of a folder in memory."""
    yield "memory://results/one"
    fsspec.filesystem("memory").store.clear()


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scratch folder of the test's own."""
    monkeypatch.setenv("DBBENCH_SCRATCH", str(tmp_path / "first-machine"))


def run(suite: Suite, url: str, *settings: str, subjects: str = "dog") -> Outcome:
    """Do what `dbbench run --out url` does."""
    chosen = override(suite, settings)
    folder, remote = open_folder(url)
    runs = plan_runs(chosen, subjects.split(","), ["plain"], None)
    return execute(
        Request(chosen, folder, MiniWorld(), runs, remote),
        options=RunOptions("cpu"),
        publish=write_report,
        console=Console(quiet=True),
    )


def artifact(url: str, inputs: dict[str, int]) -> RemoteArtifact:
    remote = Remote(url)
    return RemoteArtifact(remote.mirror / "runs/a", inputs, remote, "runs/a")


def test_another_machine_finds_everything_done_and_the_same(
    memory: str, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(suite, memory).done == 6
    here = Remote(memory).mirror
    monkeypatch.setenv("DBBENCH_SCRATCH", str(tmp_path / "second-machine"))
    there = Remote(memory).mirror
    assert there != here
    assert run(suite, memory).done == 0
    assert contents(there, "scores.parquet", "report/index.html") == contents(
        here, "scores.parquet", "report/index.html"
    )
    run(suite, memory, subjects="dog,can")
    assert contents(there, "runs/plain/dog/0/samples/**/*") == contents(
        here, "runs/plain/dog/0/samples/**/*"
    )


def test_what_was_cut_short_there_is_made_again(memory: str, suite: Suite) -> None:
    run(suite, memory)
    files = fsspec.filesystem("memory")
    image = "/results/one/runs/plain/dog/0/samples/jungle/0.png"
    before = files.cat_file(image)
    files.pipe_file(image, before[:-3])
    assert run(suite, memory).done == 1
    assert files.cat_file(image) == before


def test_bytes_that_changed_are_refused_and_forgotten(memory: str) -> None:
    made = artifact(memory, {"a": 1})
    with made.create() as folder:
        (folder / "x.txt").write_text("abc")
    assert made.state == "done"
    fsspec.filesystem("memory").pipe_file("/results/one/runs/a/x.txt", b"abd")
    (made.path / MANIFEST).unlink()
    with pytest.raises(Damaged, match="x.txt has changed"):
        made.require()
    made.discard()
    assert made.state == "missing"


def test_an_artifact_is_there_only_once_its_manifest_is(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, sent = artifact(memory, {"a": 1}), []
    system = fsspec.filesystem("memory")
    put = type(system).put_file

    def watched(self: object, local: str, name: str, **options: object) -> None:
        sent.append((name.rpartition("/")[2], made.state))
        put(self, local, name, **options)

    monkeypatch.setattr(type(system), "put_file", watched)
    with made.create() as folder:
        (folder / "x.txt").write_text("abc")
        (folder / "y.txt").write_text("abc")
    assert [name for name, _ in sent] == ["x.txt", "y.txt", MANIFEST]
    assert {state for _, state in sent} == {"missing"}
    assert made.state == "done"


def test_of_an_older_artifact_nothing_is_left(memory: str) -> None:
    for inputs, name in (({"a": 1}, "old.txt"), ({"a": 2}, "new.txt")):
        with artifact(memory, inputs).create() as folder:
            (folder / name).write_text("abc")
    assert artifact(memory, {"a": 1}).state == "stale"
    names = fsspec.filesystem("memory").find("/results/one/runs/a")
    assert [name.rpartition("/")[2] for name in names] == [MANIFEST, "new.txt"]


def test_a_manifest_there_cannot_name_files_outside(memory: str, tmp_path: Path) -> None:
    made = artifact(memory, {"a": 1})
    with made.create() as folder:
        (folder / "x.txt").write_text("abc")
    system, place = fsspec.filesystem("memory"), f"/results/one/runs/a/{MANIFEST}"
    document = json.loads(system.cat_file(place))
    document["files"][0]["name"] = "../../../escaped.txt"
    system.pipe_file(place, json.dumps(document).encode())
    (made.path / MANIFEST).unlink()
    with pytest.raises(UserError, match="points outside"):
        made.fetch()
    assert not list(tmp_path.rglob("escaped.txt"))


def test_status_of_an_address_says_what_is_done(memory: str, suite: Suite) -> None:
    run(suite, memory)
    console = Console(width=120, force_terminal=False)
    with console.capture() as capture:
        folder, remote = open_folder(memory)
        print_status(folder, console, remote)
    assert "1 of 1 runs finished; the leaderboard is up to date" in capture.get()


def test_an_unknown_kind_of_address_is_one_line() -> None:
    with pytest.raises(UserError, match="cannot use nosuch://x"):
        open_folder("nosuch://x/y")


def command(*words: str) -> Result:
    """Do what `dbbench` does; a UserError is the answer in one line and exit code 2."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(done.exception, UserError):
        raise done.exception
    return done


def test_commands_that_read_take_an_address_from_any_machine(
    memory: str, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(suite, memory, subjects="dog,can")
    files = fsspec.filesystem("memory")
    monkeypatch.setenv("DBBENCH_SCRATCH", str(tmp_path / "second-machine"))
    assert "2 of 2 runs finished; the leaderboard is up to date" in command("status", memory).stdout
    assert f"{memory}: 15 done, 0 damaged" in command("verify", memory).stdout
    before = files.find("/results/one")
    shown = command("report", memory)
    assert "plain" in shown.stdout
    page = Remote(memory).mirror / "report" / "index.html"
    assert str(page) in shown.stdout
    assert len(list((page.parent.parent / "runs/plain/dog/0/samples").glob("*/*.png"))) == 25
    assert not (page.parent.parent / "runs/plain/dog/0/checkpoint/manifest.json").exists()
    assert json.loads((page.parents[1] / "runs/plain/dog/0/checkpoint" / Training.FILE).read_text())
    assert files.find("/results/one") == before
    same = command("compare", memory, memory)
    assert same.exit_code == 0, same.output
    baseline = tmp_path / "baseline.json"
    command("check", memory, "--against", str(baseline), "--update")
    assert baseline.is_file()


def test_verify_reads_every_byte_behind_an_address(memory: str, suite: Suite) -> None:
    run(suite, memory)
    files = fsspec.filesystem("memory")
    image = "/results/one/runs/plain/dog/0/samples/jungle/0.png"
    whole = files.cat_file(image)
    files.pipe_file(image, whole[:-1] + b"x")
    assert "1 of 1 runs finished" in command("status", memory).stdout  # It reads sizes only.
    said = command("verify", memory)
    assert said.exit_code == 1
    assert "jungle/0.png has changed" in " ".join(said.stdout.split())
    assert run(suite, memory).done == 1
    assert files.cat_file(image) == whole
    assert command("verify", memory).exit_code == 0


def test_events_and_logs_of_several_machines_are_kept(
    memory: str, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(suite, memory, "methods.plain.fail_on=can", subjects="can").failures
    first = Remote(memory).mirror
    mine = {e["time"]: e for e in EventLog(first).read()}
    monkeypatch.setenv("DBBENCH_SCRATCH", str(tmp_path / "second-machine"))
    assert "failed: RuntimeError: cannot learn can" in command("status", memory).stdout
    monkeypatch.setattr(
        "dbbench.storage.events._TOKEN", "other"
    )  # As a process there would have it.
    assert not run(suite, memory, subjects="can").failures
    both = {e["time"]: e for e in EventLog(Remote(memory).mirror).read()}
    assert mine.items() < both.items()
    assert list(both) == sorted(both)
    monkeypatch.setenv("DBBENCH_SCRATCH", str(tmp_path / "first-machine"))
    assert "failed" not in command("status", memory).stdout
    assert {e["time"]: e for e in EventLog(first).read()} == both


def test_a_reader_leaves_alone_what_a_call_of_this_machine_is_at(memory: str, suite: Suite) -> None:
    run(suite, memory)
    folder = Remote(memory).mirror
    with Leases(folder) as leases, leases.hold("train plain/dog/0", print):
        (folder / "scores.json").write_text("newer")
        command("status", memory)
        assert (folder / "scores.json").read_text() == "newer"
    command("status", memory)
    assert (folder / "scores.json").read_text() != "newer"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a bucket on a server of this machine that speaks S3."""
    server = pytest.importorskip("moto.server")
    s3fs = pytest.importorskip("s3fs")
    running = server.ThreadedMotoServer(port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")  # pragma: allowlist secret
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bench")
    yield "s3://bench/results"
    s3fs.S3FileSystem.clear_instance_cache()
    http.urlopen(http.Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
    running.stop()


def test_a_bucket_keeps_an_artifact_to_the_last_byte(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = artifact(bucket, {"a": 1})
    assert made.state == "missing"
    with made.create() as folder:
        (folder / "x.txt").write_text("abc")
        (folder / "below").mkdir()
        (folder / "below" / "y.txt").write_text("d")
    assert made.examine() == ("done", "")
    files = fsspec.filesystem("s3")
    names = [name.removeprefix("bench/results/runs/a/") for name in files.find("bench/results")]
    assert sorted(names) == ["below/y.txt", MANIFEST, "x.txt"]
    monkeypatch.setenv("DBBENCH_SCRATCH", str(tmp_path / "second-machine"))
    there = artifact(bucket, {"a": 1})
    there.require()
    assert contents(there.path, "**/*") == contents(made.path, "**/*")
    assert artifact(bucket, {"a": 2}).state == "stale"
    files.pipe_file("bench/results/runs/a/x.txt", b"abd")
    assert (made.state, made.examine()[0]) == ("done", "damaged")
    files.pipe_file("bench/results/runs/a/x.txt", b"ab")
    assert made.state == "damaged"
    made.discard()
    assert made.state == "missing"


def test_what_a_bucket_refuses_is_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    s3fs = pytest.importorskip("s3fs")
    endpoint = os.environ["AWS_ENDPOINT_URL"]

    def check(after: str) -> None:
        """Have the server check who asks, after so many requests; "testing" may nothing then."""
        kind = {"Content-Type": "text/plain"}
        where = f"{endpoint}/moto-api/reset-auth"
        http.urlopen(http.Request(where, after.encode(), kind, method="POST")).close()

    def refused() -> str:
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(UserError, match="check address and credentials") as said:
            command("status", bucket)
        assert "\n" not in str(said.value)
        return str(said.value)

    check("0")
    try:
        assert "Forbidden" in refused()
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        assert "Could not connect" in refused()
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        assert "Unable to locate credentials" in refused()
    finally:
        check("inf")


@pytest.mark.slow
def test_a_bucket_holds_what_a_folder_holds(
    bucket: str, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(suite, bucket).done == 6
    here = contents(Remote(bucket).mirror)
    monkeypatch.setenv("DBBENCH_SCRATCH", str(tmp_path / "second-machine"))
    assert run(suite, bucket).done == 0
    files, image = fsspec.filesystem("s3"), "bench/results/runs/plain/dog/0/samples/jungle/0.png"
    whole = files.cat_file(image)
    files.pipe_file(image, whole[:-3])
    assert run(suite, bucket).done == 1
    assert files.cat_file(image) == whole
    assert run(suite, bucket, subjects="dog,can").done > 0
    there = contents(Remote(bucket).mirror)
    assert here.items() <= there.items() | {
        (name, value) for name, value in here.items() if "/checkpoint/" in name
    }
    folder = tmp_path / "folder"
    run_here(suite, folder, methods=["plain"])
    kept = {name: files.cat_file(f"bench/results/{name}") for name in contents(folder)}
    assert {name: hashlib.sha256(data).hexdigest() for name, data in kept.items()} == contents(
        folder
    )
    assert command("verify", bucket).exit_code == 0

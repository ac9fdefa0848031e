from __future__ import annotations

import json
from pathlib import Path

import pytest

from dbbench.files import fingerprint
from dbbench.storage.artifact import MANIFEST, Artifact


def made(path: Path, text: str = "one", **inputs: object) -> Artifact:
    artifact = Artifact(path, inputs or {"a": 1})
    with artifact.create() as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "file.txt").write_text(text)
    return artifact


def interrupt(
    artifact: Artifact,
    *files: str,
    resume: bool = False,
    error: type[BaseException] = RuntimeError,
) -> None:
    """Begin to write the artifact and fail."""

    def attempt() -> None:
        with artifact.create(resume=resume) as folder:
            for file in files:
                (folder / file).write_text("half")
            raise error

    with pytest.raises(error):
        attempt()


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_fingerprint_depends_on_values_and_not_on_their_order() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    # Frozen: a change here would make every finished artifact stale.
    assert fingerprint({"a": 1}).startswith("015abd7f5cc57a2dd94b")  # pragma: allowlist secret


def test_what_is_left_without_an_error_is_complete(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path / "x", {"a": 1})
    assert artifact.state == "missing"
    made(tmp_path / "x")
    assert artifact.complete
    assert artifact.verify() == "done"
    assert names(tmp_path) == ["x", "x/manifest.json", "x/sub", "x/sub/file.txt"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_attempt_leaves_the_old_artifact(
    tmp_path: Path, error: type[BaseException]
) -> None:
    old = made(tmp_path / "x", a=1)
    new = Artifact(tmp_path / "x", {"a": 2})
    interrupt(new, "half.txt", error=error)
    assert old.verify() == "done"
    assert new.state == "stale"
    assert names(tmp_path) == ["x", "x/manifest.json", "x/sub", "x/sub/file.txt"]


def test_a_resumed_attempt_finds_what_was_written(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path / "x", {"a": 1})
    interrupt(artifact, "first.txt", ".marker", resume=True)
    assert artifact.state == "missing"
    with artifact.create(resume=True) as folder:
        assert (folder / "first.txt").read_text() == "half"
    assert names(tmp_path) == ["x", "x/first.txt", "x/manifest.json"]


def test_an_attempt_at_other_inputs_starts_afresh(tmp_path: Path) -> None:
    interrupt(Artifact(tmp_path / "x", {"a": 1}), "first.txt", resume=True)
    with Artifact(tmp_path / "x", {"a": 2}).create(resume=True) as folder:
        assert not any(folder.iterdir())
    assert names(tmp_path) == ["x", "x/manifest.json"]


def test_other_inputs_make_it_stale(tmp_path: Path) -> None:
    made(tmp_path / "x", a=1)
    assert Artifact(tmp_path / "x", {"a": 2}).state == "stale"


def test_a_truncated_file_is_noticed_at_once_and_a_flipped_byte_by_verify(tmp_path: Path) -> None:
    artifact = made(tmp_path / "x")
    file = tmp_path / "x" / "sub" / "file.txt"
    file.write_text("onX")
    assert artifact.state == "done"
    assert artifact.verify() == "damaged"
    file.write_text("on")
    assert artifact.state == "damaged"
    file.unlink()
    assert artifact.state == "damaged"


@pytest.mark.parametrize("content", [None, "", "{}", "[1]", '{"fingerprint": 3, "files": 4}'])
def test_without_a_right_manifest_nothing_is_complete(tmp_path: Path, content: str | None) -> None:
    artifact = made(tmp_path / "x")
    manifest = tmp_path / "x" / MANIFEST
    manifest.unlink() if content is None else manifest.write_text(content)
    assert not artifact.complete
    made(tmp_path / "x")
    assert artifact.verify() == "done"


@pytest.mark.parametrize("name", ["../outside.txt", "/etc/hostname", "sub/../../outside.txt"])
def test_a_manifest_cannot_name_files_outside_its_folder(tmp_path: Path, name: str) -> None:
    artifact = made(tmp_path / "x")
    (tmp_path / "outside.txt").write_text("one")
    manifest = tmp_path / "x" / MANIFEST
    document = json.loads(manifest.read_text())
    document["files"][0]["name"] = name
    manifest.write_text(json.dumps(document))
    assert artifact.verify() == "damaged"


def test_a_kill_between_the_two_renames_is_mended_by_the_next_attempt(tmp_path: Path) -> None:
    made(tmp_path / "x", a=1)
    (tmp_path / "x").rename(tmp_path / ".x.old")
    artifact = made(tmp_path / "x", a=2)
    assert artifact.verify() == "done"
    assert names(tmp_path)[0] == "x"


@pytest.mark.parametrize("again", [False, True])
def test_an_attempt_that_was_taken_over_replaces_nothing(tmp_path: Path, again: bool) -> None:
    artifact = Artifact(tmp_path / "made", {"of": 1})

    def be_late() -> None:
        with artifact.create() as late:
            (late / "by").write_text("the late one")
            with artifact.create() as folder:
                (folder / "by").write_text("the second")
            if again:  # As stages do, which make a folder where it is missing.
                late.mkdir()
                (late / "by").write_text("the late one")

    with pytest.raises(FileNotFoundError):
        be_late()
    assert artifact.verify() == "done"
    assert (artifact.path / "by").read_text() == "the second"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_removing_takes_the_leftovers_too(tmp_path: Path) -> None:
    artifact = made(tmp_path / "x")
    interrupt(artifact, resume=True)
    artifact.remove()
    assert names(tmp_path) == []

"""The content of given weights decides, and a file is read again only where it was written."""

import os
from pathlib import Path

import pytest

from dbbench.files import files_in
from dbbench.planning import given
from dbbench.planning.given import GivenWeights
from dbbench.planning.identity import Identities
from dbbench.suites.suite import load_suite


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def content(*places: Path | str, earlier: GivenWeights | None = None) -> list[str | None]:
    weights = GivenWeights(dict(earlier.found) if earlier else {})
    return [weights.content({"checkpoint": str(p)}, "dog").get("checkpoint") for p in places]


def test_the_content_counts_and_not_the_path(tmp_path: Path) -> None:
    a = write(tmp_path / "a.safetensors", "one")
    b = write(tmp_path / "b.safetensors", "one")
    c = write(tmp_path / "c.safetensors", "two")
    same, also, other = content(a, b, c)
    assert same == also != other
    folders = [write(tmp_path / name / "unet" / "w", "one").parents[1] for name in "xy"]
    first, second = content(*folders)
    assert first == second != same
    write(folders[0] / "unet" / "w", "two")
    assert content(folders[0]) != [first]


def test_a_file_of_the_same_size_and_time_is_another(tmp_path: Path) -> None:
    file = write(tmp_path / "mine" / "w", "one")
    earlier = GivenWeights()
    before = earlier.content({"checkpoint": str(tmp_path / "mine")}, "dog")
    status = file.stat()
    file.write_text("two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert content(tmp_path / "mine", earlier=earlier) != [before["checkpoint"]]


def test_links_lead_to_the_content(tmp_path: Path) -> None:
    file = write(tmp_path / "elsewhere" / "unet" / "w", "one")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "unet").symlink_to(file.parent)
    (file.parent / "back").symlink_to(tmp_path / "mine")  # A circle.
    before = content(tmp_path / "mine")
    file.write_text("two")
    assert content(tmp_path / "mine") != before


def test_what_was_not_written_is_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "mine" / "w", "one")
    os.link(tmp_path / "mine" / "w", tmp_path / "mine" / "same")
    read: list[Path] = []

    def hash_file(path: Path) -> str:
        read.append(path)
        return path.read_text()

    monkeypatch.setattr(given, "hash_file", hash_file)
    earlier = GivenWeights()
    (before,) = earlier.content({"checkpoint": str(tmp_path / "mine")}, "dog").values()
    assert len(read) == 1
    assert content(tmp_path / "mine", earlier=earlier) == [before]
    assert len(read) == 1


def test_each_subject_has_its_own(tmp_path: Path) -> None:
    for subject in ("dog", "cat"):
        write(tmp_path / subject / "w", subject)
    weights, settings = GivenWeights(), {"checkpoint": f"{tmp_path}/{{subject}}", "steps": 3}
    dog, cat = (weights.content(settings, subject) for subject in ("dog", "cat"))
    assert dog.keys() == cat.keys() == {"checkpoint"}
    assert dog != cat
    assert weights.content(settings, "teapot") == {}


def test_only_weights_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "sks" / "w", "one")
    adapter = write(tmp_path / "adapter" / "models" / "w", "one").parents[1]
    own = write(tmp_path / "own.bin", "one")
    settings = {
        "identifier": "sks", "checkpoint": "", "adapter": "adapter", "image_encoder": "sks",
        "cache": str(tmp_path), "mine": str(own), "scale": 0.6, "hub": "owner/name",
    }  # fmt: skip
    found = GivenWeights().content(settings, "dog")
    assert found.keys() == {"adapter", "mine"}
    assert [found["adapter"]] == content(adapter)
    assert GivenWeights().content({"adapter": "h94/IP-Adapter"}, "dog") == {}


def test_what_is_gone_counts_as_it_was_recorded(tmp_path: Path) -> None:
    file = write(tmp_path / "w", "one")
    earlier = GivenWeights()
    (before,) = earlier.content({"checkpoint": str(file)}, "dog").values()
    file.unlink()
    assert content(file, earlier=earlier) == [before]
    assert content(file) == [None]
    write(file, "two")
    unseen = GivenWeights(dict(earlier.found), trust=True, look=False)
    assert unseen.content({"checkpoint": str(file)}, "dog") == {"checkpoint": before}


def test_the_recorded_place_holds_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "here" / "mine", "one")
    monkeypatch.chdir(tmp_path / "here")
    earlier = GivenWeights()
    before = earlier.content({"checkpoint": "mine"}, "dog")
    write(tmp_path / "there" / "mine", "two")
    monkeypatch.chdir(tmp_path / "there")
    trusting = GivenWeights(dict(earlier.found), trust=True)
    assert trusting.content({"checkpoint": "mine"}, "dog") == before


def test_hidden_files_are_no_weights(tmp_path: Path) -> None:
    write(tmp_path / ".git" / "head", "x")
    write(tmp_path / "b" / ".lock", "x")
    names = [write(tmp_path / name, "x") for name in ("a", "b/c")]
    assert list(files_in(tmp_path)) == names
    assert list(files_in(tmp_path / "nowhere")) == []


def test_an_encoders_file_is_a_part_of_its_reference(tmp_path: Path) -> None:
    identities = Identities(load_suite("mini"), "cpu")
    for reference in ("timm:vit_small_patch16_224.dino@{}", "open_clip:local-dir:{}", "hf:{}"):
        file = write(tmp_path / "w.safetensors", "one")
        place = tmp_path if "dir" in reference else file
        before = identities._encoder_stamp(reference.format(place))
        assert identities._encoder_stamp(reference.format(place)) == before
        file.write_text("other")
        assert identities._encoder_stamp(reference.format(place)) != before


def test_a_run_without_given_weights_records_none() -> None:
    assert "given" not in Identities(load_suite("mini"), "cpu").record({})

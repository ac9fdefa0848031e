"""Claims about checking and fetching the photographs, from every source that can be had offline."""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dbbench.data.download import fetch_data, verify_data
from dbbench.data.subject import Subject
from dbbench.errors import UserError

MakePhotos = Callable[[Path], tuple[Subject, ...]]


@pytest.fixture
def original(tmp_path: Path, make_photos: MakePhotos) -> tuple[Path, tuple[Subject, ...]]:
    """A folder of five photographs and what is known about them."""
    folder = tmp_path / "original"
    return folder, make_photos(folder)


def zip_of(folder: Path, archive: Path, prefix: str = "dreambooth-main/dataset/") -> Path:
    """Zip a folder in the layout of GitHub's archive of the upstream repository."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("dreambooth-main/README.md", "not a photograph")
        for path in sorted(folder.rglob("*.jpg")):
            file.write(path, prefix + path.relative_to(folder).as_posix())
    return archive


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, honours `Range: bytes=N-` and remembers what was asked for."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))  # type: ignore[attr-defined]
        if asked is None:
            super().do_GET()
            return
        content = Path(self.translate_path(self.path)).read_bytes()
        start = int(asked.removeprefix("bytes=").rstrip("-"))
        if start >= len(content):
            self.send_error(416)
            return
        self.send_response(206)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A web server on this machine that serves tmp_path; its address and what was asked of it."""
    handler = functools.partial(_Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        running.asked = []  # type: ignore[attr-defined]
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", running.asked  # type: ignore[attr-defined]
        running.shutdown()
        thread.join()


def test_verification_names_each_photograph_that_is_wrong(
    original: tuple[Path, tuple[Subject, ...]],
) -> None:
    folder, subjects = original
    assert verify_data(folder, subjects).complete
    (folder / "dog" / "00.jpg").unlink()
    (folder / "teapot" / "01.jpg").write_bytes(b"something else")
    report = verify_data(folder, subjects)
    assert not report.complete
    assert [problem.split()[0] for problem in report.problems] == ["dog/00.jpg", "teapot/01.jpg"]
    assert report.summary.startswith("3 of 5 photographs")
    assert "dbbench data fetch" in report.summary


def test_the_copy_beside_the_checkout_is_the_original(photographs: Path) -> None:
    report = verify_data(photographs)
    assert report.complete, report.summary
    assert report.expected == 158


def test_fetching_from_githubs_zip_brings_every_photograph(
    tmp_path: Path, original: tuple[Path, tuple[Subject, ...]]
) -> None:
    folder, subjects = original
    archive = zip_of(folder, tmp_path / "dreambooth-main.zip")
    seen: list[tuple[str, int, int]] = []
    report = fetch_data(
        tmp_path / "out",
        mirror=str(archive),
        subjects=subjects,
        progress=lambda what, done, total: seen.append((what, done, total)),
    )
    assert report.complete
    assert seen == [("photographs", done, 5) for done in range(1, 6)]
    assert not (tmp_path / "out" / ".fetch").exists()


def test_fetching_again_reads_no_source(
    tmp_path: Path, original: tuple[Path, tuple[Subject, ...]]
) -> None:
    folder, subjects = original
    assert fetch_data(folder, mirror=str(tmp_path / "nowhere"), subjects=subjects).complete


def test_only_what_is_lacking_or_damaged_is_written(
    tmp_path: Path, original: tuple[Path, tuple[Subject, ...]]
) -> None:
    folder, subjects = original
    out = tmp_path / "out"
    shutil.copytree(folder, out)
    (out / "dog" / "00.jpg").unlink()
    (out / "teapot" / "01.jpg").write_bytes(b"half a photograph")
    kept = (out / "dog" / "01.jpg").stat().st_mtime_ns
    seen: list[int] = []
    fetch_data(
        out,
        mirror=str(folder),
        subjects=subjects,
        progress=lambda what, done, total: seen.append(done),
    )
    assert verify_data(out, subjects).complete
    assert seen == [4, 5]
    assert (out / "dog" / "01.jpg").stat().st_mtime_ns == kept


def test_no_name_in_an_archive_decides_where_a_file_goes(
    tmp_path: Path, original: tuple[Path, tuple[Subject, ...]]
) -> None:
    folder, subjects = original
    archive = zip_of(folder, tmp_path / "evil.zip", prefix="../../escaped/")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("/tmp/absolute.jpg", "x" * subjects[0].photos[0].size)
    (tmp_path / "deep" / "er").mkdir(parents=True)
    out = tmp_path / "deep" / "er" / "out"
    before = {path for path in tmp_path.rglob("*") if out not in path.parents}
    assert fetch_data(out, mirror=str(archive), subjects=subjects).complete
    after = {path for path in tmp_path.rglob("*") if out not in path.parents}
    assert after - before == {out}
    assert {path.name for path in out.iterdir()} == {"dog", "teapot"}


def test_a_zip_bomb_is_not_unpacked(
    tmp_path: Path, original: tuple[Path, tuple[Subject, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, subjects = original
    archive = zip_of(folder, tmp_path / "bomb.zip")
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("dreambooth-main/dataset/dog/99.jpg", bytes(50_000_000))
    opened: list[int] = []
    plain_open = zipfile.ZipFile.open

    def watched(self: zipfile.ZipFile, name: zipfile.ZipInfo, *args: object) -> object:
        opened.append(name.file_size)
        return plain_open(self, name, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(zipfile.ZipFile, "open", watched)
    assert fetch_data(tmp_path / "out", mirror=str(archive), subjects=subjects).complete
    assert len(opened) == 5
    assert max(opened) < 50_000


def test_a_broken_zip_and_a_wrong_one_give_one_line_and_keep_what_is_there(
    tmp_path: Path, original: tuple[Path, tuple[Subject, ...]]
) -> None:
    folder, subjects = original
    archive = zip_of(folder, tmp_path / "half.zip")
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(UserError, match="is not a complete zip"):
        fetch_data(tmp_path / "out", mirror=str(archive), subjects=subjects)

    shutil.rmtree(folder / "teapot")
    partial = zip_of(folder, tmp_path / "dogs.zip")
    with pytest.raises(UserError, match=r"teapot/00\.jpg is missing \(2 in all\)"):
        fetch_data(tmp_path / "out", mirror=str(partial), subjects=subjects)
    assert verify_data(tmp_path / "out", subjects[:1]).complete


def test_fetching_one_photograph_after_another_from_a_web_server(
    tmp_path: Path,
    original: tuple[Path, tuple[Subject, ...]],
    server: tuple[str, list[tuple[str, str | None]]],
) -> None:
    _, subjects = original
    address, asked = server
    assert fetch_data(tmp_path / "out", mirror=f"{address}/original/", subjects=subjects).complete
    assert [path for path, _ in asked] == [
        *(f"/original/dog/0{number}.jpg" for number in range(3)),
        *(f"/original/teapot/0{number}.jpg" for number in range(2)),
    ]


def test_an_interrupted_download_of_a_zip_goes_on_where_it_stopped(
    tmp_path: Path,
    original: tuple[Path, tuple[Subject, ...]],
    server: tuple[str, list[tuple[str, str | None]]],
) -> None:
    folder, subjects = original
    address, asked = server
    archive = zip_of(folder, tmp_path / "main.zip")
    out = tmp_path / "out"
    (out / ".fetch").mkdir(parents=True)
    (out / ".fetch" / "archive.zip.part").write_bytes(archive.read_bytes()[:1000])
    assert fetch_data(out, mirror=f"{address}/main.zip", subjects=subjects).complete
    assert asked == [("/main.zip", "bytes=1000-")]

    # A download that was whole, but not yet unpacked, is not fetched again.
    shutil.rmtree(out)
    (out / ".fetch").mkdir(parents=True)
    (out / ".fetch" / "archive.zip.part").write_bytes(archive.read_bytes())
    assert fetch_data(out, mirror=f"{address}/main.zip", subjects=subjects).complete


@pytest.mark.parametrize("name", ["none.zip", "none"])
def test_an_address_that_does_not_exist_gives_one_line(
    tmp_path: Path,
    original: tuple[Path, tuple[Subject, ...]],
    server: tuple[str, list[tuple[str, str | None]]],
    name: str,
) -> None:
    _, subjects = original
    with pytest.raises(UserError, match=r"HTTP Error 404.*--mirror") as caught:
        fetch_data(tmp_path / "out", mirror=f"{server[0]}/{name}", subjects=subjects)
    assert "\n" not in str(caught.value)


HUB_CARD = """\
---
configs:
- config_name: dog
  data_files:
  - split: train
    path: dataset/dog/*.jpg
- config_name: teapot
  data_files:
  - split: train
    path: dataset/teapot/*.jpg
---
"""


def test_the_hubs_layout_gives_the_original_bytes(tmp_path: Path, make_photos: MakePhotos) -> None:
    repository = tmp_path / "hub"
    subjects = make_photos(repository / "dataset")
    (repository / "README.md").write_text(HUB_CARD)
    out = tmp_path / "out"
    assert fetch_data(out, hub=str(repository), subjects=subjects).complete
    assert {path.name for path in out.iterdir()} == {"dog", "teapot"}


def test_without_a_network_the_hub_gives_one_line_with_the_way_round(
    tmp_path: Path, original: tuple[Path, tuple[Subject, ...]]
) -> None:
    _, subjects = original
    with pytest.raises(UserError, match=r"from the hub .*--mirror dreambooth-main\.zip") as caught:
        fetch_data(tmp_path / "out", subjects=subjects)
    assert "\n" not in str(caught.value)


def test_a_mirror_that_is_nothing_is_refused(
    tmp_path: Path, original: tuple[Path, tuple[Subject, ...]]
) -> None:
    _, subjects = original
    with pytest.raises(UserError, match='the mirror "ftp://x" is not a zip file'):
        fetch_data(tmp_path / "out", mirror="ftp://x", subjects=subjects)


def test_a_full_disk_is_noticed_before_anything_is_written(
    tmp_path: Path, original: tuple[Path, tuple[Subject, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, subjects = original
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9 - 5, 5))
    with pytest.raises(UserError, match="its disk has 0 MB left"):
        fetch_data(tmp_path / "out", mirror=str(folder), subjects=subjects)


def test_an_output_that_is_a_file_is_refused(
    tmp_path: Path, original: tuple[Path, tuple[Subject, ...]]
) -> None:
    folder, subjects = original
    (tmp_path / "out").write_text("a file")
    with pytest.raises(UserError, match="cannot write to"):
        fetch_data(tmp_path / "out", mirror=str(folder), subjects=subjects)

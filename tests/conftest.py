"""What several test modules share: the photographs where they are at hand, and small stand-ins."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

# Tests are offline: a name that is not a local path fails at once, and no cache is consulted.
os.environ["HF_HUB_OFFLINE"] = "1"
# Tests run side by side, and their tensors are small: threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from finished_run import make_run as make_run
from PIL import Image

from dbbench.data.subject import Photo, Subject

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Nobody's own feature cache is read or written, nor by what fixtures make."""
    os.environ["DBBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def feature_cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The test's own feature cache, also in the processes that it starts."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DBBENCH_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return ROOT


@pytest.fixture(scope="session")
def photographs() -> Path:
    """The data set's own folder beside the checkout; tests that need it are skipped without it."""
    folder = ROOT.parent / "shared" / "dreambooth"
    if not folder.is_dir():
        pytest.skip(f"the photographs are not in {folder.parent.name}/{folder.name} beside here")
    return folder


def jpeg(seed: int, *, size: tuple[int, int] = (40, 40), **options: object) -> bytes:
    """Return a small JPEG that no other seed gives."""
    image = Image.effect_noise(size, 40 + seed).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.fixture
def make_photos() -> Callable[[Path], tuple[Subject, ...]]:
    """Write two subjects' photographs in the data set's layout; return their description."""

    def make(folder: Path) -> tuple[Subject, ...]:
        return (
            _subject(folder, "dog", "dog", live=True, contents=[jpeg(1), jpeg(2), jpeg(3)]),
            _subject(folder, "teapot", "teapot", live=False, contents=[jpeg(4), jpeg(5)]),
        )

    return make


def _subject(
    folder: Path, name: str, class_noun: str, *, live: bool, contents: list[bytes]
) -> Subject:
    (folder / name).mkdir(parents=True)
    photos = []
    for number, content in enumerate(contents):
        file = f"{number:02d}.jpg"
        (folder / name / file).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        photos.append(Photo(file, digest, "A. Tester", "CC0", None, len(content)))
    return Subject(name=name, class_noun=class_noun, live=live, photos=tuple(photos))

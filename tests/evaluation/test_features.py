"""The feature store: each distinct image is decoded once and encoded once, by whomever it is."""

import hashlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import platformdirs.macos
import platformdirs.unix
import platformdirs.windows
import pytest
from PIL import Image
from safetensors.numpy import load_file
from tinted_plugin import Pixels

from dbbench.errors import UserError
from dbbench.evaluation import feature_cache as cache
from dbbench.evaluation.feature_cache import Cache
from dbbench.evaluation.features import BATCH, FeatureStore

SIZES = [(16, 16), (40, 16), (16, 50)]


class Counting(Pixels):
    """Counts what it sees."""

    def __init__(self, size: int = 4) -> None:
        super().__init__(size)
        self.batches: list[int] = []
        self.texts: list[str] = []

    def encode_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        self.batches.append(len(images))
        return super().encode_images(images)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        self.texts.extend(texts)
        return super().encode_texts(texts)


class Prepared(Counting):
    """The same numbers, resized ahead."""

    def prepare(self, image: Image.Image) -> Image.Image:
        return image.resize((self.size, self.size))

    def encode_prepared(self, images: Sequence[Image.Image]) -> np.ndarray:
        return super().encode_images(images)


class Brightness:
    """How much brighter one image is than another."""

    name, fingerprint = "brightness", "brightness 1"

    def __init__(self) -> None:
        self.seen = 0

    def prepare(self, image: Image.Image) -> Image.Image:
        return image

    def pairwise_distances(self, images: Iterable[Image.Image]) -> np.ndarray:
        means = [float(np.asarray(image).mean()) for image in images]
        self.seen += len(means)
        return np.abs(np.subtract.outer(means, means))


def draw(folder: Path, count: int, *, seed: int = 0) -> list[Path]:
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    files = []
    for number in range(count):
        width, height = SIZES[number % len(SIZES)]
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        files.append(folder / f"{seed}-{number}.png")
        Image.fromarray(pixels).save(files[-1])
    return files


def by_hand(encoder: Pixels, files: Sequence[Path]) -> np.ndarray:
    images = []
    for file in files:
        with Image.open(file) as opened:
            images.append(opened.convert("RGB"))
    return encoder.encode_images(images)


@pytest.mark.parametrize("kind", [Counting, Prepared])
def test_vectors_are_the_encoders_own_in_the_order_of_the_files(
    kind: type[Counting], tmp_path: Path
) -> None:
    files = draw(tmp_path, BATCH + 9)
    encoded = FeatureStore().encode_images(kind(), files)
    assert np.allclose(encoded.vectors, by_hand(Pixels(4), files), atol=1e-7)
    assert encoded.kept == tuple(range(len(files)))
    assert not encoded.refused


def test_each_distinct_image_is_decoded_once_and_encoded_once(tmp_path: Path) -> None:
    files = draw(tmp_path, 10)
    twin = tmp_path / "twin.png"
    shutil.copy(files[3], twin)
    store, one, two = FeatureStore(), Counting(4), Prepared(6)
    first = store.encode_with([one, two], [*files, twin, files[0]])
    assert store.decoded == 10
    assert sum(one.batches) == sum(two.batches) == 10
    assert np.array_equal(first[0].vectors[10], first[0].vectors[3])
    assert np.array_equal(first[1].vectors[11], first[1].vectors[0])
    assert store.encoded == {one.name: 10, two.name: 10}


def test_a_second_store_encodes_nothing_and_gives_the_same_bits(tmp_path: Path) -> None:
    files, one = draw(tmp_path, 70), Counting()
    first = FeatureStore().encode_images(one, files)
    store, two = FeatureStore(), Counting()
    again = store.encode_images(two, files[::-1])
    assert two.batches == []
    assert store.decoded == 0
    assert np.array_equal(again.vectors[::-1], first.vectors)


def test_only_what_is_new_is_encoded(tmp_path: Path) -> None:
    files = draw(tmp_path, 20)
    FeatureStore().encode_images(Counting(), files[:15])
    store, encoder = FeatureStore(), Counting()
    store.encode_images(encoder, files)
    assert (encoder.batches, store.decoded) == ([5], 5)


def test_a_changed_file_is_another_image(tmp_path: Path) -> None:
    (file,) = draw(tmp_path, 1)
    store, encoder = FeatureStore(), Counting()
    before = store.encode_images(encoder, [file]).vectors
    Image.new("RGB", (16, 16), "red").save(file)
    after = store.encode_images(encoder, [file]).vectors
    assert encoder.batches == [1, 1]
    assert not np.allclose(before, after)


def test_another_fingerprint_is_another_encoder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = draw(tmp_path, 3)
    FeatureStore().encode_images(Counting(), files)
    monkeypatch.setenv("PIXELS_VERSION", "2")
    other = Counting()
    FeatureStore().encode_images(other, files)
    assert other.batches == [3]


def test_other_rules_for_pictures_make_other_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = draw(tmp_path, 3)
    FeatureStore().encode_images(Counting(), files)
    monkeypatch.setattr("dbbench.evaluation.features.RULES", 999)
    other = Counting()
    FeatureStore().encode_images(other, files)
    assert other.batches == [3]


def test_what_is_no_image_is_refused_by_name_and_the_rest_goes_on(tmp_path: Path) -> None:
    good = draw(tmp_path, 4)
    empty, page, gone = (tmp_path / name for name in ("empty.png", "page.png", "gone.png"))
    empty.write_bytes(b"")
    page.write_bytes(b"<html>")
    files = [good[0], empty, good[1], page, good[2], gone, good[3]]
    encoders = [Counting(4), Prepared(5)]
    for store in (FeatureStore(), FeatureStore()):
        for encoded, encoder in zip(store.encode_with(encoders, files), encoders, strict=True):
            assert encoded.kept == (0, 2, 4, 6)
            assert np.allclose(encoded.vectors, by_hand(Pixels(encoder.size), good), atol=1e-7)
            assert set(encoded.refused) == {empty, page, gone}
            assert encoded.refused[empty] == "is empty (0 bytes)"
            assert encoded.refused[gone] == "is missing"
            assert not any("\n" in reason for reason in encoded.refused.values())
    assert [sum(encoder.batches) for encoder in encoders] == [4, 4]


def test_no_images_at_all_are_an_empty_table(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    for files in ([], [tmp_path / "empty.png"]):
        assert FeatureStore().encode_images(Counting(), files).vectors.shape == (0, 48)


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    files = draw(tmp_path, 150)
    found = []
    for workers in (1, 2, 7):
        store = FeatureStore(Cache(tmp_path / f"cache{workers}"), workers=workers)
        found.append(store.encode_images(Prepared(), files).vectors)
    assert np.array_equal(found[0], found[1])
    assert np.array_equal(found[0], found[2])


def test_large_images_go_in_smaller_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbbench.evaluation.features._BATCH_PIXELS", 16 * 16 * 10)
    encoder = Counting()
    FeatureStore().encode_images(encoder, draw(tmp_path, 30))
    assert sum(encoder.batches) == 30
    assert max(encoder.batches) < 10


def test_progress_ends_at_the_total(tmp_path: Path) -> None:
    files = draw(tmp_path, BATCH + 1)
    (tmp_path / "bad.png").write_bytes(b"bad")
    heard: list[tuple[int, int]] = []
    store = FeatureStore()
    store.encode_with(
        [Counting(4), Counting(5)],
        [*files, tmp_path / "bad.png"],
        advance=lambda done, total, figures: heard.append((done, total)),
    )
    assert heard == sorted(heard)
    assert heard[-1] == (2 * (BATCH + 2), 2 * (BATCH + 2))


def test_texts_are_kept_too(tmp_path: Path) -> None:
    texts = ["a dog in the snow", "a cat", "a dog in the snow"]
    one, two = Counting(), Counting()
    first = FeatureStore().encode_texts(one, texts)
    assert one.texts == texts[:2]
    assert np.allclose(first, Pixels(4).encode_texts(texts))
    assert np.array_equal(FeatureStore().encode_texts(two, texts[::-1]), first[::-1])
    assert two.texts == []


def test_distances_are_those_of_the_files_and_are_kept(tmp_path: Path) -> None:
    good = draw(tmp_path, 5)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"bad")
    files = [good[2], bad, good[0], good[1], good[0]]
    means = []
    for file in (good[2], good[0], good[1], good[0]):
        with Image.open(file) as opened:
            means.append(np.asarray(opened).mean())
    expected = np.abs(np.subtract.outer(means, means))
    first, second = Brightness(), Brightness()
    for distance in (first, second):
        found = FeatureStore().distances(distance, files)
        assert np.allclose(found.matrix, expected)
        assert found.kept == (0, 2, 3, 4)
        assert list(found.refused) == [bad]
    assert (first.seen, second.seen) == (3, 0)
    # The order of the files does not matter to what is kept.
    third = Brightness()
    turned = FeatureStore().distances(third, files[::-1])
    assert np.allclose(turned.matrix, expected[::-1, ::-1])
    assert third.seen == 0


def test_the_cache_holds_safe_formats_only_and_no_leftovers(
    tmp_path: Path, feature_cache: Path
) -> None:
    files = draw(tmp_path, 3)
    store, encoder = FeatureStore(), Counting()
    store.encode_images(encoder, files)
    store.encode_texts(encoder, ["a dog"])
    store.distances(Brightness(), files)
    written = [path for path in feature_cache.rglob("*") if path.is_file()]
    assert {path.suffix for path in written} == {".json", ".safetensors"}
    (kept,) = feature_cache.rglob("images-*.safetensors")
    tensors = load_file(kept)
    digests = {hashlib.sha256(file.read_bytes()).digest() for file in files}
    assert {key.tobytes() for key in tensors["keys"]} == digests
    assert tensors["rows"].shape == (3, 48)


def test_a_damaged_file_in_the_cache_is_made_anew(tmp_path: Path, feature_cache: Path) -> None:
    files = draw(tmp_path, 3)
    first = FeatureStore().encode_images(Counting(), files).vectors
    (kept,) = feature_cache.rglob("images-*.safetensors")
    kept.write_bytes(kept.read_bytes()[:100])
    again = Counting()
    assert np.array_equal(FeatureStore().encode_images(again, files).vectors, first)
    assert again.batches == [3]
    assert np.array_equal(load_file(kept)["rows"], first)


def test_what_another_process_removes_is_made_anew(tmp_path: Path) -> None:
    files = draw(tmp_path, 3)
    store, encoder = FeatureStore(), Counting()
    store.encode_images(encoder, files)
    Cache().clear()
    store.encode_images(encoder, files)
    assert encoder.batches == [3, 3]


def test_an_interruption_keeps_whole_batches(tmp_path: Path) -> None:
    class Interrupted(Counting):
        def encode_images(self, images: Sequence[Image.Image]) -> np.ndarray:
            if self.batches:
                raise KeyboardInterrupt
            return super().encode_images(images)

    files = draw(tmp_path, 2 * BATCH)
    with pytest.raises(KeyboardInterrupt):
        FeatureStore().encode_images(Interrupted(), files)
    rest = Counting()
    FeatureStore().encode_images(rest, files)
    assert rest.batches == [BATCH]


def test_over_the_limit_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    groups = [draw(tmp_path / str(seed), 10, seed=seed) for seed in range(4)]
    folder = tmp_path / "cache"
    for number, files in enumerate(groups[:3]):
        FeatureStore(Cache(folder)).encode_images(Counting(), files)
        for path in folder.rglob("images-*.safetensors"):
            if path.stat().st_mtime > 10_000:
                os.utime(path, (number, number))  # A clock that a test can rely on.
    used = FeatureStore(Cache(folder))
    used.encode_images(Counting(), groups[0])  # The oldest is used again.
    size = sum(path.stat().st_size for path in folder.rglob("images-*"))
    FeatureStore(Cache(folder, limit=size * 6 // 5)).encode_images(Counting(), groups[3])
    assert sum(path.stat().st_size for path in folder.rglob("images-*")) <= size * 6 // 5
    counts = []
    for files in groups:
        encoder = Counting()
        FeatureStore(Cache(folder)).encode_images(encoder, files)
        counts.append(sum(encoder.batches))
    assert counts == [0, 10, 0, 0]


def test_a_cache_that_cannot_be_written_is_said_once_and_costs_only_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    files = draw(tmp_path, 3)
    store = FeatureStore(Cache(tmp_path / "file" / "cache"))
    with caplog.at_level(logging.WARNING):
        first = store.encode_images(Counting(), files)
        second = store.encode_images(Counting(), files)
    assert np.array_equal(first.vectors, second.vectors)
    (record,) = caplog.records
    assert "features are not cached" in record.getMessage()


def test_processes_share_one_cache_at_the_same_time(tmp_path: Path, feature_cache: Path) -> None:
    files = draw(tmp_path, 200)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from tinted_plugin import Pixels\n"
        "from dbbench.evaluation.features import FeatureStore\n"
        "store = FeatureStore()\n"
        "files = [Path(name) for name in sys.argv[3:]]\n"
        "step = int(sys.argv[2])\n"
        "for start in range(0, len(files), 10):\n"
        "    store.encode_images(Pixels(4), files[start:start + 10][::step])\n"
    )
    here = str(Path(__file__).parents[1] / "support")
    processes = [
        subprocess.Popen([sys.executable, "-c", code, here, step, *map(str, files)])
        for step in ("1", "-1", "2")
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    encoder = Counting()
    encoded = FeatureStore().encode_images(encoder, files)
    assert encoder.batches == []
    assert np.allclose(encoded.vectors, by_hand(Pixels(4), files), atol=1e-7)
    assert not list(feature_cache.rglob(".*"))


def test_the_cache_lies_where_the_system_keeps_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBBENCH_CACHE", "/somewhere")
    assert cache.cache_folder() == Path("/somewhere")
    monkeypatch.delenv("DBBENCH_CACHE")
    monkeypatch.setattr(platformdirs, "PlatformDirs", platformdirs.unix.Unix)
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache.cache_folder() == Path("/xdg/dbbench")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder() == Path.home() / ".cache" / "dbbench"
    monkeypatch.setattr(platformdirs, "PlatformDirs", platformdirs.macos.MacOS)
    assert cache.cache_folder() == Path.home() / "Library" / "Caches" / "dbbench"
    monkeypatch.setattr(platformdirs, "PlatformDirs", platformdirs.windows.Windows)
    monkeypatch.setenv("WIN_PD_OVERRIDE_LOCAL_APPDATA", "C:/local")
    assert cache.cache_folder() == Path("C:/local/dbbench/Cache")


@pytest.mark.parametrize(("text", "size"), [("500MB", 5 * 10**8), ("1.5 GB", 15 * 10**8)])
def test_the_limit_is_read_as_people_write_it(
    text: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache.cache_limit() == 10**10
    monkeypatch.setenv("DBBENCH_CACHE_LIMIT", text)
    assert Cache().limit == size
    monkeypatch.setenv("DBBENCH_CACHE_LIMIT", "much")
    with pytest.raises(UserError, match='"much"; write a size such as'):
        Cache()

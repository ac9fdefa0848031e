"""LPIPS: one pass of the trunk for each image, and equal to the lpips package for every pair."""

from itertools import combinations
from pathlib import Path

import lpips
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_models import write_lpips_trunk

from dbbench.errors import UserError
from dbbench.evaluation.encoder import Distance, load_encoder
from dbbench.evaluation.encoders import lpips as lpips_encoder
from dbbench.evaluation.features import FeatureStore

SIZE = 32
NETS = ("alex", "vgg", "squeeze")


def images(count: int, size: int = SIZE) -> list[Image.Image]:
    """Pictures from coarse to fine, so that some are close and some are far."""
    random = np.random.default_rng(0)
    drawn = []
    for number in range(count):
        grid = 2 + 3 * number
        pixels = random.integers(0, 256, size=(grid, grid, 3), dtype=np.uint8)
        drawn.append(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
    return drawn


def tensor(image: Image.Image) -> torch.Tensor:
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
    return pixels.permute(2, 0, 1)[None]


@pytest.fixture(scope="module")
def trunks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, lpips.LPIPS]]:
    folder = tmp_path_factory.mktemp("trunks")
    made = {}
    for net in NETS:
        file = folder / f"{net}.safetensors"
        made[net] = (file, write_lpips_trunk(file, net))
    return made


@pytest.mark.parametrize("net", NETS)
@torch.inference_mode()
def test_every_pair_equals_the_lpips_package(
    net: str, trunks: dict[str, tuple[Path, lpips.LPIPS]]
) -> None:
    file, model = trunks[net]
    distance = lpips_encoder.load(f"{net}:{SIZE}@{file}", device="cpu")
    # Two that are the same, and two that differ in one pixel: the hardest for a difference of sums.
    drawn = images(5)
    drawn.append(drawn[4].copy())
    drawn.append(drawn[4].copy())
    drawn[6].putpixel((16, 16), (0, 255, 0))
    found = distance.pairwise_distances(drawn)
    assert found.dtype == np.float64
    assert np.array_equal(found, found.T)
    assert np.array_equal(np.diag(found), np.zeros(7))
    for i, j in combinations(range(7), 2):
        expected = float(model(tensor(drawn[i]), tensor(drawn[j]), normalize=True))
        assert found[i, j] == pytest.approx(expected, abs=2e-6, rel=0)
    assert found[4, 5] < 1e-6
    assert found.max() > 1e-3


def test_the_trunk_sees_each_image_once(trunks: dict[str, tuple[Path, lpips.LPIPS]]) -> None:
    distance = lpips_encoder.load(f"alex:{SIZE}@{trunks['alex'][0]}", device="cpu")
    seen: list[int] = []
    distance._model.net.register_forward_hook(lambda m, inputs, out: seen.append(len(inputs[0])))
    distance.pairwise_distances(iter(images(20)))
    assert sum(seen) == 20


def test_neither_batch_nor_memory_nor_order_changes_distances(
    trunks: dict[str, tuple[Path, lpips.LPIPS]], monkeypatch: pytest.MonkeyPatch
) -> None:
    distance = lpips_encoder.load(f"alex:{SIZE}@{trunks['alex'][0]}", device="cpu")
    drawn = images(7)
    whole = distance.pairwise_distances(drawn)
    distance.batch_size = 2
    assert distance.pairwise_distances(drawn) == pytest.approx(whole, abs=1e-6)
    turned = distance.pairwise_distances(drawn[::-1])[::-1, ::-1]
    assert turned == pytest.approx(whole, abs=1e-6)
    monkeypatch.setattr(lpips_encoder, "IN_MEMORY", 3 * 10**5)  # Most lies in a file now.
    assert distance.pairwise_distances(drawn) == pytest.approx(whole, abs=1e-6)
    assert distance.pairwise_distances([]).shape == (0, 0)
    assert distance.pairwise_distances(drawn[:1]) == pytest.approx(np.zeros((1, 1)))


def test_any_size_is_cut_to_the_central_square(
    trunks: dict[str, tuple[Path, lpips.LPIPS]],
) -> None:
    distance = lpips_encoder.load(f"alex:{SIZE}@{trunks['alex'][0]}", device="cpu")
    wide = Image.new("RGB", (3 * SIZE, SIZE), "white")
    wide.paste(images(1)[0], (SIZE, 0))
    assert distance.pairwise_distances([wide, images(1)[0]]).max() < 1e-6
    once = distance.prepare(images(1, 100)[0])
    assert distance.prepare(once).tobytes() == once.tobytes()


def test_the_store_decodes_and_compares_each_file_once(
    trunks: dict[str, tuple[Path, lpips.LPIPS]], tmp_path: Path
) -> None:
    distance = load_encoder(f"lpips:alex:{SIZE}@{trunks['alex'][0]}", device="cpu")
    assert isinstance(distance, Distance)
    files = []
    for number, image in enumerate(images(5, 80)):
        files.append(tmp_path / f"{number}.png")
        image.save(files[-1])
    store = FeatureStore()
    found = store.distances(distance, files)
    assert found.matrix == pytest.approx(distance.pairwise_distances(images(5, 80)), abs=1e-6)
    assert (store.decoded, store.encoded[distance.name]) == (5, 5)
    again = FeatureStore()
    assert np.array_equal(again.distances(distance, files).matrix, found.matrix)
    assert again.decoded == 0


def test_torchvisions_own_file_is_read_as_tensors_only(tmp_path: Path) -> None:
    file = tmp_path / "alexnet.pth"
    write_lpips_trunk(file, "alex")
    same = tmp_path / "alexnet.safetensors"
    save_file(torch.load(file, weights_only=True), same)
    one = lpips_encoder.load(f"alex@{file}", device="cpu")
    two = lpips_encoder.load(f"alex@{same}", device="cpu")
    other = lpips_encoder.load(f"alex:128@{same}", device="cpu")
    assert one.fingerprint == two.fingerprint != other.fingerprint

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (str(tmp_path / "it was run"),)

    torch.save({"features.0.weight": Evil()}, file)
    with pytest.raises(UserError, match="does not hold plain tensors"):
        lpips_encoder.load(f"alex@{file}", device="cpu")
    assert not (tmp_path / "it was run").exists()


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("alx", 'unknown LPIPS network "alx"; did you mean "alex"'),
        ("alex:big", '"big" is no size'),
        ("alex:4", '"4" is no size'),
        ("alex@/nowhere.safetensors", "no weights at"),
        ("alex@/nowhere.pth", "no weights at"),
    ],
)
def test_wrong_references_are_one_line(argument: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        lpips_encoder.load(argument, device="cpu")
    assert "\n" not in str(caught.value)


def test_weights_of_another_network_do_not_fit(
    trunks: dict[str, tuple[Path, lpips.LPIPS]],
) -> None:
    with pytest.raises(UserError, match="do not fit: features"):
        lpips_encoder.load(f"vgg@{trunks['alex'][0]}", device="cpu")


def test_it_says_that_it_has_no_vectors(trunks: dict[str, tuple[Path, lpips.LPIPS]]) -> None:
    distance = lpips_encoder.load(f"alex@{trunks['alex'][0]}", device="cpu")
    for call in (lambda: distance.encode_images([]), lambda: distance.encode_texts([])):
        with pytest.raises(UserError, match="has no vector for one"):
            call()


def test_without_a_network_the_remedy_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def offline(*arguments: object, **keywords: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=r"alexnet-owt-.*\.pth.*lpips:alex@/path/"):
        lpips_encoder.load("alex", device="cpu")

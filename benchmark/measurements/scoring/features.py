"""Measures the feature store: counts, time, memory, and LPIPS against the lpips package.

    python benchmark/measurements/scoring/features.py count --photographs ../shared/dreambooth
    python benchmark/measurements/scoring/features.py share
    python benchmark/measurements/scoring/features.py lpips
    python benchmark/measurements/scoring/features.py memory

Each command draws its own images into a temporary folder and uses its own cache. Forward passes are
counted and timed in the networks, decodes where Pillow opens a file. `--out` writes a JSON file.
"""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import open_clip
import timm
import torch
import typer
from PIL import Image
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file

import dbbench.evaluation.features
from dbbench.data.decoding import SUFFIXES, decode_picture
from dbbench.evaluation.encoder import load_encoder
from dbbench.evaluation.feature_cache import Cache
from dbbench.evaluation.features import FeatureStore
from dbbench.storage.events import peak_memory

app = typer.Typer(no_args_is_help=True, help=__doc__.partition("\n")[0])
Out = Annotated[Path | None, typer.Option(help="Write the numbers to this JSON file.")]
Encoders = Annotated[
    str,
    typer.Option(
        help="Names as in a suite, or random-vit-b-32 and random-vit-s-16: the real networks with "
        "random weights."
    ),
]
SMALL, REAL = "mini-dino,mini-clip", "random-vit-s-16,random-vit-b-32"


@app.command()
def count(
    photographs: Annotated[Path, typer.Option(help="The data set's photographs.")],
    images: Annotated[int, typer.Option(help="Number of generated images.")] = 3000,
    size: Annotated[int, typer.Option(help="Their side in pixels.")] = 64,
    encoders: Encoders = SMALL,
    out: Out = None,
) -> None:
    """Count forward passes and decodes of a first scoring, and of one with another protocol."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = draw(folder / "images", images, size)
        real = sorted(p for p in photographs.rglob("*") if p.suffix.lower() in SUFFIXES)
        loaded = load(encoders, folder)
        networks = {name: Watch(encoder) for name, encoder in loaded.items()}
        passes = []
        # The second protocol uses one reference per subject: fewer files, the same encoders.
        for chosen in ([*files, *real], [*files, *real[::5]]):
            with counted_decodes() as decodes:
                begin = time.perf_counter()
                # A new store has nothing in memory, like a new process.
                FeatureStore(Cache(folder / "cache")).encode_with(list(loaded.values()), chosen)
                seconds = time.perf_counter() - begin
            forwards = {name: watch.take()[0] for name, watch in networks.items()}
            passes.append({"files": len(chosen), "decodes": decodes["all"], "forwards": forwards})
            passes[-1]["seconds"] = round(seconds, 3)
        ratio = passes[1]["seconds"] / passes[0]["seconds"]
        report({"passes": passes, "second / first": round(ratio, 5)}, out)


@app.command()
def share(
    images: Annotated[int, typer.Option(help="How many to encode.")] = 200,
    size: Annotated[int, typer.Option(help="Their side in pixels.")] = 512,
    encoders: Encoders = REAL,
    out: Out = None,
) -> None:
    """Measure the share of forward passes in the wall time of a first scoring."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = draw(folder / "images", images, size)
        loaded = load(encoders, folder)
        networks = {name: Watch(encoder) for name, encoder in loaded.items()}
        begin = time.perf_counter()
        FeatureStore(Cache(folder / "cache")).encode_with(list(loaded.values()), files)
        wall = time.perf_counter() - begin
        seconds = {name: round(watch.take()[1], 3) for name, watch in networks.items()}
        result = {"images": images, "size": size, "wall seconds": round(wall, 3)}
        result |= {"forward seconds": seconds, "share": round(sum(seconds.values()) / wall, 4)}
        report(result, out)


@app.command()
def lpips(
    images: Annotated[int, typer.Option(help="Number of images; all pairs are computed.")] = 100,
    size: Annotated[int, typer.Option(help="Their side in pixels.")] = 256,
    net: Annotated[str, typer.Option(help="alex, vgg or squeeze")] = "alex",
    pairs: Annotated[
        int, typer.Option(help="Pairs to time the package on; the total is extrapolated.")
    ] = 40,
    out: Out = None,
) -> None:
    """Time all pairs in one matrix, against the lpips package called for each pair."""
    import lpips as package

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It uses a deprecated call of torchvision.
            model = package.LPIPS(net=net, pnet_rand=True, verbose=False)
        trunk = model.net.state_dict()
        names = {key: f"features.{key.partition('.')[2]}" for key in trunk}
        save_file({names[k]: t for k, t in trunk.items()}, folder / "trunk.safetensors")
        distance: Any = load_encoder(
            f"lpips:{net}:{size}@{folder / 'trunk.safetensors'}", device="cpu"
        )
        pictures = [Image.open(file).convert("RGB") for file in draw(folder, images, size)]
        tensors = [
            torch.from_numpy(np.asarray(p, dtype=np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
            for p in pictures
        ]
        distance.pairwise_distances(pictures[:2])
        begin = time.perf_counter()
        matrix = distance.pairwise_distances(pictures)
        ours = time.perf_counter() - begin
        everything = list(combinations(range(images), 2))
        some = everything[:: max(1, len(everything) // pairs)]
        theirs, worst = [], 0.0
        with torch.inference_mode():
            for i, j in track(some, "the package"):
                begin = time.perf_counter()
                value = float(model(tensors[i], tensors[j]))
                theirs.append(time.perf_counter() - begin)
                worst = max(worst, abs(value - matrix[i, j]))
        whole = float(np.median(theirs)) * len(everything)
        result = {"net": net, "images": images, "size": size, "pairs": len(everything)}
        result |= {"seconds": round(ours, 3), "pairs timed": len(some)}
        result |= {"package seconds, median x pairs": round(whole, 3)}
        result |= {"times faster": round(whole / ours, 1), "largest difference": worst}
        report(result, out)


@app.command()
def memory(
    images: Annotated[int, typer.Option(help="How many to encode.")] = 20_000,
    size: Annotated[int, typer.Option(help="Their side in pixels.")] = 64,
    encoders: Encoders = SMALL,
    out: Out = None,
) -> None:
    """Measure the memory that scoring needs beyond the loaded networks."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = draw(folder / "images", images, size)
        loaded = list(load(encoders, folder).values())
        for encoder in loaded:  # The libraries allocate memory at their first call.
            encoder.encode_images(
                [Image.new("RGB", (size, size))] * dbbench.evaluation.features.BATCH
            )
        before = resident()
        FeatureStore(Cache(folder / "cache")).encode_with(loaded, files)
        peak = peak_memory() or 0
        result = {"images": images, "size": size, "megabytes before": round(before / 1e6)}
        report(result | {"peak beyond that": round((peak - before) / 1e6)}, out)


class Watch:
    """Counts and times the images that go through a network."""

    def __init__(self, encoder: Any) -> None:
        network = getattr(encoder._model, "visual", encoder._model)
        self._images, self._seconds, self._begin = 0, 0.0, 0.0
        network.register_forward_pre_hook(self._enter)
        network.register_forward_hook(self._leave)

    def take(self) -> tuple[int, float]:
        """Return images and seconds since the last call."""
        taken = (self._images, self._seconds)
        self._images, self._seconds = 0, 0.0
        return taken

    def _enter(self, module: torch.nn.Module, inputs: Any) -> None:
        self._begin = time.perf_counter()

    def _leave(self, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        self._seconds += time.perf_counter() - self._begin
        self._images += len(inputs[0])


@contextmanager
def counted_decodes() -> Iterator[Counter[str]]:
    """Count how often a file's bytes are decoded."""
    counts: Counter[str] = Counter()

    def counting(content: bytes) -> Image.Image:
        counts["all"] += 1
        return decode_picture(content)

    dbbench.evaluation.features.decode_picture = counting  # type: ignore[attr-defined]
    try:
        yield counts
    finally:
        dbbench.evaluation.features.decode_picture = decode_picture  # type: ignore[attr-defined]


def load(names: str, folder: Path) -> dict[str, Any]:
    """Load encoders; random weights are read from files, like published ones."""
    references: dict[str, Callable[[], str]] = {
        "random-vit-s-16": lambda: random_dino(folder / "vit-s-16.safetensors"),
        "random-vit-b-32": lambda: random_clip(folder / "vit-b-32.safetensors"),
    }
    return {
        name: load_encoder(references[name]() if name in references else name, device="cpu")
        for name in names.split(",")
    }


def random_dino(file: Path) -> str:
    """Write DINO's network with random weights."""
    torch.manual_seed(0)
    save_file(timm.create_model("vit_small_patch16_224", num_classes=0).state_dict(), file)
    return f"timm:vit_small_patch16_224.dino@{file}"


def random_clip(file: Path) -> str:
    """Write OpenAI's ViT-B/32 with random weights."""
    torch.manual_seed(0)
    save_file(open_clip.create_model("ViT-B-32-quickgelu").state_dict(), file)
    return f"open_clip:ViT-B-32:openai@{file}"


def draw(folder: Path, images: int, size: int) -> list[Path]:
    """Draw pictures of soft colours, no two alike, as PNG."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    files = []
    for number in track(range(images), "drawing", transient=True):
        pixels = random.integers(0, 256, (max(8, size // 8), max(8, size // 8), 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
        files.append(folder / f"{number:05d}.png")
        picture.save(files[-1], compress_level=1)
    return files


def resident() -> int:
    """Return the bytes of memory in use, and reset the peak."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_memory() or 0


def report(result: dict[str, Any], out: Path | None) -> None:
    """Print the numbers, and write them to `out` if given."""
    result |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    Console().print_json(json.dumps(result))
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app()

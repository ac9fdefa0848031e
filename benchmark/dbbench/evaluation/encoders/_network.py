"""Shared by the encoders: finding and hashing weights, and batches through a frozen network."""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torchvision.transforms import Compose, ToTensor
from typing_extensions import override

from dbbench import hub
from dbbench.errors import UserError
from dbbench.evaluation.encoder import UnitVectors

InputT = TypeVar("InputT")

RESIZER = f"Pillow {PIL.__version__}, antialiased"
"""The resizing library: torchvision uses Pillow for PIL images, which always antialiases."""


def local_weights(path: str | Path, *, encoder: str) -> Path:
    """Return the path of a safetensors file. Raises UserError if it is missing or pickled."""
    file = Path(path).expanduser()
    if file.suffix in {".bin", ".ckpt", ".npz", ".pkl", ".pt", ".pth"}:
        raise UserError(
            f"{encoder}: {file} is not a safetensors file and a pickle can run code; convert it "
            f"once: dbbench data convert {file.name} {file.stem}.safetensors"
        )
    if not file.is_file():
        raise UserError(f"{encoder}: no weights at {file}; give the path of a safetensors file")
    if file.suffix != ".safetensors":
        raise UserError(f"{encoder}: {file} is not a .safetensors file; only these are read")
    return file


def hub_weights(repository: str, filenames: Sequence[str], *, encoder: str) -> Path:
    """Return the local path of the first of `filenames` in a hub repository; tries the cache first.

    Raises UserError at once without a network, or if the repository holds only pickles.
    """
    from huggingface_hub import (
        get_session,
        hf_hub_download,
        hf_hub_url,
        hf_raise_for_status,
        try_to_load_from_cache,
    )
    from huggingface_hub.errors import RemoteEntryNotFoundError

    for filename in filenames:
        cached = try_to_load_from_cache(repository, filename)
        if isinstance(cached, str):
            return Path(cached)
    remedy = (
        f"download {filenames[0]} of {repository} on a machine with network, then use"
        f" {encoder}@/path/{filenames[0]}"
    )
    for filename in filenames:
        try:
            # One request instead of the client's five retries, so a missing network fails at once.
            hf_raise_for_status(
                get_session().head(
                    hf_hub_url(repository, filename), follow_redirects=True, timeout=20
                )
            )
            return Path(hf_hub_download(repository, filename))
        except RemoteEntryNotFoundError:
            continue
        except Exception as error:
            reason = hub.explain(error, repository, without=remedy)
            raise UserError(f"{encoder}: {reason}") from None
    raise UserError(
        f"{encoder}: {repository} offers none of {', '.join(filenames)} on the model hub, and "
        f"pickled weights are not read; convert them to safetensors and use "
        f"{encoder}@/path/weights.safetensors"
    )


def check_readable(file: Path, *, encoder: str) -> None:
    """Raise UserError for a safetensors file that is truncated, damaged or a git-lfs pointer."""
    if remedy := hub.pointer(file):
        raise UserError(f"{encoder}: {remedy}")
    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(f"{encoder}: {file} cannot be read ({error}); download it again") from None


def check_folder(folder: Path, filename: str, *, encoder: str) -> Path:
    """Return the first safetensors file in a model's folder, such as `filename`.

    Raises UserError if there is none, or one is damaged.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickles = sorted(p for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth"})
        local_weights((pickles or [folder / filename])[0], encoder=encoder)
    for file in weights:
        check_readable(file, encoder=encoder)
    return weights[0]


def check_not_bent(file: Path, model: torch.nn.Module, *, encoder: str) -> None:
    """Raise UserError if a tensor of the file has another size than the network's of that name.

    Libraries interpolate such tensors, mostly position embeddings, without an error.
    """
    own = model.state_dict()
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118
            here = own.get(name, own.get(f"text.{name}"))
            shape = tensors.get_slice(name).get_shape()
            if here is not None and math.prod(shape) != here.numel():
                raise UserError(
                    f"{encoder}: the weights in {file} do not fit: {name} is {tuple(shape)} instead"
                    f" of {tuple(here.shape)}; use the model that they were trained with"
                )


def read_weights(file: Path, *, encoder: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a safetensors file. Raises UserError for a damaged one."""
    check_readable(file, encoder=encoder)
    tensors: dict[str, torch.Tensor] = load_file(file)
    return tensors


def hash_weights(model: torch.nn.Module) -> str:
    """Return the SHA-256 of a network's tensors: names, shapes, types and bytes.

    It does not depend on the file layout.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


class FrozenNetwork:
    """A network in float32 on one device, in evaluation mode; the encoders extend it."""

    batch_size = 64
    dim: int

    def __init__(self, model: Any, *, name: str, device: str) -> None:
        self.name = name
        self.device = torch.device(device)
        self._model = model.eval().requires_grad_(False).float().to(self.device)

    @torch.inference_mode()
    def encode(
        self,
        items: Sequence[InputT],
        prepare: Callable[[Sequence[InputT]], Any],
        forward: Callable[[Any], torch.Tensor],
    ) -> UnitVectors:
        """Encode items in batches -> ND float32, unit norm. Raises UserError for zeros and NaN.

        `prepare` returns a tensor, or a dictionary of tensors with a `to(device)` method.
        """
        parts = []
        with same_everywhere():
            for start in range(0, len(items), self.batch_size):
                batch = prepare(items[start : start + self.batch_size]).to(self.device)
                features = forward(batch).double()  # float32 norms err by 1e-7 per term.
                norms = features.norm(dim=-1, keepdim=True)
                if not bool((norms > 0).all()):
                    raise UserError(
                        "the encoder gives zeros or NaN for an image or a text; its weights are"
                        " damaged: use others"
                    )
                parts.append((features / norms).float().cpu().numpy())
        return np.concatenate(parts) if parts else np.zeros((0, self.dim), dtype=np.float32)


class PillowNetwork(FrozenNetwork):
    """A network whose preprocessing is a torchvision transform of a Pillow image."""

    def __init__(self, model: Any, transform: Compose, *, name: str, device: str) -> None:
        super().__init__(model, name=name, device=device)
        steps = tuple(transform.transforms)
        kinds = [isinstance(step, ToTensor) for step in steps]
        # The number of steps before the image becomes a tensor; 0 if unknown.
        first = kinds.index(True) if True in kinds else 0
        self._resize, self._normalize = Compose(steps[:first]), Compose(steps[first:])
        self.embed: Callable[[torch.Tensor], torch.Tensor] = self._model
        """NCHW float32 -> ND, of any norm."""

    def encode_images(self, images: Sequence[Image.Image]) -> UnitVectors:
        """PIL images -> ND float32, unit norm."""
        return self.encode_prepared([self.prepare(image) for image in images])

    def prepare(self, image: Image.Image) -> Image.Image:
        """Resize and crop to the network's input size."""
        resized: Image.Image = self._resize(image.convert("RGB"))
        return resized

    def encode_prepared(self, images: Sequence[Image.Image]) -> UnitVectors:
        """Images from `prepare` -> ND float32, unit norm."""
        return self.encode(images, self.stack, self.embed)

    def stack(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """Images from `prepare` -> NCHW float32, normalized."""
        return torch.stack([self._normalize(image) for image in images])


@contextmanager
def same_everywhere() -> Iterator[None]:
    """Compute in full float32 on every device: TF32 changes features by a relative 1e-3."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = False
    try:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            yield
    finally:
        matmul.allow_tf32 = before


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hide transformers' progress bars and log lines while weights load."""
    from transformers.utils import logging as library

    level = library.get_verbosity()
    library.set_verbosity_error()
    library.disable_progress_bar()
    try:
        yield
    finally:
        library.set_verbosity(level)
        library.enable_progress_bar()


@contextmanager
def collect_log(name: str) -> Iterator[list[str]]:
    """Collect the lines of a library's log, such as the names of missing tensors."""
    lines: list[str] = []

    class Collector(logging.Handler):
        @override
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logger = logging.getLogger(name)
    handler, level, propagate = Collector(), logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate

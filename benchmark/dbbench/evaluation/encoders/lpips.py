"""LPIPS ("lpips:alex"): perceptual distance of two images; for DIV, not a source of vectors.

    lpips:alex, lpips:vgg, lpips:squeeze  the trunk's weights from torchvision (or its cache)
    lpips:alex:512                        images at 512 px instead of 256
    lpips:alex@/path/alexnet.pth          the trunk from a file with torchvision's names:
                                          safetensors, or .pth read as tensors only

Zhang et al., arXiv 1801.03924, version 0.1, with the linear heads of the lpips package.

The distance is a sum over layers l of a mean over positions of sum_c w_lc (f_lc - g_lc)^2, where f
and g are features of unit length at each position. As w >= 0, it is the squared Euclidean distance
of two long vectors, sqrt(w_lc / (H_l W_l)) f_lc for all layers and positions. So each image goes
through the network once, and all pairs come from one matrix of inner products.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import IO, Any

import lpips
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from dbbench.errors import UserError, unknown
from dbbench.evaluation.encoder import UnitVectors, encoder_fingerprint
from dbbench.evaluation.encoders import _network

# torchvision's own release of the ImageNet weights that LPIPS was calibrated on.
TRUNKS = {
    "alex": "AlexNet_Weights",
    "vgg": "VGG16_Weights",
    "squeeze": "SqueezeNet1_1_Weights",
}
SIZE = 256
IN_MEMORY = 512 * 2**20  # bytes of features; the rest goes to a temporary file
_SMALLEST = 32


def load(argument: str, *, device: str) -> LpipsDistance:
    """Return the distance that "lpips:ARGUMENT" names.

    Raises UserError for an unknown network or size, weights that do not fit, and if torchvision's
    weights are neither in its cache nor can be downloaded.
    """
    name = f"lpips:{argument}"
    model, _, file = argument.partition("@")
    net, _, size = model.partition(":")
    if net not in TRUNKS:
        raise unknown("LPIPS network", net, TRUNKS, "")
    if size and not (size.isdecimal() and int(size) >= _SMALLEST):
        raise UserError(f'{name}: "{size}" is no size; use {_SMALLEST} px or more: lpips:{net}:512')
    trunk = _trunk_file(file, name) if file else _trunk_download(net, name)
    return LpipsDistance(
        _build(net, trunk, name), net=net, name=name, size=int(size or SIZE), device=device
    )


class LpipsDistance:
    """An LPIPS network; it compares square images of one size, in [-1, 1]."""

    batch_size = 16

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        net: str,
        name: str,
        size: int,
        device: str,
    ) -> None:
        self.name, self.net, self.size = name, net, size
        self.device = torch.device(device)
        network: Any = model
        self._model = network.eval().requires_grad_(False).float().to(self.device)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over trunk and heads, the lpips package's version, preprocessing and dtype."""
        return encoder_fingerprint(
            weights=_network.hash_weights(self._model),
            library=f"lpips {version('lpips')}",
            preprocessing={
                "size": self.size,
                "resizer": _network.RESIZER,
                "filter": "bicubic",
                "crop": "central square",
                "range": [-1, 1],
                "net": self.net,
            },
            dtype="float32",
        )

    @property
    def dim(self) -> int:
        """Raise UserError: there is no vector for one image."""
        raise self._no_vectors()

    def encode_images(self, images: Sequence[Image.Image]) -> UnitVectors:
        """Raise UserError: there is no vector for one image."""
        raise self._no_vectors()

    def encode_texts(self, texts: Sequence[str]) -> UnitVectors:
        """Raise UserError: this network takes images only."""
        raise self._no_vectors()

    def prepare(self, image: Image.Image) -> Image.Image:
        """Crop to the central square and resize; idempotent."""
        square = (self.size, self.size)
        return ImageOps.fit(image.convert("RGB"), square, Image.Resampling.BICUBIC)

    def pairwise_distances(self, images: Iterable[Image.Image]) -> NDArray[np.float64]:
        """N images -> NN float64, symmetric, zeros on the diagonal; each goes through once."""
        with tempfile.TemporaryFile() as spill:
            blocks: list[NDArray[np.float32]] = []
            size = 0
            for batch in _batches(images, self.batch_size):
                block = self.vectors(batch)
                size += block.nbytes
                blocks.append(block if size <= IN_MEMORY else _move(block, spill))
            return _squared_distances(blocks)

    @torch.inference_mode()
    def vectors(self, images: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Images -> ND float32 whose squared Euclidean distances are LPIPS distances."""
        pixels = np.stack([np.asarray(self.prepare(image), dtype=np.float32) for image in images])
        batch = torch.from_numpy(pixels / 127.5 - 1).permute(0, 3, 1, 2).to(self.device)
        with _network.same_everywhere():
            layers = self._model.net(self._model.scaling_layer(batch))
            parts = []
            for layer, head in zip(layers, self._model.lins, strict=True):
                weight = head.model[-1].weight / (layer.shape[2] * layer.shape[3])
                scaled = lpips.normalize_tensor(layer) * weight.sqrt()
                parts.append(scaled.flatten(1))
            vectors: NDArray[np.float32] = torch.cat(parts, dim=1).cpu().numpy()
        return vectors

    def _no_vectors(self) -> UserError:
        return UserError(
            f"{self.name} compares two images and has no vector for one; use it for DIV and LPIPS, "
            "and a timm, open_clip or hf encoder for this role (dbbench list encoders)"
        )


def _squared_distances(blocks: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Blocks of rows of one ND matrix -> NN squared Euclidean distances."""
    count = sum(map(len, blocks))
    gram = np.zeros((count, count))
    if count < 2:
        return gram
    width = blocks[0].shape[1]
    step = max(1024, 2**22 // count)
    for start in range(0, width, step):
        part = np.concatenate([block[:, start : start + step] for block in blocks])
        # Subtract the mean, so that less precision cancels below. Sums over one part are in
        # float32, and their total in float64.
        part = part - part.mean(axis=0)
        gram += (part @ part.T).astype(np.float64)
    square = np.diag(gram)
    distances = square[:, None] + square[None, :] - (gram + gram.T)
    np.fill_diagonal(distances, 0.0)
    return np.maximum(distances, 0.0)


def _move(block: NDArray[np.float32], file: IO[bytes]) -> NDArray[np.float32]:
    """Append a block to a file and return it as a memory map of that file."""
    offset = file.seek(0, 2)
    file.write(block.tobytes())
    file.flush()
    return np.memmap(file, dtype=np.float32, mode="r", offset=offset, shape=block.shape)


def _batches(images: Iterable[Image.Image], size: int) -> Iterator[list[Image.Image]]:
    iterator = iter(images)
    while batch := list(islice(iterator, size)):
        yield batch


def _build(net: str, trunk: dict[str, torch.Tensor], name: str) -> torch.nn.Module:
    """Return the network with its heads from the lpips package and this trunk."""
    with warnings.catch_warnings(), torch.device("meta"):
        # The package builds a whole torchvision classifier with a deprecated call and keeps a
        # small part. The device "meta" allocates no memory for it.
        warnings.simplefilter("ignore")
        model: Any = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
    heads = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
    state = torch.load(heads, map_location="cpu", weights_only=True)
    for key, own in model.net.state_dict().items():
        # "slice2.3.weight" is layer 3 of torchvision's "features".
        source = f"features.{key.partition('.')[2]}"
        if source not in trunk or trunk[source].shape != own.shape:
            raise UserError(
                f"{name}: the weights do not fit: {source} is missing or of another shape; give"
                f" torchvision's {TRUNKS[net].removesuffix('_Weights')}"
            )
        state[f"net.{key}"] = trunk[source]
    # Not strict, because each head has two names in the module and one in the file.
    model.load_state_dict(state, strict=False, assign=True)
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ValueError(f"{heads} does not hold every head of the lpips package's {net}")
    if any(bool((head.model[-1].weight < 0).any()) for head in model.lins):
        raise ValueError(f"{heads} holds negative weights, so that LPIPS is no squared distance")
    return model  # type: ignore[no-any-return]


def _trunk_file(file: str, name: str) -> dict[str, torch.Tensor]:
    path = Path(file).expanduser()
    if path.suffix not in {".pt", ".pth"}:
        return _network.read_weights(_network.local_weights(file, encoder=name), encoder=name)
    if not path.is_file():
        raise UserError(f"{name}: no weights at {path}; give torchvision's file or safetensors")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:160]
        raise UserError(f"{name}: {path} does not hold plain tensors ({reason})") from None
    if not isinstance(loaded, dict):
        raise UserError(f"{name}: {path} holds no dictionary of tensors; give torchvision's file")
    return loaded


def _trunk_download(net: str, name: str) -> dict[str, torch.Tensor]:
    import torchvision

    weights = getattr(torchvision.models, TRUNKS[net]).DEFAULT
    file = Path(weights.url).name
    try:
        loaded: dict[str, torch.Tensor] = torch.hub.load_state_dict_from_url(
            weights.url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
    except Exception as error:
        raise UserError(
            f"{name}: {file} is not in torchvision's cache and cannot be downloaded ({error});"
            f" download {weights.url} on a machine with network, then use {name}@/path/{file}"
        ) from None
    return loaded

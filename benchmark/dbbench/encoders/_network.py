"""What the encoders share: a file of weights, its hash, and batches through a frozen network."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
import torch
from safetensors import SafetensorError, safe_open

from dbbench.encoder import Vectors
from dbbench.errors import UserError

Item = TypeVar("Item")

RESIZER = f"Pillow {PIL.__version__}, antialiased"
"""Who resizes: torchvision hands PIL images to Pillow, which always filters before it samples."""


def local_weights(path: str | Path, *, encoder: str) -> Path:
    """Return the path of a safetensors file. Raises UserError for a missing or a pickled one."""
    file = Path(path).expanduser()
    if file.suffix in {".bin", ".ckpt", ".npz", ".pkl", ".pt", ".pth"}:
        raise UserError(
            f"{encoder}: {file} is not a safetensors file and a pickle can run code; convert it "
            'once: python -c "import torch, safetensors.torch as s; s.save_file(torch.load('
            f"'{file.name}', weights_only=True), '{file.stem}.safetensors')\""
        )
    if not file.is_file():
        raise UserError(f"{encoder}: no weights at {file}; give the path of a safetensors file")
    if file.suffix != ".safetensors":
        raise UserError(f"{encoder}: {file} is not a .safetensors file, the only kind read here")
    return file


def hub_weights(repository: str, filenames: Sequence[str], *, encoder: str) -> Path:
    """Return the local path of the first of `filenames` in a hub repository, from the cache first.

    Raises UserError at once where there is no network, and where the repository holds only pickles.
    """
    from huggingface_hub import get_session, hf_hub_download, hf_hub_url, try_to_load_from_cache

    for filename in filenames:
        cached = try_to_load_from_cache(repository, filename)
        if isinstance(cached, str):
            return Path(cached)
    remedy = (
        f"get {filenames[0]} of {repository} on a machine with a network and name it: "
        f"{encoder}@/path/{filenames[0]}"
    )
    found: str | None = None
    for filename in filenames:
        try:
            # One question, not the client's five retries: a machine without a network says so now.
            reply = get_session().head(
                hf_hub_url(repository, filename), follow_redirects=True, timeout=20
            )
        except Exception as error:
            raise UserError(f"{encoder}: cannot reach the model hub ({error}); {remedy}") from None
        if reply.status_code < 400:
            found = filename
            break
    if found is None:
        raise UserError(
            f"{encoder}: {repository} offers none of {', '.join(filenames)} on the model hub, and "
            f"pickled weights are not read; convert them to safetensors and name the file: "
            f"{encoder}@/path/weights.safetensors"
        )
    try:
        return Path(hf_hub_download(repository, found))
    except Exception as error:
        raise UserError(f"{encoder}: the download failed ({error}); {remedy}") from None


def check_readable(file: Path, *, encoder: str) -> None:
    """Raise UserError for a safetensors file that is truncated or damaged."""
    try:
        with safe_open(file, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise UserError(f"{encoder}: {file} cannot be read ({error}); fetch it again") from None


def hash_weights(model: torch.nn.Module) -> str:
    """Return the SHA-256 of a network's tensors: names, shapes, types and bytes.

    It does not depend on the file that they came from.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


@torch.inference_mode()
def encode(
    items: Sequence[Item],
    prepare: Callable[[Sequence[Item]], torch.Tensor],
    forward: Callable[[torch.Tensor], torch.Tensor],
    *,
    dim: int,
    device: torch.device,
    batch_size: int,
) -> Vectors:
    """Items -> batches -> ND float32 with unit norm. A zero vector is an error, not a direction."""
    parts = [np.zeros((0, dim), dtype=np.float32)]
    # TF32 convolutions would make the features depend on the device (relative error 1e-3).
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        for start in range(0, len(items), batch_size):
            batch = prepare(items[start : start + batch_size]).to(device)
            features = forward(batch).double()  # Cast up: norms in float32 are off by 1e-7 a term.
            norms = features.norm(dim=-1, keepdim=True)
            if not bool((norms > 0).all()):
                raise ValueError("the network gave a feature of length zero; its weights are bad")
            parts.append((features / norms).float().cpu().numpy())
    return np.concatenate(parts)


@contextmanager
def collect_log(name: str) -> Iterator[list[str]]:
    """Collect what a library says only in its log, such as the names of missing tensors."""
    lines: list[str] = []

    class Collector(logging.Handler):
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

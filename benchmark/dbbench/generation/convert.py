"""Convert pickled weights to safetensors (`dbbench data convert`).

No other command reads pickled weights from users.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbench.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

PICKLED = (".bin", ".ckpt", ".pt", ".pth")
# Keys under which training scripts store the weights, next to optimizer state and counters.
INSIDE = ("state_dict", "model_state_dict", "model", "params", "weights")
RENAMED = {"pytorch_model": "model"}  # transformers' file name; diffusers' names stay.


def convert(old: Path, new: Path) -> list[Path]:
    """Write the tensors of a file, or of every pickled file below a folder, as .safetensors.

    All other files of a folder are copied, so `new` is a complete pipeline. PyTorch's restricted
    unpickler reads the files and runs no code. Returns the written paths. Raises UserError if there
    is nothing to convert, `new` exists, or a file holds more than tensors.
    """
    import shutil

    if new.exists():
        raise UserError(f"{new} exists; choose another name")
    if old.is_file():
        if new.suffix != ".safetensors":
            raise UserError(f"{new} must end in .safetensors")
        _convert_file(old, new)
        return [new]
    found = [path for path in sorted(old.rglob("*")) if path.suffix in PICKLED]
    if not found:
        raise UserError(f"{old} holds no pickled weights ({', '.join(PICKLED)})")
    shutil.copytree(old, new, ignore=shutil.ignore_patterns(*(f"*{end}" for end in PICKLED)))
    written = []
    for path in found:
        name = RENAMED.get(path.stem, path.stem)
        target = new / path.relative_to(old).with_name(f"{name}.safetensors")
        _convert_file(path, target)
        written.append(target)
    return written


def _convert_file(old: Path, new: Path) -> None:
    import pickle

    import torch
    from safetensors.torch import save_file

    try:
        document = torch.load(old, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, ValueError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "no reason given"
        raise UserError(
            f"{old} cannot be converted: it holds more than tensors, or is damaged ({reason});"
            " ask its publisher for safetensors"
        ) from None
    tensors = dict(_tensors(document))
    if not tensors:
        raise UserError(f"{old} holds no tensors by name; ask its publisher for safetensors")
    new.parent.mkdir(parents=True, exist_ok=True)
    # Clone, because safetensors rejects tensors that share memory, such as tied weights.
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, new)


def _tensors(document: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the named tensors of a state dict, or of a state dict inside a checkpoint."""
    from torch import Tensor

    if not isinstance(document, Mapping):
        return
    for name in INSIDE:
        if isinstance(document.get(name), Mapping):
            yield from _tensors(document[name])
            return
    for name, value in document.items():
        if isinstance(value, Tensor):
            yield str(name), value

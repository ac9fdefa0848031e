"""Convert pickled weights to safetensors (`dbbench data convert`).

No other command reads pickled weights from users.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbbench.errors import UserError
from dbbench.hub import pointer

if TYPE_CHECKING:
    from torch import Tensor

PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
# Keys under which training scripts store the weights, next to optimizer state and counters.
INSIDE = ("state_dict", "model_state_dict", "model", "params", "weights", "string_to_param")
# transformers' file name; diffusers' names stay.
_RENAMED = ("pytorch_model", "model")
# What a training leaves beside its weights, by the start of the file's name.
_STATE = {
    "optimizer": "an optimizer's state", "scheduler": "a learning-rate schedule",
    "scaler": "a gradient scaler", "random_states": "random states", "rng_state": "random states",
    "training_args": "a training's arguments", "sampler": "a data sampler",
}  # fmt: skip


@dataclass
class Converted:
    """What a conversion wrote, and in words what it left out."""

    written: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def convert(old: Path, new: Path) -> Converted:
    """Write the tensors of a file, or of every pickled file below a folder, as .safetensors.

    All other files of a folder are copied, so `new` is a complete pipeline; the state of a training
    is left out. `new` appears when it is complete. PyTorch's restricted unpickler reads the files
    and runs no code; objects of unknown classes stay empty. Raises UserError if there is
    nothing to convert, `new` exists, or a file has no tensors.
    """
    if new.exists():
        raise UserError(f"{new} exists; choose another name")
    if old.is_file() and new.suffix != ".safetensors":
        raise UserError(f"{new} must end in .safetensors")
    new.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{new.name}.", dir=new.parent) as folder:
        draft = Path(folder) / new.name
        if old.is_file():
            result = Converted([draft], _convert_file(old, draft))
        else:
            result = _convert_folder(old, draft)
        draft.rename(new)
    moved = [new / path.relative_to(draft) for path in result.written]
    return Converted(moved, result.left_out)


def _convert_folder(old: Path, new: Path) -> Converted:
    found = [path for path in sorted(old.rglob("*")) if path.suffix in PICKLED]
    if not found:
        raise UserError(f"{old} holds no pickled weights ({', '.join(PICKLED)})")
    result = Converted()
    shutil.copytree(old, new, ignore=shutil.ignore_patterns(*(f"*{end}" for end in PICKLED)))
    for path in found:
        name = path.relative_to(old)
        kind = next((what for start, what in _STATE.items() if path.name.startswith(start)), None)
        if kind is not None or path.suffix == ".pkl":
            result.left_out.append(f"{name} ({kind or 'a pickle'})")
            continue
        target = new / name.with_name(_safe_name(path.name))
        if target.exists():
            result.left_out.append(f"{name} (the folder has it as {target.name})")
            continue
        result.left_out += [f"{name}: {each}" for each in _convert_file(path, target)]
        result.written.append(target)
    if not result.written:
        raise UserError(f"{old} holds no weights, only {', '.join(result.left_out)}")
    for index in sorted(new.rglob("*.index*.json")):
        _convert_index(index)
    return result


def _safe_name(name: str) -> str:
    """Return the name of the .safetensors file for a pickled one, as the libraries look for it."""
    stem, _, _ = name.rpartition(".")
    return f"{stem.replace(*_RENAMED, 1) if stem.startswith(_RENAMED[0]) else stem}.safetensors"


def _convert_index(file: Path) -> None:
    """Rewrite the list of a sharded model's files: pytorch_model.bin.index.json."""
    document = json.loads(file.read_text("utf-8"))
    shards = document.get("weight_map")
    if not isinstance(shards, dict) or ".bin." not in file.name:
        return
    document["weight_map"] = {key: _safe_name(str(shard)) for key, shard in shards.items()}
    start, _, rest = file.name.partition(".bin.")
    file.with_name(f"{_safe_name(f'{start}.bin')}.{rest}").write_text(
        json.dumps(document, indent=2), "utf-8"
    )
    file.unlink()


def _convert_file(old: Path, new: Path) -> list[str]:
    """Write a file's tensors; return what else it holds, by name."""
    from safetensors.torch import save_file

    document = _read(old)
    tensors = dict(_tensors(document))
    if not tensors:
        raise UserError(f"{old} holds no tensors by name; ask its publisher for safetensors")
    new.parent.mkdir(parents=True, exist_ok=True)
    # Clone, because safetensors rejects tensors that share memory, such as tied weights.
    save_file(
        {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()},
        new,
        metadata={"format": "pt"},
    )
    return _others(document)


def _read(file: Path) -> Any:
    """Unpickle a file without running its code: unknown classes become shells that do nothing."""
    import torch

    if remedy := pointer(file):
        raise UserError(remedy)
    shells: dict[str, Any] = {}
    while True:
        try:
            with torch.serialization.safe_globals([(it, name) for name, it in shells.items()]):
                return torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged pickle raises anything
            name = _unknown_class(str(error))
            if name is None or name in shells:
                raise UserError(
                    f"{file} cannot be converted: it holds more than tensors, or is damaged"
                    f" ({_reason(error)}); ask its publisher for safetensors"
                ) from None
            shells[name] = _shell(name)


def _unknown_class(message: str) -> str | None:
    """Return the class that PyTorch's unpickler has refused to load."""
    if match := re.search(r"GLOBAL (\S+) was not an allowed global", message):
        return match[1] if "." in match[1] else f"builtins.{match[1]}"
    match = re.search(r"but got <class '(numpy\.dtypes\.\w+)'>", message)
    return None if match is None else match[1]


def _shell(name: str) -> Any:
    """Return what stands for a class: NumPy's numbers themselves, and else an inert shell."""
    import numpy as np

    if name in {"numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar"}:
        return np.float64(0).__reduce__()[0]
    if name == "numpy.dtype" or name.startswith("numpy.dtypes."):
        return getattr(np.dtypes, name.rpartition(".")[2], np.dtype)
    return type("Shell", (_Shell,), {})


class _Shell:
    """Stands for a class that is not loaded: its objects become empty dictionaries.

    PyTorch's unpickler writes an object's state into the attributes of such a dictionary.
    """

    def __new__(cls, *_args: Any, **_named: Any) -> Any:
        return OrderedDict[Any, Any]()


def _reason(error: Exception) -> str:
    """Return what an error says in one line, without the terminal codes that PyTorch adds."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    if match := re.search(r"GLOBAL (\S+) whose module", text):
        return f"it calls {match[1]}"
    if match := re.search(r"WeightsUnpickler error: *(.+)", text):
        text = match[1]
    return (text.strip().splitlines() or [type(error).__name__])[0].rstrip(". ")[:200]


def _tensors(document: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the named tensors of a state dict, or of a state dict inside a checkpoint."""
    from torch import Tensor

    named = _named(document)
    for name in INSIDE:
        inner = _named(named.get(name))
        if name == "string_to_param" and inner:  # an inversion of its authors or AUTOMATIC1111
            yield from _vectors(inner)
            return
        if inner:
            yield from _tensors(named[name])
            return
    for name, value in named.items():
        if isinstance(value, Tensor):
            yield str(name), value
        elif name in {"image_proj", "ip_adapter"}:  # an IP-Adapter holds two state dicts
            yield from ((f"{name}.{key}", tensor) for key, tensor in _tensors(value))


def _vectors(words: Mapping[Any, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield an inversion's vectors under the name that AUTOMATIC1111 gives them in safetensors."""
    if len(words) != 1:
        raise UserError(f"the inversion holds {len(words)} words; only files of one are converted")
    yield "emb_params", next(iter(words.values()))


def _named(value: Any) -> Mapping[Any, Any]:
    """Return what a dictionary, or a module's shell with its parameters, has by name."""
    if isinstance(value, OrderedDict) and "_parameters" in vars(value):
        value = vars(value)["_parameters"]
    return value if isinstance(value, Mapping) else {}


def _others(document: Any) -> list[str]:
    """Return the names of a checkpoint's entries that are no weights."""
    from torch import Tensor

    named = _named(document)
    inside = next((name for name in INSIDE if _named(named.get(name))), None)
    return [
        str(name)
        for name, value in named.items()
        if name != inside
        and not (inside is None and isinstance(value, Tensor))
        and name not in {"image_proj", "ip_adapter"}
    ]

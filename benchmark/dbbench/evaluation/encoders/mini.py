"""Encoders of the embedded world: roles dino and clip in suite mini; not for photographs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dbbench.errors import UserError
from dbbench.mini import weights

if TYPE_CHECKING:
    from dbbench.evaluation.encoders.open_clip import OpenClipEncoder
    from dbbench.evaluation.encoders.timm import TimmEncoder


def load_dino(argument: str, *, device: str) -> TimmEncoder:
    """Return the small self-supervised ViT for role dino; it takes no argument."""
    from dbbench.evaluation.encoders.timm import load_folder

    _refuse_argument("mini-dino", argument)
    return load_folder(_folder("dino"), name="mini-dino", device=device)


def load_clip(argument: str, *, device: str) -> OpenClipEncoder:
    """Return the small image-text model for role clip; it takes no argument."""
    from dbbench.evaluation.encoders.open_clip import load_folder

    _refuse_argument("mini-clip", argument)
    return load_folder(_folder("clip"), name="mini-clip", device=device)


def _folder(model: str) -> Path:
    try:
        return weights(model)
    except FileNotFoundError as error:
        raise UserError(str(error)) from None


def _refuse_argument(name: str, argument: str) -> None:
    if argument:
        raise UserError(f'encoder "{name}:{argument}": {name} takes no argument; write "{name}"')

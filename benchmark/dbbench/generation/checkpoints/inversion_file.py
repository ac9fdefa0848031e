"""Inversions trained elsewhere: a new word and its vectors, from every common kind of file.

{"<toy>": (n, D)}                       diffusers, one text encoder
learned_embeds and learned_embeds_2     diffusers, one file for each text encoder
{"clip_l": (n, D), "clip_g": (n, E)}    several text encoders in one file
{"emb_params": (n, D)}                  AUTOMATIC1111, without a word
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from dbbench.errors import UserError
from dbbench.generation.pipelines.given import note_metadata, read
from dbbench.generation.tokens import ENCODERS, find_vectors, new_word

if TYPE_CHECKING:
    from dbbench.generation.backbone import Backbone

_STEM = "learned_embeds"
# Keys that name no word.
_NAMELESS = {"emb_params", "*"}


def read_inversion(path: Path, backbone: Backbone, *, subject: str) -> tuple[str, list[Tensor]]:
    """Return the word and its vectors (n, D) for each text encoder.

    The word is the file's own, or one made of the subject's name where the file has none. Raises
    UserError if a tensor does not fit the backbone, or if one is left over.
    """
    files = _files(path, count=len(backbone.text_encoders))
    weights = [read(file) for file in files]
    for each in weights:
        note_metadata(each)
        if not each.tensors:
            raise UserError(f"{each.path} holds no vectors; give the file of an inversion")
    if len(files) == 1:
        named = dict(weights[0].tensors)
        word = _word(named, backbone, subject)
        if len(named) == 1 and len(backbone.text_encoders) == 1:
            named = {word: next(iter(named.values()))}
        return word, find_vectors(word, named, backbone)
    keys = {key for each in weights for key in each.tensors}
    if len(keys) != 1 or any(len(each.tensors) != 1 for each in weights):
        names, words = ", ".join(file.name for file in files), ", ".join(sorted(keys))
        raise UserError(
            f"{names} in {files[0].parent} hold the words {words}; give files that hold the same"
            " single word"
        )
    named = dict(zip(ENCODERS, (each.tensors[next(iter(keys))] for each in weights), strict=False))
    return _word(dict.fromkeys(keys, named["clip_l"]), backbone, subject), find_vectors(
        "", named, backbone
    )


def _word(tensors: Mapping[str, Tensor], backbone: Backbone, subject: str) -> str:
    """Return the word that the only key is, if it can be a new word, else the subject's."""
    key = next(iter(tensors))
    usable = len(tensors) == 1 and key not in _NAMELESS | set(ENCODERS)
    if usable and re.fullmatch(r"\S+", key) and key not in backbone.tokenizer.get_vocab():
        return key
    return new_word(subject)


def _files(path: Path, *, count: int) -> list[Path]:
    """Return the files of an inversion, in the order of the text encoders."""
    if path.is_dir():
        first = path / f"{_STEM}.safetensors"
        if not first.is_file():
            found = sorted(path.glob("*.safetensors"))
            if len(found) != 1:
                names = ", ".join(file.name for file in found) or "no .safetensors file"
                raise UserError(f"{path} holds {names}; give the path of the inversion itself")
            return found
    else:
        first = path
    if not first.name.startswith(_STEM):
        return [first]
    rest = first.name.removeprefix(_STEM)
    others = [first.with_name(f"{_STEM}_{number}{rest}") for number in (2, 3)]
    # A folder is taken whole; beside a file, only what this backbone needs.
    wanted = others if path.is_dir() else others[: count - 1]
    return [first, *(file for file in wanted if file.is_file())]

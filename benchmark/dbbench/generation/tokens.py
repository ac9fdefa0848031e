"""Words for a subject: a rare identifier from the vocabulary, or a new placeholder token."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dbbench.data.photographs import Photographs
from dbbench.errors import UserError
from dbbench.generation.architectures import tokenizer_of

if TYPE_CHECKING:
    from dbbench.generation.backbone import Backbone

RARE_TOKENS = 16
# Entries of a file of vectors for a backbone with several text encoders, in their order.
ENCODERS = ("clip_l", "clip_g", "t5")


def choose_identifier(tokenizer: Any, given: str | None, *, seed: int, common: bool = False) -> str:
    """Return the identifier [V]: the `given` word, or a rare one drawn with `seed`.

    Raises UserError if the given word is not a single token, or is a common word without `common`,
    or if the tokenizer has no rare word.
    """
    if given is not None:
        ids = _ids(tokenizer, given)
        remedy = 'such as "sks", or leave it out: a rare one is drawn'
        if len(ids) != 1:
            raise UserError(
                f'the identifier "{given}" is {len(ids)} tokens for this tokenizer; give a word of'
                f" one token, {remedy}"
            )
        if not common and _is_common(tokenizer, given, ids[0]):
            raise UserError(
                f'the identifier "{given}" is a common word with a meaning of its own; give a rare'
                f" word, {remedy}"
            )
        return given
    candidates = rare_tokens(tokenizer)
    if not candidates:
        raise UserError("this tokenizer has no rare token to draw; set the method's identifier")
    generator = torch.Generator().manual_seed(seed)
    return candidates[int(torch.randint(len(candidates), (), generator=generator))]


def rare_tokens(tokenizer: Any) -> list[str]:
    """Return the rarest whole words of three letters, the rarest first.

    The paper draws among high ids that decode to three characters or fewer (arXiv 2208.12242,
    section 3.2). Ids of byte-pair vocabularies are ordered by frequency, so the rarest come last.
    Words of one or two letters are left out, because many are words or abbreviations, and so are
    those of three that mean something: a model may know "tux" or "dbz" well.
    """
    words: list[str] = []
    meanings = known_words()
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1], reverse=True)
    for token, index in vocabulary:
        word = token.removesuffix("</w>")
        if word == token or len(word) != 3 or not (word.isascii() and word.isalpha()):
            continue
        if word.lower() in meanings:
            continue
        if _ids(tokenizer, word) == [index] and tokenizer.decode([index]).strip() == word:
            words.append(word)
            if len(words) == RARE_TOKENS:
                break
    return words


@cache
def known_words() -> frozenset[str]:
    """Return the words of three letters that mean something by themselves (meanings.txt)."""
    text = files("dbbench.generation").joinpath("meanings.txt").read_text("utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return frozenset(word for line in lines for word in line.split())


def new_word(name: str) -> str:
    """Return the placeholder token of a subject's learned vectors."""
    return f"<{re.sub(r'[^a-z0-9]+', '-', name.lower())}>"


def embeddings_of(backbone: Backbone, text: str) -> list[Tensor]:
    """Return for each text encoder the mean (D,) of the token embeddings of `text`."""
    vectors = []
    for part in backbone.text_encoders:
        tokenizer = getattr(backbone.pipeline, tokenizer_of(part))
        text_encoder: Any = backbone.module(part)
        rows = text_encoder.get_input_embeddings().weight[_ids(tokenizer, text)]
        vectors.append(rows.mean(dim=0))
    return vectors


def name_vectors(word: str, vectors: Sequence[Tensor]) -> dict[str, Tensor]:
    """Name a token's vectors, one tensor for each text encoder, as diffusers' files do."""
    names = [word] if len(vectors) == 1 else ENCODERS
    return {
        name: tensor.detach().to("cpu", copy=True)
        for name, tensor in zip(names, vectors, strict=False)
    }


def find_vectors(word: str, file: Mapping[str, Tensor], backbone: Backbone) -> list[Tensor]:
    """Return a token's vectors (n, D) for each text encoder from such a file.

    Raises UserError if the file does not fit this backbone's text encoders.
    """
    single = len(backbone.text_encoders) == 1
    names = [word] if single else list(ENCODERS[: len(backbone.text_encoders)])
    tensors = [file[name] for name in names if name in file]
    expected = [vector.shape[-1] for vector in embeddings_of(backbone, "a")]
    fits = (
        file.keys() <= set(names)
        and all(tensor.ndim in {1, 2} and tensor.is_floating_point() for tensor in tensors)
        and [tensor.shape[-1] for tensor in tensors] == expected
        and len({len(tensor.reshape(-1, tensor.shape[-1])) for tensor in tensors}) == 1
    )
    if not fits:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in file.items())
        raise UserError(
            f"the vectors {shapes} do not fit this backbone's text encoders (widths {expected});"
            " use vectors that were trained on this backbone"
        )
    device = backbone.device
    vectors = [tensor.reshape(-1, tensor.shape[-1]).float().to(device) for tensor in tensors]
    refuse_too_many(vectors, backbone)
    return vectors


def refuse_too_many(vectors: Sequence[Tensor], backbone: Backbone) -> None:
    """Raise UserError where a token has more vectors (n, D) than some text encoder reads."""
    for own, limit, part in zip(vectors, backbone.contexts, backbone.text_encoders, strict=True):
        tokenizer = getattr(backbone.pipeline, tokenizer_of(part))
        room = limit - int(tokenizer.num_special_tokens_to_add())
        if len(own) > room:
            raise UserError(
                f"the learned token has {len(own)} vectors, and this backbone's {part} reads"
                f" {room} tokens of a prompt: most would be cut off; use one of fewer vectors"
            )


def _is_common(tokenizer: Any, word: str, index: int) -> bool:
    """Whether a token is in the frequent half of the vocabulary, or in the data set's texts."""
    dataset = Photographs()
    texts = [subject.class_noun for subject in dataset.subjects]
    texts += [prompt.text for subject in dataset.subjects for prompt in dataset.prompts(subject)]
    known = {part for text in texts for part in re.findall(r"[a-z]+", text.lower())}
    return index < len(tokenizer) / 2 or word.lower() in known


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)

"""Words for a subject: a rare identifier from the vocabulary, or new tokens beside it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dbbench.errors import UserError

RARE_TOKENS = 16


def choose_identifier(tokenizer: Any, given: str | None, *, seed: int) -> str:
    """Return the identifier [V]: the `given` word, or a rare one that `seed` draws.

    Raises UserError where the given word is not a single token, or the tokenizer has no rare one.
    """
    if given is not None:
        count = len(_ids(tokenizer, given))
        if count != 1:
            raise UserError(
                f'the identifier "{given}" is {count} tokens to this tokenizer; give a word of one'
                ' token, such as "sks", or leave it out to have a rare one drawn'
            )
        return given
    candidates = rare_tokens(tokenizer)
    if not candidates:
        raise UserError("this tokenizer has no rare token to draw; set the method's identifier")
    generator = torch.Generator().manual_seed(seed)
    return candidates[int(torch.randint(len(candidates), (), generator=generator))]


def rare_tokens(tokenizer: Any, count: int = RARE_TOKENS) -> list[str]:
    """Return the rarest whole words of at most three letters, the rarest first.

    The paper draws among high ids that decode to three characters or fewer (arXiv 2208.12242,
    section 3.2). Ids of byte-pair vocabularies are ordered by frequency, so the rarest come last.
    One and two letters are left out: as words or abbreviations they mean too much.
    """
    words: list[str] = []
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1], reverse=True)
    for token, index in vocabulary:
        word = token.removesuffix("</w>")
        if word == token or len(word) != 3 or not (word.isascii() and word.isalpha()):
            continue
        if _ids(tokenizer, word) == [index] and tokenizer.decode([index]).strip() == word:
            words.append(word)
            if len(words) == count:
                break
    return words


class ExtendedEmbedding(nn.Module):
    """A token embedding with a few rows of its own beside the frozen matrix, from id `first` on."""

    def __init__(self, embedding: nn.Module, vectors: Tensor, *, first: int) -> None:
        super().__init__()
        self.embedding, self.vectors, self.first = embedding, vectors, first

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (N, L) to embeddings (N, L, D)."""
        new = ids >= self.first
        known = self.embedding(ids.masked_fill(new, 0))
        added = self.vectors[(ids - self.first).clamp(min=0)]
        return torch.where(new[..., None], added, known)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)

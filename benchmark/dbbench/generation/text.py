"""Prompts as a backbone takes them: token ids for each text encoder, then encoded text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import override

RowIndex = slice | list[int] | Tensor
"""Selects texts of a batch."""


@dataclass(frozen=True)
class Tokens:
    """N texts as token ids, (N, L) for each text encoder with its own L."""

    ids: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.ids[0])

    def __getitem__(self, rows: RowIndex) -> Tokens:
        return Tokens(tuple(ids[rows] for ids in self.ids))


@dataclass(frozen=True)
class EncodedText:
    """N encoded texts: hidden states for cross-attention, and pooled vectors if needed."""

    states: Tensor
    """(N, L, D) float32"""
    pooled: Tensor | None = None
    """(N, P) float32, None if the backbone does not use it."""

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: RowIndex) -> EncodedText:
        return EncodedText(self.states[rows], None if self.pooled is None else self.pooled[rows])

    def repeat(self, count: int) -> EncodedText:
        """Return each text `count` times in a row."""
        pooled = None if self.pooled is None else self.pooled.repeat_interleave(count, dim=0)
        return EncodedText(self.states.repeat_interleave(count, dim=0), pooled)

    def zeros(self) -> EncodedText:
        """Return zeros of the same shapes."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return EncodedText(torch.zeros_like(self.states), pooled)

    def arguments(self, negative: EncodedText) -> dict[str, Tensor]:
        """Return the keyword arguments of a diffusers pipeline for these texts and negatives."""
        named = {"prompt_embeds": self.states, "negative_prompt_embeds": negative.states}
        if self.pooled is not None and negative.pooled is not None:
            named["pooled_prompt_embeds"] = self.pooled
            named["negative_pooled_prompt_embeds"] = negative.pooled
        return named


def join(texts: Sequence[EncodedText]) -> EncodedText:
    """Concatenate batches of texts of the same backbone."""
    pooled = [text.pooled for text in texts if text.pooled is not None]
    states = torch.cat([text.states for text in texts])
    return EncodedText(states, torch.cat(pooled) if pooled else None)


class ExtendedEmbedding(nn.Module):
    """A frozen token embedding, extended by the rows `vectors` from id `first` on.

    The rows may be several tensors, each with its own gradient.
    """

    def __init__(self, embedding: nn.Module, vectors: Sequence[Tensor], *, first: int) -> None:
        super().__init__()
        self.embedding, self.vectors, self.first = embedding, tuple(vectors), first

    @override
    def forward(self, ids: Tensor) -> Tensor:
        """Map ids (N, L) to embeddings (N, L, D)."""
        new = ids >= self.first
        known = self.embedding(ids.masked_fill(new, 0))
        added = torch.cat(self.vectors)[(ids - self.first).clamp(min=0)]
        return torch.where(new[..., None], added, known)

"""What prompts are to a backbone: token ids for each of its text encoders, then text states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Rows = int | slice | Sequence[int] | Tensor


@dataclass(frozen=True)
class Tokens:
    """N texts as token ids, (N, L) for each text encoder with its own L."""

    ids: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.ids[0])

    def __getitem__(self, rows: Rows) -> Tokens:
        return Tokens(tuple(_at(ids, rows) for ids in self.ids))


@dataclass(frozen=True)
class Text:
    """N encoded texts: what the denoiser attends to, and where a backbone wants it a summary."""

    states: Tensor
    """(N, L, D) float32"""
    pooled: Tensor | None = None
    """(N, P) float32, None where the backbone has no use for it."""

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: Rows) -> Text:
        pooled = None if self.pooled is None else _at(self.pooled, rows)
        return Text(_at(self.states, rows), pooled)

    def repeat(self, count: int) -> Text:
        """Each text `count` times in a row."""
        pooled = None if self.pooled is None else self.pooled.repeat_interleave(count, dim=0)
        return Text(self.states.repeat_interleave(count, dim=0), pooled)

    def zeros(self) -> Text:
        """As many texts that say nothing at all."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return Text(torch.zeros_like(self.states), pooled)

    def arguments(self, negative: Text) -> dict[str, Tensor]:
        """These texts and the negative ones as the call of any pipeline names them."""
        named = {"prompt_embeds": self.states, "negative_prompt_embeds": negative.states}
        if self.pooled is not None and negative.pooled is not None:
            named["pooled_prompt_embeds"] = self.pooled
            named["negative_pooled_prompt_embeds"] = negative.pooled
        return named


def join(texts: Sequence[Text]) -> Text:
    """Texts one after the other."""
    pooled = [text.pooled for text in texts if text.pooled is not None]
    states = torch.cat([text.states for text in texts])
    return Text(states, torch.cat(pooled) if pooled else None)


def _at(tensor: Tensor, rows: Rows) -> Tensor:
    """The rows of a tensor, always with their own dimension."""
    if isinstance(rows, int):
        rows = slice(rows, rows + 1)
    return tensor[rows if isinstance(rows, slice | Tensor) else list(rows)]


class ExtendedEmbedding(nn.Module):
    """A token embedding with a few rows of its own beside the frozen matrix, from id `first` on.

    The rows may be several tensors, each with gradients of its own.
    """

    def __init__(self, embedding: nn.Module, vectors: Sequence[Tensor], *, first: int) -> None:
        super().__init__()
        self.embedding, self.vectors, self.first = embedding, tuple(vectors), first

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (N, L) to embeddings (N, L, D)."""
        new = ids >= self.first
        known = self.embedding(ids.masked_fill(new, 0))
        added = torch.cat(self.vectors)[(ids - self.first).clamp(min=0)]
        return torch.where(new[..., None], added, known)

"""Identifiers are rare words of one token, in Stable Diffusion's own vocabulary too."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import nn
from transformers import CLIPTokenizer

from dbbench.errors import UserError
from dbbench.generation.text import ExtendedEmbedding
from dbbench.generation.tokens import choose_identifier, known_words, rare_tokens


@pytest.fixture(scope="module")
def clip() -> CLIPTokenizer:
    """CLIP's tokenizer, from the merges that open_clip ships."""
    spec = find_spec("open_clip")
    assert spec is not None
    assert spec.origin is not None
    packed = (Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz").read_bytes()
    lines = gzip.decompress(packed).decode().splitlines()[1 : 49152 - 256 - 2 + 1]
    merges = [tuple(line.split()) for line in lines]
    characters = sorted(ByteLevel.alphabet())
    tokens = [*characters, *(f"{c}</w>" for c in characters), *map("".join, merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)}, merges=merges, model_max_length=77
    )


def test_the_rare_words_of_clip_are_single_tokens_that_end_a_word(clip: CLIPTokenizer) -> None:
    assert clip("sks").input_ids[1:-1] == [48136]  # the vocabulary is the published one
    words = rare_tokens(clip)
    assert len(words) == 16
    for word in words:
        (index,) = clip(word, add_special_tokens=False).input_ids
        assert clip.decode([index]).strip() == word
        assert index > 48136  # rarer than the identifier that most scripts use
        sentence = clip.tokenize(f"a {word} dog")
        assert sentence == ["a</w>", f"{word}</w>", "dog</w>"]


def test_no_drawn_word_means_something(clip: CLIPTokenizer) -> None:
    words = rare_tokens(clip)
    vocabulary = clip.get_vocab()
    for word in ("fck", "tux", "dbz", "muc", "hmv", "ulf", "uwe", "jap", "ssh", "gsp", "pln"):
        assert f"{word}</w>" in vocabulary  # each would be drawn, or nearly
        assert word not in words
    assert words[0] == "waj"


def test_the_list_of_meanings_is_in_order() -> None:
    words = known_words()
    assert len(words) > 2000
    assert all(len(word) == 3 and word.isascii() and word.islower() for word in words)
    assert {"dog", "the", "ben", "usd", "nyc", "bbc"} <= words
    assert "sks" not in words


@pytest.mark.parametrize("word", ["the", "cat", "table", "dog"])
def test_words_of_clip_that_mean_something_are_refused(clip: CLIPTokenizer, word: str) -> None:
    with pytest.raises(UserError, match="is a common word"):
        choose_identifier(clip, word, seed=0)
    assert choose_identifier(clip, "sks", seed=0) == "sks"


def test_the_seed_decides(clip: CLIPTokenizer) -> None:
    drawn = [choose_identifier(clip, None, seed=seed) for seed in (0, 1, 2, 3, 0)]
    assert drawn[0] == drawn[-1]
    assert len(set(drawn)) > 1


def test_only_ids_from_the_first_new_one_on_read_the_new_vectors() -> None:
    embedding, vectors = nn.Embedding(5, 2), nn.Parameter(torch.randn(2, 2))
    extended = ExtendedEmbedding(embedding.requires_grad_(False), [vectors], first=5)
    ids = torch.tensor([[0, 5, 4], [6, 5, 1]])
    expected = torch.cat([embedding.weight, vectors])[ids]
    states = extended(ids)
    assert torch.equal(states, expected)
    states.sum().backward()
    assert vectors.grad is not None
    assert vectors.grad.tolist() == [[2.0, 2.0], [1.0, 1.0]]

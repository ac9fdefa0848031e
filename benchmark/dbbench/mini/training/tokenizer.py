"""The embedded backbone's tokenizer: the words of the prompts, then rare identifiers."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from dbbench.data.prompt import NEUTRAL_TEMPLATES, load_prompts
from dbbench.mini.drawing.canvas import PALETTE, PATTERNS
from dbbench.mini.drawing.nouns import NOUNS

MAX_LENGTH = 24
ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-,.!?'"
START, END = "<|startoftext|>", "<|endoftext|>"

# Rare identifiers: no caption contains them, so they have no meaning for the backbone.
RARE = (
    "sks", "zwx", "ohw", "qvb", "xjy", "kzr", "vqu", "wzj", "jxk", "pfv", "gqx", "bzd",
    "mwq", "xuh", "yvz", "hqj", "ckx", "dvw", "tzq", "lxg", "fjw", "qkp", "uvx", "zpt",
)  # fmt: skip


def words() -> list[str]:
    """Return every word that a caption or prompt of the embedded world may contain."""
    texts = [*PALETTE, *PATTERNS, *NOUNS, *NEUTRAL_TEMPLATES, "an", "and", "a picture of a"]
    texts += [p.render("", "") for live in (False, True) for p in load_prompts(live)]
    found: set[str] = set()
    for text in texts:
        found.update(text.lower().replace("{}", " ").replace("-", " - ").split())
    return sorted(found)


def make_tokenizer() -> Any:
    """Return a CLIPTokenizer in which each word and each rare identifier is one token.

    Merges are added word by word, rare identifiers last, so the vocabulary is always the same.
    """
    from transformers import CLIPTokenizer

    merges: dict[tuple[str, str], int] = {}
    for word in [*words(), *RARE]:
        while len(parts := _split(word, merges)) > 1:
            merges[parts[0], parts[1]] = len(merges)
    # Each character inside a word and at its end, so that any text has tokens.
    alphabet = [c + end for c in ALPHABET for end in ("", "</w>")]
    tokens = dict.fromkeys([*alphabet, START, END, *("".join(pair) for pair in merges)])
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=list(merges),
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=MAX_LENGTH,
    )


def _split(word: str, merges: dict[tuple[str, str], int]) -> list[str]:
    """Split a word by byte-pair encoding: the earliest known pair is merged first."""
    parts = [*word[:-1], f"{word[-1]}</w>"]
    while known := [pair for pair in pairwise(parts) if pair in merges]:
        at = list(pairwise(parts)).index(min(known, key=merges.__getitem__))
        parts[at : at + 2] = ["".join(parts[at : at + 2])]
    return parts

"""The embedded backbone's vocabulary: the words of the prompts, and rare identifiers at its end."""

from __future__ import annotations

import json

from dbbench.mini.canvas import PALETTE, PATTERNS
from dbbench.mini.nouns import NOUNS
from dbbench.mini.world import FRAMES
from dbbench.prompt import load_prompts

MAX_LENGTH = 24
START, END = "<|startoftext|>", "<|endoftext|>"

# Rare identifiers: no caption holds them, so the backbone knows nothing about them.
RARE = (
    "sks", "zwx", "ohw", "qvb", "xjy", "kzr", "vqu", "wzj", "jxk", "pfv", "gqx", "bzd",
    "mwq", "xuh", "yvz", "hqj", "ckx", "dvw", "tzq", "lxg", "fjw", "qkp", "uvx", "zpt",
)  # fmt: skip


def words() -> list[str]:
    """Every word that a caption or a prompt of the embedded world may hold."""
    texts = [*PALETTE, *PATTERNS, *NOUNS, *FRAMES, "an", "and", "a picture of a"]
    texts += [p.render("", "") for live in (False, True) for p in load_prompts(live)]
    found: set[str] = set()
    for text in texts:
        found.update(text.lower().replace("{}", " ").replace("-", " - ").split())
    return sorted(found)


def make_tokenizer():  # type: ignore[no-untyped-def]  # transformers' own class
    """A CLIPTokenizer in which every word of the world, and every rare identifier, is one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    suffix = "</w>"
    learner = Tokenizer(models.BPE(unk_token=END, end_of_word_suffix=suffix))
    learner.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=100_000,
        min_frequency=1,
        end_of_word_suffix=suffix,
        show_progress=False,
        special_tokens=[],
    )
    letters = list("abcdefghijklmnopqrstuvwxyz0123456789-,.!?'")
    # The frequent ones are merged first: what is rare comes last.
    learner.train_from_iterator((words() + letters) * 1000 + list(RARE), trainer)
    model = json.loads(learner.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    # Single letters stand inside a word and at its end: any text has tokens.
    ordered = sorted(vocabulary, key=vocabulary.__getitem__)
    alphabet = [t for t in ordered if len(t.removesuffix(suffix)) == 1]
    missing = [c + s for c in letters for s in ("", suffix) if c + s not in vocabulary]
    rest = [t for t in ordered if t not in set(alphabet)]
    tokens = [*alphabet, *missing, START, END, *rest]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)},
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=MAX_LENGTH,
    )

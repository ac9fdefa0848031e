"""Seeds from names: the same on every machine and in any order of work; all stages use them."""

from __future__ import annotations

import hashlib
import json

SEED_BITS = 48  # Exact in JSON and in a double, and accepted by every generator.


def stable_seed(*parts: str | int) -> int:
    """Return a seed in [0, 2**48) that depends only on the parts and their order."""
    text = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[: SEED_BITS // 8], "big")


def image_seed(run_seed: int, subject: str, prompt_id: str, number: int) -> int:
    """Return the seed of one sample; all methods get the same one, so their noise is paired."""
    return stable_seed("sample", run_seed, subject, prompt_id, number)


def train_seed(run_seed: int, subject: str) -> int:
    """Return the seed of one training; all methods get the same one, as for samples."""
    return stable_seed("train", run_seed, subject)


def prior_seed(class_noun: str, number: int) -> int:
    """Return the seed of one class image; without the run seed, as all runs share class images."""
    return stable_seed("prior", class_noun, number)

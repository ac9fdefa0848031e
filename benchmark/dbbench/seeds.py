"""Seeds from names: the same on every machine, in any order of work; the stages draw from here."""

from __future__ import annotations

import hashlib
import json

SEED_BITS = 48  # Exact in JSON and in a double, and accepted by every generator.


def stable_seed(*parts: str | int) -> int:
    """Return a seed in [0, 2**48) that depends on nothing but the parts and their order."""
    text = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[: SEED_BITS // 8], "big")


def image_seed(run_seed: int, subject: str, prompt_id: str, number: int) -> int:
    """Return the seed of one sample; every method gets the same one, so their noise is paired."""
    return stable_seed("sample", run_seed, subject, prompt_id, number)


def train_seed(run_seed: int, subject: str) -> int:
    """Return the seed of one training; shared by the methods, like the samples' seeds."""
    return stable_seed("train", run_seed, subject)


def prior_seed(class_noun: str, number: int) -> int:
    """Return the seed of one class image; no run seed in it, as all runs share the class images."""
    return stable_seed("prior", class_noun, number)

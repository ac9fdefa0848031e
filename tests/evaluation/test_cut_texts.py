"""Text that a network does not read to its end is said, with the counts of the network's own."""

from itertools import pairwise
from pathlib import Path

import pytest
from tiny_models import CONTEXT, write_transformers

from dbbench.cut_texts import say_cut
from dbbench.evaluation.encoder import Counting, Encoder, load_encoder, say_cut_texts

SHORT = "a dog in the jungle"


def longest(encoder: Encoder) -> int:
    """The most repetitions of a word that move the vector, plus one: found by trying."""
    vectors = encoder.encode_texts([" ".join(["dog"] * n) for n in range(1, 100)])
    same = [(a == b).all() for a, b in pairwise(vectors)]
    return same.index(True) + 1


@pytest.mark.parametrize("kind", ["clip", "siglip", "mini"])
def test_a_text_is_cut_from_the_first_token_that_is_not_read(kind: str, tmp_path: Path) -> None:
    reference = "mini-clip" if kind == "mini" else f"hf:{write_transformers(tmp_path, kind)}"
    encoder = load_encoder(reference, device="cpu")
    assert isinstance(encoder, Counting)
    if kind != "mini":
        assert encoder.context == CONTEXT
    words = longest(encoder)
    whole, cut = (" ".join(["dog"] * n) for n in (words, words + 1))
    assert say_cut_texts(encoder, [SHORT, whole]) == ""
    line = say_cut_texts(encoder, [SHORT, cut])
    assert line.startswith(f"1 of 2 texts is cut: {reference} reads {encoder.context} tokens")
    assert f"the longest has {encoder.context + 1}" in line


def test_open_clips_own_tokenizer_is_counted() -> None:
    import open_clip

    from dbbench.evaluation.encoders.open_clip import OpenClipEncoder

    encoder = OpenClipEncoder.__new__(OpenClipEncoder)
    encoder._tokenizer = open_clip.SimpleTokenizer()
    assert encoder.context == 77
    texts = ["a dog", "dog " * 75, "dog " * 76]
    assert encoder.count_tokens(texts) == [4, 77, 78]


def test_an_encoder_that_does_not_count_says_nothing() -> None:
    class Silent:
        name = "silent"

    assert say_cut_texts(Silent(), ["dog " * 1000]) == ""  # type: ignore[arg-type]


def test_the_line_names_the_longest_text() -> None:
    assert say_cut(["a"], [3], 3, "x") == ""
    assert say_cut([], [], 3, "x") == ""
    line = say_cut(["a", "b" * 80, "b" * 80], [4, 9, 9], 3, "x")
    assert line.startswith("2 of 2 texts are cut: x reads 3 tokens")
    assert line.endswith(f'the longest has 9: "{"b" * 60}..."')

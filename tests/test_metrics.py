"""The metrics are those of arXiv 2208.12242, section 4.2, on any features."""

import numpy as np
import pytest

from dbbench.metric import Features, Protocol, score_real
from dbbench.metrics.clip_i import ClipI
from dbbench.metrics.clip_t import ClipT
from dbbench.metrics.dino import Dino
from dbbench.plugin import load_metric, names


def vectors(count: int, dim: int = 8, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


@pytest.mark.parametrize("metric", [Dino(), ClipI()])
def test_fidelity_equals_the_mean_over_all_pairs(metric: Dino | ClipI) -> None:
    generated, references = vectors(7), vectors(5, seed=1)
    by_definition = [np.mean([cosine(g, r) for r in references]) for g in generated]
    values = metric.score(Features(generated, references=references))
    assert values == pytest.approx(by_definition, abs=1e-6)


def test_clip_t_compares_each_image_with_its_own_prompt() -> None:
    generated, texts = vectors(6), vectors(6, seed=2)
    values = ClipT().score(Features(generated, texts=texts))
    assert values == pytest.approx([cosine(g, t) for g, t in zip(generated, texts, strict=True)])


def test_frozen_values() -> None:
    # Worked by hand from the definition: cosines of (3, 4)/5 with the axes are 0.6 and 0.8.
    generated = np.array([[1, 0], [0.6, 0.8], [0, -1]], np.float32)
    references = np.array([[1, 0], [0, 1], [0.8, 0.6]], np.float32)
    texts = np.array([[0.6, 0.8], [0.6, 0.8], [1, 0]], np.float32)
    features = Features(generated, references=references, texts=texts)
    fidelity = [1.8 / 3, (0.6 + 0.8 + 0.96) / 3, -1.6 / 3]
    assert Dino().score(features) == pytest.approx(fidelity, abs=1e-7)
    assert ClipI().score(features) == pytest.approx(fidelity, abs=1e-7)
    assert ClipT().score(features) == pytest.approx([0.6, 1.0, 0.0], abs=1e-7)
    assert score_real(Dino(), references) == pytest.approx([0.4, 0.3, 0.7], abs=1e-7)


def test_scores_do_not_depend_on_order_or_batch() -> None:
    generated, references = vectors(9), vectors(5, seed=1)
    whole = Dino().score(Features(generated, references=references))
    alone = [Dino().score(Features(g[None], references=references))[0] for g in generated]
    turned = Dino().score(Features(generated[::-1].copy(), references=references[::-1].copy()))
    assert whole == pytest.approx(alone, abs=1e-12)
    assert whole == pytest.approx(turned[::-1], abs=1e-12)


def test_features_need_not_be_normalised_for_a_cosine() -> None:
    generated, references = vectors(4), vectors(3, seed=1)
    scaled = Features(generated * np.float32(7), references=references * np.float32(0.1))
    plain = Dino().score(Features(generated, references=references))
    assert Dino().score(scaled) == pytest.approx(plain, abs=1e-6)


def test_a_copy_of_the_only_reference_scores_one() -> None:
    one = vectors(1)
    assert Dino().score(Features(one, references=one)) == pytest.approx([1.0])


def test_real_images_are_never_compared_with_themselves() -> None:
    references = vectors(5)
    off_diagonal = [
        cosine(references[i], references[j]) for i in range(5) for j in range(5) if i != j
    ]
    values = score_real(Dino(), references)
    assert len(values) == 5
    assert values.mean() == pytest.approx(np.mean(off_diagonal), abs=1e-6)
    with_self = score_real(Dino(), references, Protocol(name="other", self_pairs=True))
    assert with_self.mean() > values.mean()


def test_real_images_without_anything_to_compare_have_no_score() -> None:
    assert len(score_real(Dino(), vectors(1))) == 0
    assert len(score_real(ClipT(), vectors(4))) == 0


@pytest.mark.parametrize("metric", [Dino(), ClipI(), ClipT()])
def test_missing_features_are_refused(metric: Dino | ClipI | ClipT) -> None:
    with pytest.raises(ValueError, match="needs the features"):
        metric.score(Features(vectors(2)))


def test_features_of_another_size_or_length_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="do not match"):
        Dino().score(Features(vectors(2), references=vectors(2, dim=5)))
    with pytest.raises(ValueError, match="do not match"):
        ClipT().score(Features(vectors(2), texts=vectors(3)))
    with pytest.raises(ValueError, match="zero or non-finite"):
        Dino().score(Features(np.zeros((1, 8), np.float32), references=vectors(2)))
    with pytest.raises(ValueError, match="no features"):
        Dino().score(Features(vectors(1), references=np.zeros((0, 8), np.float32)))


def test_every_built_in_metric_can_be_loaded_and_says_what_it_needs() -> None:
    assert {"dino", "clip-i", "clip-t"} <= set(names("metrics"))
    for name in ("dino", "clip-i", "clip-t"):
        metric = load_metric(name)
        assert metric.name == name
        assert metric.compares in {"references", "text"}
        assert metric.role in {"dino", "clip"}

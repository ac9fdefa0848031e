"""The metrics are those of arXiv 2208.12242, section 4.2, on any features."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dbbench.evaluation.metric import (
    CLASS_PROMPT,
    Comparison,
    Features,
    Metric,
    evaluate,
    load_metric,
    real_ceiling,
    score_real,
)
from dbbench.evaluation.metrics.clip_i import ClipI
from dbbench.evaluation.metrics.clip_t import ClipT
from dbbench.evaluation.metrics.collapse import Collapse
from dbbench.evaluation.metrics.copy import Copy
from dbbench.evaluation.metrics.dino import Dino
from dbbench.evaluation.metrics.dinov2_i import DinoV2I
from dbbench.evaluation.metrics.div import Div
from dbbench.evaluation.metrics.lpips import Lpips
from dbbench.evaluation.metrics.pres import Pres
from dbbench.plugins import names


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
    assert Pres().score(features) == pytest.approx(fidelity, abs=1e-7)
    assert DinoV2I().score(features) == pytest.approx(fidelity, abs=1e-7)
    assert Copy().score(features) == pytest.approx([1.0, 0.96, 0.0], abs=1e-7)
    assert Collapse().score(features) == pytest.approx([0.3, -0.1, -0.4], abs=1e-7)
    distances = np.array([[0, 0.2, 0.4], [0.2, 0, 0.9], [0.4, 0.9, 0]])
    assert Div().score(Features(generated, distances=distances)) == pytest.approx([0.3, 0.55, 0.65])
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
    with_self = score_real(Dino(), references, self_pairs=True)
    assert with_self.mean() > values.mean()


def test_real_images_without_anything_to_compare_have_no_score() -> None:
    assert len(score_real(Dino(), vectors(1))) == 0
    assert len(score_real(ClipT(), vectors(4))) == 0


def test_pres_is_dino_of_class_images_and_of_nothing_else() -> None:
    prompts = ["jungle", CLASS_PROMPT, "snow", CLASS_PROMPT]
    generated, references = vectors(4), vectors(5, seed=1)
    features = Features(generated, references=references)
    pres, dino = evaluate(Pres(), prompts, features), evaluate(Dino(), prompts, features)
    by_definition = [np.mean([cosine(g, r) for r in references]) for g in generated]
    assert pres[[1, 3]] == pytest.approx([by_definition[1], by_definition[3]], abs=1e-6)
    assert dino[[0, 2]] == pytest.approx([by_definition[0], by_definition[2]], abs=1e-6)
    assert np.isnan(pres[[0, 2]]).all()
    assert np.isnan(dino[[1, 3]]).all()
    assert not Pres.higher_is_better


def test_div_is_the_mean_over_all_pairs_of_a_prompt() -> None:
    prompts = ["a", "b", "a", "alone", "b", "a"]
    random = np.random.default_rng(0).uniform(size=(6, 6))
    distances = (random + random.T) * (1 - np.eye(6))
    values = evaluate(Div(), prompts, Features(np.zeros((6, 0), np.float32), distances=distances))
    pairs = {"a": [(0, 2), (0, 5), (2, 5)], "b": [(1, 4)]}
    for prompt, own in pairs.items():
        found = values[[i for i, name in enumerate(prompts) if name == prompt]]
        assert found.mean() == pytest.approx(np.mean([distances[pair] for pair in own]))
    assert values[0] == pytest.approx((distances[0, 2] + distances[0, 5]) / 2)
    assert np.isnan(values[3])


def test_collapse_is_the_mean_over_all_pairs_of_a_prompt() -> None:
    generated = vectors(5)
    prompts = ["a", "b", "a", "a", "b"]
    values = evaluate(Collapse(), prompts, Features(generated))
    pairs = [cosine(generated[i], generated[j]) for i, j in ((0, 2), (0, 3), (2, 3))]
    assert values[[0, 2, 3]].mean() == pytest.approx(np.mean(pairs), abs=1e-6)
    assert values[1] == pytest.approx(cosine(generated[1], generated[4]), abs=1e-6)
    same = evaluate(Collapse(), ["a", "a"], Features(np.repeat(vectors(1), 2, axis=0)))
    assert same == pytest.approx([1.0, 1.0])


def test_copy_is_the_highest_similarity_to_any_one_reference() -> None:
    generated, references = vectors(6), vectors(4, seed=1)
    values = Copy().score(Features(generated, references=references))
    assert values == pytest.approx([max(cosine(g, r) for r in references) for g in generated])
    given_back = Copy().score(Features(references[2:3], references=references))
    assert given_back == pytest.approx([1.0])
    ceiling = real_ceiling(references)
    pairs = [cosine(references[i], references[j]) for i in range(4) for j in range(i)]
    assert ceiling == pytest.approx(max(pairs), abs=1e-6)
    assert real_ceiling(references[:1]) is None


def test_real_images_against_the_first_alone_leave_it_out_of_its_own_comparison() -> None:
    references = vectors(4)
    to_first = [cosine(r, references[0]) for r in references]
    assert score_real(Dino(), references, against=1) == pytest.approx(to_first[1:], abs=1e-6)
    with_self = score_real(Dino(), references, against=1, self_pairs=True)
    assert with_self == pytest.approx(to_first, abs=1e-6)


@given(
    rows=arrays(np.float32, (6, 5), elements=st.floats(-4, 4, width=32)),
    order=st.permutations(range(6)),
)
def test_every_metric_follows_its_image_whatever_the_order(
    rows: np.ndarray, order: list[int]
) -> None:
    rows = rows + np.array([20, 0, 0, 0, 0], np.float32)  # no zero vector
    prompts = ["a", "a", "b", "b", "b", CLASS_PROMPT]
    distances = np.abs(rows[:, None] - rows[None]).sum(axis=-1)
    features = Features(
        rows,
        references=vectors(3, 5),
        texts=vectors(6, 5),
        distances=distances,
        real_distances=distances[:, :3],
    )
    turned = np.array(order)
    for name in names("metrics"):
        metric = load_metric(name)
        values = evaluate(metric, prompts, features)
        again = evaluate(metric, [prompts[i] for i in order], features.take(turned))
        assert again == pytest.approx(values[turned], abs=1e-9, nan_ok=True)
        if metric.role != "lpips":
            assert (np.abs(values[~np.isnan(values)]) <= 1 + 1e-9).all()


@pytest.mark.parametrize(
    "metric",
    [Dino(), ClipI(), ClipT(), Pres(), Div(), Lpips(), Copy(), DinoV2I()],
    ids=lambda m: m.name,
)
def test_missing_features_are_refused(metric: Metric) -> None:
    with pytest.raises(ValueError, match="needs the"):
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
    for name in ("dino", "clip-i", "clip-t", "pres", "div", "dinov2-i", "copy", "collapse"):
        metric = load_metric(name)
        assert metric.name == name
        assert metric.compares in get_args(Comparison)
        assert metric.role in {"dino", "clip", "dinov2", "lpips"}

"""Simulated raters with known preferences and error rates: to plan studies and to test them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from dbbench.advance import Advance, silent
from dbbench.errors import UserError
from dbbench.seeds import stable_seed
from dbbench.study.analysis.shares import FIRST, SECOND, UNDECIDED, Codes, Floats, Votes, verdicts
from dbbench.study.analysis.shares import majority_shares as shares_by_majority
from dbbench.study.answers.store import Admission, AnswerOutcome, Store
from dbbench.study.design.study import CHOICES, Pair

EVENNESS = 20.0
"""How similar the raters' error rates are: the weight of the Beta distribution they come from."""
SECONDS = 8.0
"""Median time for an answer."""
MOST_RATERS = 100_000


@dataclass(frozen=True)
class Crowd:
    """A population of simulated raters.

    The true preference in a pair is the better method with the first of `shares`, the worse with
    the second, neither with the third; shares add up to 1. A rater's answer is the true preference.
    With a probability around `error` it is one of the two other answers instead. A share `careless`
    of raters answers at random, also in attention checks. With probability `dropout` a rater stops
    before the end.
    """

    shares: tuple[float, float, float]
    error: float = 0.1
    careless: float = 0.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise UserError(f"the shares {self.shares} must be 0 or more and add up to 1 (or 100)")
        for name in ("error", "careless", "dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"--{name} is {getattr(self, name)}; it must be 0 to 1")

    def expected(self, raters_per_pair: int) -> tuple[Floats, Floats]:
        """Return the exact expected shares of all answers, and of majority votes."""
        error = (1 - self.careless) * self.error + self.careless * 2 / 3
        # 3 x 3 probabilities: true preference -> answer of a random rater.
        given: Floats = np.full((3, 3), error / 2) + np.eye(3) * (1 - 1.5 * error)
        majority = np.zeros((3, 3))
        for ballot in product(range(3), repeat=raters_per_pair):
            counts = np.bincount(ballot, minlength=3)[None]
            majority[:, verdicts(counts)[0]] += np.prod(given[:, list(ballot)], axis=1)
        true = np.array(self.shares)
        return true @ given, true @ majority

    def with_expected(
        self, wanted: Sequence[float], raters_per_pair: int, *, majority: bool
    ) -> Crowd:
        """Return the crowd whose answers, or majority votes, have the `wanted` shares on average.

        Raises UserError if raters with this error rate cannot give them.
        """
        corners = [replace(self, shares=(a, b, c)) for a, b, c in np.eye(3).tolist()]
        matrix = np.array([c.expected(raters_per_pair)[int(majority)] for c in corners])
        true = np.linalg.solve(matrix.T, np.array(wanted))
        if true.min() < 0:
            raise UserError(f"raters with {self.error:.0%} errors cannot give the shares {wanted}")
        a, b, c = (true / true.sum()).tolist()
        return replace(self, shares=(a, b, c))

    def errors(self, raters: int, rng: np.random.Generator) -> Floats:
        """Return each rater's own error rate; it is 2/3 for a careless one."""
        own = np.full(raters, self.error)
        if 0 < self.error < 1:
            own = rng.beta(EVENNESS * self.error, EVENNESS * (1 - self.error), size=raters)
        return np.where(rng.random(raters) < self.careless, 2 / 3, own)


def simulate_votes(
    crowd: Crowd, *, pairs: int, raters_per_pair: int, questions_per_rater: int, seed: int
) -> Votes:
    """Return the answers of a study without dropouts, in which "first" is the better method."""
    rng = np.random.default_rng(stable_seed("study votes", seed))
    true = rng.choice(3, size=pairs, p=crowd.shares)
    rounds = [rng.permutation(pairs) for _ in range(raters_per_pair)]
    per_round = -(-pairs // questions_per_rater)
    rater = np.concatenate(
        [i * per_round + np.arange(pairs) // questions_per_rater for i in range(raters_per_pair)]
    )
    pair = np.concatenate(rounds)
    errors = crowd.errors(per_round * raters_per_pair, rng)
    return Votes(rater, pair, _answers(true[pair], errors[rater], rng))


def simulate_study(
    store: Store,
    crowd: Crowd,
    *,
    order: Sequence[str] = (),
    seed: int,
    advance: Advance = silent,
) -> int:
    """Let simulated raters answer a study until it is complete; return their number.

    `order` names the methods, the best first; by default it is alphabetical. Raises UserError if
    the database has raters already.
    """
    study = store.study
    progress = store.progress()
    if progress.raters:
        raise UserError(
            "the database has raters already; simulated raters need an empty one: remove"
            " simulated.sqlite in the study's folder, or name another with --database"
        )
    ranks = {method: i for i, method in enumerate(order or study.methods)}
    if set(ranks) != set(study.methods):
        raise UserError(f"--order must name each of {', '.join(study.methods)} once")
    rng = np.random.default_rng(stable_seed("study raters", seed))
    preferences = rng.choice(3, size=len(study.pairs), p=crowd.shares).tolist()
    true = {pair.id: own for pair, own in zip(study.pairs, preferences, strict=True)}
    raters = answers = now = 0
    while raters < MOST_RATERS:
        name = f"simulated-{raters:05d}"
        if store.admit(name, "simulated", now=now) is not Admission.ADMITTED:
            if store.progress().answers >= progress.wanted:
                break
            now += study.lease_minutes * 60_000 + 1  # Until the dropouts' assignments have expired.
            continue
        raters += 1
        items = store.questionnaire(name, now=now) or []
        error = float(crowd.errors(1, rng)[0])
        stop = rng.integers(1, len(items)) if rng.random() < crowd.dropout else len(items)
        for item in items[:stop]:
            pair = study.by_id[item.pair_id]
            choice = CHOICES[_choose(pair, true, ranks, error, rng)]
            seconds = float(rng.lognormal(np.log(SECONDS), 0.5))
            now += int(seconds * 1000)
            outcome = store.answer(name, pair.id, choice, round(seconds, 3), now=now)
            assert outcome is AnswerOutcome.KEPT, outcome
            answers += not item.is_check
        store.finish(name, now=now)
        advance(answers, progress.wanted, {})
    return raters


@dataclass(frozen=True)
class Prospect:
    """The expected precision and power of a study of some size."""

    pairs: int
    raters: int
    answers: int
    half_width: float
    """Mean half width of the 95% interval of the difference between the two methods' shares."""
    power: float
    """Share of the simulated studies in which that interval is above zero."""


def plan_study(
    crowd: Crowd,
    *,
    pairs: int,
    raters_per_pair: int,
    questions_per_rater: int,
    studies: int,
    seed: int,
    advance: Advance = silent,
) -> Prospect:
    """Simulate many studies of one size; return their precision and how often they decide."""
    halves, decided = [], 0
    for number in range(studies):
        votes = simulate_votes(
            crowd,
            pairs=pairs,
            raters_per_pair=raters_per_pair,
            questions_per_rater=questions_per_rater,
            seed=stable_seed("study plan", seed, pairs, number),
        )
        found = shares_by_majority(votes)
        if found.difference_low is not None and found.difference_high is not None:
            halves.append((found.difference_high - found.difference_low) / 2)
            decided += found.difference_low > 0
        advance(number + 1, studies, {})
    raters = -(-pairs // questions_per_rater) * raters_per_pair
    half = float(np.mean(halves)) if halves else float("nan")
    return Prospect(pairs, raters, pairs * raters_per_pair, half, decided / studies)


def _choose(
    pair: Pair,
    true: dict[str, int],
    ranks: dict[str, int],
    error: float,
    rng: np.random.Generator,
) -> int:
    """Return 0 for left, 1 for right, 2 for undecided."""
    if pair.answer is not None:
        # Only careless raters fail attention checks.
        careless = error >= 2 / 3
        return int(rng.integers(3)) if careless else CHOICES.index(pair.answer)
    given = int(_answers(np.array([true[pair.id]]), np.array([error]), rng)[0])
    better_is_left = ranks[pair.left.method] < ranks[pair.right.method]
    if given == UNDECIDED or better_is_left:
        return given
    return SECOND if given == FIRST else FIRST


def _answers(true: Codes, errors: Floats, rng: np.random.Generator) -> Codes:
    other = (true + rng.integers(1, 3, size=len(true))) % 3
    given: Codes = np.where(rng.random(len(true)) < errors, other, true).astype(np.int64)
    return given

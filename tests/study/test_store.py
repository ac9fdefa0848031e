"""Every pair gets its raters, nobody sees a pair twice, and an answer is never lost or doubled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from study_databases import NewDatabase, new_database, postgresql  # noqa: F401
from study_run import write_run

from dbbench.errors import UserError
from dbbench.study.answers.database import metadata, open_database, question_table
from dbbench.study.answers.store import Admission, AnswerOutcome, Store
from dbbench.study.design.create import StudySettings, create_study
from dbbench.study.design.study import Study
from dbbench.study.design.texts import default_texts

# ruff: noqa: F811 - fixtures are imported by name

HOUR = 3_600_000


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """20 pairs x 3 raters; 10 questions and 2 attention checks a rater: 6 raters are enough."""
    folder = tmp_path_factory.mktemp("study")
    run = write_run(folder / "run", prompts=4, images=2, subjects=("dog", "teapot"))
    settings = StudySettings(question="subject", pairs=20, questions_per_rater=10, quota=6)
    return create_study([run], folder / "study", settings, default_texts("subject", 12))


@pytest.fixture
def store(study: Study, new_database: NewDatabase) -> Iterator[Store]:
    database = open_database(new_database())
    yield Store(study, database)
    database.close()


def answer_all(store: Store, rater: str, *, now: int = 0, most: int = 99) -> int:
    items = store.questionnaire(rater, now=now)
    assert items is not None
    open_ = [item for item in items if item.choice is None][:most]
    for item in open_:
        assert store.answer(rater, item.pair_id, "left", 1.5, now=now) is AnswerOutcome.KEPT
    return len(open_)


def raters_by_pair(store: Store) -> Counter[str]:
    pairs = {pair.id for pair in store.study.pairs}
    return Counter(row["pair"] for row in store.answers() if row["pair"] in pairs)


def test_the_least_number_of_raters_is_enough(store: Store) -> None:
    for number in range(6):
        assert store.admit(f"r{number}", "link", now=0) is Admission.ADMITTED
        assert answer_all(store, f"r{number}") == 12
        assert store.finish(f"r{number}")
    assert set(raters_by_pair(store).values()) == {3}
    assert len(raters_by_pair(store)) == 20
    assert store.admit("late", "link", now=0) is Admission.NOTHING_FREE
    assert store.questionnaire("late") is None
    progress = store.progress()
    assert (progress.answers, progress.wanted, progress.complete_pairs) == (60, 60, 20)
    assert (progress.raters, progress.finished, progress.simulated) == (6, 6, False)


def test_admission_is_once_and_the_order_stays(store: Store) -> None:
    store.admit("r", "open", now=0)
    first = store.questionnaire("r", now=0)
    store.admit("r", "open", now=0)
    assert store.questionnaire("r", now=0) == first
    assert first is not None
    assert not first[0].is_check
    assert [item.is_check for item in first].count(True) == 2
    assert len({item.pair_id for item in first}) == 12


def test_an_answer_is_kept_once_and_never_changed(store: Store) -> None:
    store.admit("r", "link", now=0)
    items = store.questionnaire("r", now=0)
    assert items is not None
    pair = items[0].pair_id
    assert store.answer("r", pair, "left", 2.0, now=5) is AnswerOutcome.KEPT
    assert store.answer("r", pair, "left", 9.0, now=6) is AnswerOutcome.SAME
    assert store.answer("r", pair, "right", 9.0, now=7) is AnswerOutcome.REPEATED
    (row,) = store.answers()
    assert (row["choice"], row["seconds"], row["answered_at"]) == ("left", 2.0, 5)


def test_answers_to_what_was_not_asked_are_refused(store: Store) -> None:
    store.admit("r", "link", now=0)
    items = store.questionnaire("r", now=0)
    assert items is not None
    asked = {item.pair_id for item in items}
    other = next(pair.id for pair in store.study.pairs if pair.id not in asked)
    assert store.answer("r", other, "left", 1.0) is AnswerOutcome.FOREIGN
    assert store.answer("r", "no such pair", "left", 1.0) is AnswerOutcome.FOREIGN
    assert store.answer("nobody", items[0].pair_id, "left", 1.0) is AnswerOutcome.FOREIGN
    assert store.answers() == []


def test_what_a_drop_out_leaves_goes_to_others(store: Store) -> None:
    store.admit("gone", "link", now=0)
    answer_all(store, "gone", most=4)
    for number in range(7):
        name = f"r{number}"
        if store.admit(name, "link", now=2 * HOUR) is Admission.ADMITTED:
            answer_all(store, name, now=2 * HOUR)
    assert set(raters_by_pair(store).values()) == {3}
    assert len(raters_by_pair(store)) == 20


def test_who_comes_back_late_gets_other_questions_and_none_twice(store: Store) -> None:
    store.admit("slow", "link", now=0)
    before = store.questionnaire("slow", now=0)
    assert before is not None
    answer_all(store, "slow", most=3)
    for number in range(4):
        store.admit(f"r{number}", "link", now=2 * HOUR)
        answer_all(store, f"r{number}", now=2 * HOUR)
    lost = store.answer("slow", before[-1].pair_id, "left", 1.0, now=2 * HOUR)
    after = store.questionnaire("slow", now=2 * HOUR)
    assert after is not None
    assert [item.pair_id for item in after[:3]] == [item.pair_id for item in before[:3]]
    assert lost in (AnswerOutcome.LOST, AnswerOutcome.KEPT)
    answer_all(store, "slow", now=2 * HOUR)
    answered = Counter((row["rater"], row["pair"]) for row in store.answers())
    assert max(answered.values()) == 1
    assert max(raters_by_pair(store).values()) <= 3


def test_a_rested_rater_goes_on_where_nobody_took_over(store: Store) -> None:
    store.admit("slow", "link", now=0)
    before = store.questionnaire("slow", now=0)
    assert store.questionnaire("slow", now=5 * HOUR) == before
    assert answer_all(store, "slow", now=5 * HOUR) == 12


def test_the_open_link_has_a_quota_that_drop_outs_give_back(study: Study, store: Store) -> None:
    few = study.model_copy(update={"quota": 2})
    store = Store(few, store.database)
    assert store.admit("a", "open", now=0) is Admission.ADMITTED
    assert store.admit("b", "open", now=0) is Admission.ADMITTED
    assert store.admit("c", "open", now=0) is Admission.FULL
    assert store.admit("invited", "link", now=0) is Admission.ADMITTED
    answer_all(store, "a")
    assert store.finish("a")
    assert not store.finish("b")
    assert store.admit("c", "open", now=2 * HOUR) is Admission.ADMITTED
    assert store.admit("d", "open", now=2 * HOUR) is Admission.FULL


def test_raters_at_once_never_share_a_place(store: Store) -> None:
    def rate(number: int) -> int:
        rater = f"r{number}"
        if store.admit(rater, "link", now=0) is not Admission.ADMITTED:
            return 0
        items = store.questionnaire(rater, now=0)
        assert items is not None
        kept = 0
        for item in items * 2:  # Every answer twice, as a double click gives it.
            kept += store.answer(rater, item.pair_id, "right", 1.0, now=0) is AnswerOutcome.KEPT
        return kept

    with ThreadPoolExecutor(12) as pool:
        kept = sum(pool.map(rate, range(12)))
    rows = store.answers()
    assert len(rows) == kept == len({(row["rater"], row["pair"]) for row in rows})
    assert set(raters_by_pair(store).values()) == {3}


def test_the_database_itself_refuses_what_must_not_be(store: Store) -> None:
    store.admit("r", "link", now=0)
    row = {"rater_id": "r", "position": 99, "slot": None, "is_check": False}
    taken = store.answers, store.questionnaire("r", now=0)
    assert taken[1]
    bad = [
        row | {"pair_id": taken[1][0].pair_id},  # a question twice
        row | {"pair_id": "x", "position": 0},  # two questions in one place
        row | {"pair_id": "x", "choice": "left"},  # an answer without its time
        row | {"pair_id": "x", "choice": "both", "answered_at": 1},
        row | {"pair_id": "x", "rater_id": "nobody"},
    ]
    for values in bad:
        with pytest.raises(sa.exc.IntegrityError), store.database.writing() as connection:
            connection.execute(sa.insert(question_table).values(values))


def test_migrations_give_the_schema_that_the_code_uses(new_database: NewDatabase) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    url = new_database()
    open_database(url).close()
    database = open_database(url)
    with database.reading() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []
        checks = sa.inspect(connection).get_check_constraints("question")
    database.close()
    assert {check["name"] for check in checks} == {
        "known_choice",
        "answer_is_whole",
        "checks_have_no_slot",
    }


def test_a_database_belongs_to_one_study(study: Study, store: Store) -> None:
    other = study.model_copy(update={"id": "another"})
    with pytest.raises(UserError, match="another study"):
        Store(other, store.database)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense", "cannot be read; write it like"),
        ("mysql://me:hidden@host/x", "use sqlite"),
        ("postgresql://me:hidden@127.0.0.1:1/x", "cannot be used"),
        ("sqlite:////no/such/folder/x.sqlite", "cannot be used"),
    ],
)
def test_database_that_cannot_be_used_is_one_line_without_the_password(
    url: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_database(url)
    assert "hidden" not in str(caught.value)


def test_sqlite_confirms_only_what_is_on_the_disk(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path}/a.sqlite")
    with database.reading() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    database.close()

"""Experiments stand on another suite; their rows are one method under several conditions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import installed, plugin_folder, run, suite, suite_file  # noqa: F401
from typer.testing import CliRunner

from dbbench.cli import app
from dbbench.data.prompt import load_applications
from dbbench.data.subject import load_subjects
from dbbench.errors import UserError
from dbbench.generation.method import Checkpoint
from dbbench.suites.inheritance import PAPER, read_suite, suite_names
from dbbench.suites.suite import Suite, load_suite

EXPERIMENTS = [name for name in suite_names() if "table" in read_suite(name)]
SUBJECTS = {subject.name: subject for subject in load_subjects()}


def test_every_experiment_of_the_paper_is_there():
    assert set(EXPERIMENTS) == set(PAPER)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_costs_on_each_suite_what_training_costs_there(name: str):
    written = read_suite(name)
    for below in ("mini", "paper"):
        experiment, base = load_suite(name, below), load_suite(below)
        assert experiment.name == f"{name}-{below}"
        assert (experiment.banner, experiment.source) == (base.banner, base.source)
        assert (experiment.backbone, experiment.sample) == (base.backbone, base.sample)
        for row, own in experiment.methods.items():
            plugin = experiment.row(row).plugin
            said = {**written["methods"][row], **own} if row in written["methods"] else own
            for key, value in base.methods[plugin].items():
                if key not in written["methods"][row]:
                    assert said[key] == value, (row, key)


def test_an_experiment_stands_on_the_suite_for_this_machine_or_on_the_one_asked_for():
    for arguments, name in (([], "table1-mini"), (["--on=paper", "--data=."], "table1-paper")):
        call = ["run", "--suite=table1", "--device=cpu", "--dry-run", "--subjects=dog", *arguments]
        result = CliRunner().invoke(app, call)
        assert name in result.output or isinstance(result.exception, UserError)
    with pytest.raises(UserError, match='unknown suite to extend "moni"; did you mean "mini"'):
        load_suite("table1", "moni")
    with pytest.raises(UserError, match="does not extend another suite"):
        load_suite("paper", "mini")


def test_wrong_nouns_are_wrong_for_every_class_and_no_noun_is_none():
    ablation = load_suite("class-noun-ablation", "mini")
    nouns = {subject.class_noun for subject in SUBJECTS.values()}
    for subject in SUBJECTS.values():
        assert ablation.row("correct").noun(subject) == subject.class_noun
        assert ablation.row("none").noun(subject) == ""
        assert ablation.row("wrong").noun(subject) in nouns - {subject.class_noun}


def test_an_ablation_of_fifteen_subjects_has_every_class_noun_once():
    chosen = load_suite("prior-ablation", "mini").subjects.split(",")
    assert len({SUBJECTS[name].class_noun for name in chosen}) == len(chosen) == 15


def test_applications_cover_what_the_paper_shows_and_suit_the_subject():
    live, objects = load_applications(True), load_applications(False)
    assert {p.category for p in live} >= {
        "recontextualization", "art", "view", "property", "accessory", "expression", "comics",
    }  # fmt: skip
    assert not {"expression", "accessory"} & {p.category for p in objects}
    assert [p.id for p in live if p.category == "view"] == [
        "view-top", "view-bottom", "view-side", "view-back",
    ]  # fmt: skip
    assert all(" wearing " not in p.render("", "vase") for p in objects)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"a": {"references": 0}}, "a.references = 0"),
        ({"a": {"class_noun": 3}}, "a.class_noun = 3"),
        ({"a": {}, "b": {"base": "a", "at": 2}}, "b.at = 2"),
        ({"b": {"base": "a", "at": 0.5}}, '"at" needs the name of a row'),
    ],
)
def test_a_row_that_makes_no_sense_is_named(suite: Suite, rows, message):  # noqa: F811
    with pytest.raises(ValueError, match=message):
        Suite.model_validate(suite.model_dump() | {"methods": rows})


def test_conditions_reach_the_training_and_share_what_they_can(suite: Suite, tmp_path: Path):  # noqa: F811
    rows = {
        "few": {"base": "tinted", "prior_images": 1, "references": 2},
        "tinted": {},
        "elsewhere": {"base": "tinted", "class_noun": {"dog": "can"}},
    }
    varied = Suite.model_validate(
        suite.model_dump() | {"methods": rows, "drift": {"count": 2, "prompt": "a {class_noun}"}}
    )
    assert not run(varied, tmp_path, subjects="dog").failures

    def metadata(row: str) -> dict[str, object]:
        path = tmp_path / "runs" / row / "dog/0/checkpoint/checkpoint.json"
        return json.loads(path.read_text())["metadata"]

    assert (metadata("few")["priors"], metadata("tinted")["priors"]) == (1, 3)
    assert (metadata("few")["references"], metadata("tinted")["references"]) == (2, 5)
    assert sorted(folder.name for folder in (tmp_path / "prior").iterdir()) == ["can", "dog"]
    images = json.loads((tmp_path / "runs/few/dog/0/samples/samples.json").read_text())["images"]
    bare = [image for image in images if image["category"] == "class"]
    assert [image["text"] for image in bare] == ["a dog", "a dog"]
    assert len(images) == 25 + 2


def test_metrics_of_prompts_leave_the_bare_class_noun_out_and_pres_sees_it_alone(
    suite: Suite,  # noqa: F811
    tmp_path: Path,
):
    import pandas as pd

    changes = {"drift": {"count": 2, "prompt": "a {class_noun}"}, "metrics": ["dino", "pres"]}
    drifting = Suite.model_validate(suite.model_dump() | changes)
    run(drifting, tmp_path, subjects="dog", methods=["plain"])
    scores = pd.read_parquet(tmp_path / "scores.parquet")
    drawn = scores[scores["method"] == "plain"]
    assert dict(drawn.groupby("metric").size()) == {"dino": 25, "pres": 2}
    assert set(drawn.loc[drawn["metric"] == "pres", "prompt"]) == {"class-noun"}
    ranking = pd.read_csv(tmp_path / "leaderboard.csv").set_index("method")
    assert ranking.loc["plain", "pres_rank"] == 1


@pytest.mark.parametrize(
    "method", ["dreambooth", "dreambooth_lora", "textual_inversion", "custom_diffusion"]
)
def test_rows_that_look_into_one_training_train_once(
    suite: Suite,  # noqa: F811
    tmp_path: Path,
    method: str,
):
    short = {"base": method, "steps": 4, "learning_rate": 0.05, "batch_size": 1}
    rows = {
        "early": {"base": "trained", "at": 0.1},
        "quarter": {"base": "trained", "at": 0.25},
        "whole": {"base": "trained", "at": 1.0},
        "trained": short if method == "textual_inversion" else short | {"prior_weight": 0.0},
    }
    varied = Suite.model_validate(suite.model_dump() | {"methods": rows})
    assert not run(varied, tmp_path, subjects="dog").failures
    trainings = sorted(p.parent.parent.parent.name for p in tmp_path.glob("runs/*/*/*/checkpoint"))
    assert trainings == ["trained"]
    folder = tmp_path / "runs/trained/dog/0/checkpoint"
    final, whole, quarter, early = (
        Checkpoint.load(folder, at=at).files for at in (None, 1.0, 0.25, 0.1)
    )
    assert final.keys() == whole.keys() == quarter.keys() == early.keys()
    for name, tensors in final.items():
        assert all((whole[name][key] == value).all() for key, value in tensors.items())
        assert any((quarter[name][key] != value).any() for key, value in tensors.items())
        # A tenth of four steps is none, and the first is what there is.
        assert all((quarter[name][key] == value).all() for key, value in early[name].items())
    pictures = {row: (tmp_path / f"runs/{row}/dog/0/samples/jungle/0.png") for row in rows}
    assert pictures["whole"].read_bytes() == pictures["trained"].read_bytes()
    assert pictures["quarter"].read_bytes() != pictures["trained"].read_bytes()
    assert run(varied, tmp_path, subjects="dog").done == 0


def test_a_method_that_keeps_nothing_on_its_way_cannot_be_looked_into(
    suite: Suite,  # noqa: F811
    tmp_path: Path,
):
    rows = {"half": {"base": "plain", "at": 0.5}, "plain": {}}
    varied = Suite.model_validate(suite.model_dump() | {"methods": rows})
    (failure,) = run(varied, tmp_path, subjects="dog").failures
    assert "plain saves no checkpoints during training" in failure.reason
    assert not (tmp_path / "runs/plain/dog/0/checkpoint").exists()


def test_the_common_word_of_the_identifier_suite_can_be_trained_on():
    from transformers import CLIPTokenizer

    from dbbench.generation.tokens import choose_identifier
    from dbbench.mini import weights

    tokenizer = CLIPTokenizer.from_pretrained(weights("backbone") / "tokenizer")
    row = load_suite("identifier", "mini").methods["common-word"]
    word, common = row["identifier"], row["common_identifier"]
    assert choose_identifier(tokenizer, word, seed=0, common=common) == word
    with pytest.raises(UserError, match="is a common word"):
        choose_identifier(tokenizer, "dog", seed=0)
    assert choose_identifier(tokenizer, "dog", seed=0, common=True) == "dog"

from __future__ import annotations

from pathlib import Path

import pytest

from dbbench.data.dataset import load_dataset, select_subjects
from dbbench.errors import UserError
from dbbench.generation.method import load_method, setting_names
from dbbench.plugins import names
from dbbench.suites.inheritance import bases, read_suite, suite_names
from dbbench.suites.runs import Run, plan_runs
from dbbench.suites.suite import Suite, load_suite, on_dataset, override


@pytest.mark.parametrize("name", suite_names())
def test_a_shipped_suite_names_plugins_and_settings_that_exist(name: str) -> None:
    for suite in [load_suite(name, on) for on in bases(read_suite(name)) or (None,)]:
        _names_what_exists(suite, name)


def _names_what_exists(suite: Suite, name: str) -> None:
    assert suite.name.startswith(name)
    assert set(suite.metrics) <= set(names("metrics"))
    assert {ref.partition(":")[0] for ref in suite.encoders.values()} <= set(names("encoders"))
    for row in suite.methods:
        plugin = suite.row(row).plugin
        load_method(plugin, suite.row(row).method_settings(setting_names(plugin)))
    dataset = load_dataset(suite.source)
    assert select_subjects(dataset, suite.subjects)
    assert all(suite.prompts.of(dataset, subject) for subject in dataset.subjects)
    if suite.table is not None:
        rows = {"real-images", *suite.methods}
        claims = suite.table.claims
        assert {name for c in claims for name in (c.first, c.second)} <= rows
        assert {claim.metric for claim in claims} <= set(suite.metrics)
        assert {row.method for row in suite.table.published} <= rows
        assert set(suite.table.labels) <= rows


def test_the_paper_suite_is_the_papers_recipe() -> None:
    suite = load_suite("paper")
    dreambooth = load_method("dreambooth", suite.methods["dreambooth"]).settings.model_dump()
    assert (dreambooth["steps"], dreambooth["learning_rate"]) == (1000, 5e-6)
    assert (dreambooth["prior_weight"], dreambooth["batch_size"]) == (1.0, 1)
    assert suite.prior.prompt.format(class_noun="dog") == "a dog"
    assert (suite.prior.count, suite.prior.sampler.scheduler) == (1000, "ddpm")
    assert suite.sample.images_per_prompt == 4
    assert all(expected.source for expected in suite.expected)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("trian.steps=3", 'unknown key "trian"; did you mean "train"'),
        ("sample.stesp=3", 'unknown key "sample.stesp"; did you mean "sample.steps"?'),
        ("prior.sampler.guidence=3", 'did you mean "prior.sampler.guidance"?'),
        ("sample.steps=0", "sample.steps = 0: input should be greater than or equal to 1"),
        ("sample.steps=many", "sample.steps = 'many': input should be a valid integer"),
        ("prior.prompt=a dog", 'prior prompt "a dog" has no {class_noun} in it'),
        ("banner.text=x", '"banner" is a single value and has no keys'),
        ("sample.steps", "write it as --set train.steps=400"),
    ],
)
def test_a_bad_setting_is_named_with_its_remedy(assignment: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        override(load_suite("paper"), [assignment])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_suite_suggests_the_nearest() -> None:
    with pytest.raises(UserError, match='unknown suite "papr"; did you mean "paper"'):
        load_suite("papr")


def test_a_suite_file_that_is_no_toml_or_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no suite file"):
        load_suite(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(UserError, match=r"bad\.toml.* is not valid TOML"):
        load_suite(tmp_path / "bad.toml")
    (tmp_path / "bare.toml").write_text('name = "x"')
    with pytest.raises(UserError, match='"backbone" is missing'):
        load_suite(tmp_path / "bare.toml")


def test_values_are_toml_and_else_text() -> None:
    suite = override(
        load_suite("paper"), ["seeds=[0, 7]", "backbone.path=./my model", "sample.guidance = 3.5"]
    )
    assert suite.seeds == (0, 7)
    assert suite.backbone.path == "./my model"
    assert suite.sample.guidance == 3.5


def test_a_common_setting_replaces_the_methods_own_and_a_later_one_wins() -> None:
    known = ["steps", "learning_rate"]
    suite = override(load_suite("paper"), ["train.steps=7"])
    assert suite.row("dreambooth").method_settings(known)["steps"] == 7
    assert suite.row("textual_inversion").method_settings(known)["steps"] == 7
    assert suite.row("textual_inversion").method_settings(known)["learning_rate"] == 0.01
    suite = override(suite, ["methods.dreambooth.steps=9"])
    assert suite.row("dreambooth").method_settings(known)["steps"] == 9
    assert suite.row("textual_inversion").method_settings(known)["steps"] == 7


def test_a_common_setting_reaches_only_methods_that_have_it() -> None:
    suite = override(load_suite("paper"), ["train.n_vectors=4"])
    assert "n_vectors" not in suite.row("dreambooth").method_settings(["steps"])
    assert suite.row("textual_inversion").method_settings(["steps", "n_vectors"])["n_vectors"] == 4


def test_runs_are_every_combination_once() -> None:
    suite = load_suite("paper")
    runs = plan_runs(suite, ["dog", "can", "dog"], ["dreambooth"], [1, 0])
    assert runs == (
        Run("dreambooth", "dog", 1),
        Run("dreambooth", "can", 1),
        Run("dreambooth", "dog", 0),
        Run("dreambooth", "can", 0),
    )
    assert len(plan_runs(suite, ["dog"])) == len(suite.methods) * len(suite.seeds)


def test_photographs_on_a_drawn_suite_get_a_name_and_a_banner_of_their_own() -> None:
    mini = load_suite("mini")
    changed = on_dataset(mini, "photos")
    assert (changed.name, changed.source) == ("mini-photos", "photos")
    assert changed.banner != mini.banner
    assert "mean little" in str(changed.banner)
    assert on_dataset(load_suite("paper"), "photos") == load_suite("paper")


def test_textual_inversion_in_paper_is_its_authors_own_setting_for_stable_diffusion() -> None:
    # v1-finetune.yaml: base rate 5e-3, scaled by one GPU and a batch of 2; 6100 steps.
    settings = load_suite("paper").methods["textual_inversion"]
    assert settings == {"steps": 6100, "learning_rate": 0.01, "batch_size": 2, "n_vectors": 1}
    assert settings["learning_rate"] == pytest.approx(5e-3 * settings["batch_size"])


def test_frozen_weights_are_float32_unless_asked_for() -> None:
    assert load_suite("mini").backbone.frozen == "float32"
    assert override(load_suite("sdxl"), ["backbone.frozen=bfloat16"]).backbone.frozen == "bfloat16"
    with pytest.raises(UserError, match="frozen"):
        override(load_suite("sdxl"), ["backbone.frozen=float16"])

"""Claims about `import dbbench`: what a user and a plug-in get from it, and what it costs."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from assembly import assembled
from finished_run import DOGS, write_run
from harness import installed, plugin_folder, suite, suite_file  # noqa: F401 - fixtures
from PIL import Image
from typer.testing import CliRunner

import dbbench
from dbbench.cli import app
from dbbench.evaluation.scores import REAL
from dbbench.mini.drawing.world import draw, draw_scene
from dbbench.mini.source import MiniWorld, identities
from dbbench.suites.suite import Suite

# ruff: noqa: F811 - fixtures are imported by name

PROMPTS = ("jungle", "snow")
SUBJECTS = ("dog", "teapot")
MINI = {"dino": "mini-dino", "clip": "mini-clip"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`ours/<subject>/<prompt>/<n>.png` and `photos/<subject>/<n>.png`, drawn."""
    import numpy as np

    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    for subject in MiniWorld().subjects:
        if subject.name in SUBJECTS:
            for number, reference in enumerate(MiniWorld().images(subject, 64)):
                save(reference.image, folder / "photos" / subject.name / f"{number}.png")
            for prompt in PROMPTS:
                for number in range(2):
                    scene = draw_scene(identities()[subject.name], rng, place=prompt)
                    save(draw(scene), folder / "ours" / subject.name / prompt / f"{number}.png")
    return folder


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.png"))


def values(scores: pd.DataFrame) -> list[tuple[str, float]]:
    """The metric and value of each row, in an order that no name decides."""
    return sorted(zip(scores["metric"], scores["value"], strict=True))


def test_importing_costs_nothing() -> None:
    program = (
        "import sys; before = set(sys.modules); import dbbench; dir(dbbench);"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    heavy = {"torch", "pandas", "numpy", "PIL", "pydantic", "rich", "typer", "matplotlib"}
    assert not heavy & set(result.stdout.split())


@pytest.mark.parametrize("name", dbbench.__all__)
def test_every_name_is_there_and_in_the_documentation(name: str, repository: Path) -> None:
    assert getattr(dbbench, name) is not None
    assert name in dir(dbbench)
    text = (repository / "docs" / "python.md").read_text("utf-8")
    assert f"`{name}`" in text or f"dbbench.{name}" in text


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'scor'"):
        _ = dbbench.scor  # type: ignore[attr-defined]


def test_every_function_and_class_is_documented() -> None:
    objects = {name: getattr(dbbench, name) for name in dbbench.__all__}
    of_ours = [n for n, o in objects.items() if inspect.isclass(o) or inspect.isfunction(o)]
    assert [name for name in of_ours if not objects[name].__doc__] == []
    for function in (dbbench.run, dbbench.score, dbbench.load_run):
        assert f"dbbench.{function.__name__}(" in (function.__doc__ or "")


def test_mypy_sees_the_types_of_what_is_imported_late(tmp_path: Path, repository: Path) -> None:
    assembled(repository, tmp_path)
    program = tmp_path / "program.py"
    program.write_text(
        "import dbbench\n"
        "reveal_type(dbbench.load_run)\n"
        "reveal_type(dbbench.Checkpoint({}, {}).losses)\n"
        "dbbench.score('a', sweet='mini')\n"
    )
    # Without the other packages, whose types would take minutes to read.
    options = ["--no-site-packages", "--ignore-missing-imports", "--follow-imports=silent"]
    command = [sys.executable, "-m", "mypy", *options, "program.py"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "-> dbbench.api.results.RunResults" in result.stdout
    assert 'Revealed type is "list[float]"' in result.stdout.replace("builtins.", "")
    assert 'Unexpected keyword argument "sweet"' in result.stdout
    assert result.stdout.count("error:") == 1, result.stdout


def test_score_is_equal_to_the_command_to_the_last_digit(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = dbbench.score(world / "ours", world / "photos", suite="mini", quiet=False)
    assert "encoding" in capsys.readouterr().err
    command = ["score", str(world / "ours"), "--references", str(world / "photos")]
    command += ["--protocol", "paper", "--encoder", "dino=mini-dino,clip=mini-clip"]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    written = pd.read_parquet(tmp_path / "scores.parquet")
    written = written.loc[written["method"] != REAL].reset_index(drop=True)
    assert list(scores.columns) == ["method", "subject", "prompt", "image", "metric", "value"]
    assert len(scores) == 8 * 3
    for column in scores.columns:
        assert scores[column].tolist() == written[column].tolist()
    line = "encoders of the embedded world, not comparable with published numbers"
    assert scores.attrs["banner"] == f"mini-clip, mini-dino: {line}"


def test_images_in_memory_score_as_their_files_do(world: Path) -> None:
    paths = files(world / "ours" / "dog")
    real = files(world / "photos" / "dog")
    prompts = [path.parent.name for path in paths]
    expected = dbbench.score(paths, real, prompts=prompts, subject="dog", suite="mini")
    images = [Image.open(path) for path in paths]
    scores = dbbench.score(
        images,
        [Image.open(path) for path in real],
        prompts=prompts,
        subject="dog",
        suite="mini",
    )
    assert scores["value"].tolist() == expected["value"].tolist()
    assert scores["image"].unique().tolist() == ["0", "1", "2", "3"]
    assert expected["image"].unique().tolist() == [str(path) for path in paths]
    whole = dbbench.score(world / "ours", world / "photos", suite="mini")
    assert values(whole[whole["subject"] == "dog"]) == values(expected)


def test_two_pictures_and_two_prompts_need_no_name_at_all(world: Path) -> None:
    pair = [Image.open(path) for path in files(world / "ours" / "dog" / "snow")]
    real = [Image.open(path) for path in files(world / "photos" / "dog")]
    prompts = ["a dog in the snow", "a sks dog sleeping"]
    scores = dbbench.score(pair, references=real, prompts=prompts, encoders=MINI, identifier="sks")
    assert scores["prompt"].unique().tolist() == ["a-dog-in-the-snow", "a-sks-dog-sleeping"]
    assert scores["subject"].unique().tolist() == ["subject"]
    named = dbbench.score(
        pair, real, prompts=["snow", "a dog sleeping"], class_noun="dog", encoders=MINI
    )
    assert scores["value"].tolist() == named["value"].tolist()


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "CMYK", "1", "I;16"])
def test_a_picture_of_any_mode_scores_as_its_file_does(
    world: Path, tmp_path: Path, mode: str
) -> None:
    source = Image.open(files(world / "ours")[0])
    if mode == "I;16":
        image = source.convert("L").convert("I").point(lambda v: v * 257).convert("I;16")
    else:
        image = source.convert(mode)
    if mode == "RGBA":
        image.putalpha(90)
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    image.save(path)
    same = dbbench.score(
        [image, path], files(world / "photos/dog"), prompts="a dog", encoders=MINI,
        metrics=["dino"],
    )  # fmt: skip
    assert same["value"][0] == same["value"][1]


def test_a_turned_photograph_is_turned_back(world: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(files(world / "ours")[0]).save(tmp_path / "turned.jpg", exif=exif)
    same = dbbench.score(
        [Image.open(tmp_path / "turned.jpg"), tmp_path / "turned.jpg"],
        files(world / "photos/dog"), prompts="a dog", encoders=MINI, metrics=["dino"],
    )  # fmt: skip
    assert same["value"][0] == same["value"][1]


def test_a_table_of_several_methods_and_subjects(world: Path) -> None:
    table = pd.DataFrame(
        {"image": path, "subject": path.parts[-3], "prompt": path.parts[-2], "method": method}
        for method in ("a", "b")
        for path in files(world / "ours")
    )
    real: dict[str, Any] = {s: files(world / "photos" / s) for s in SUBJECTS}
    scores = dbbench.score(table, real, suite="mini", metrics=("dino", "clip-t"))
    assert scores.groupby(["method", "metric"]).size().tolist() == [8] * 4
    assert values(scores[scores["method"] == "a"]) == values(scores[scores["method"] == "b"])
    by_folder = dbbench.score(world / "ours", world / "photos", suite="mini")
    both = by_folder[by_folder["metric"] != "clip-i"]
    assert values(scores[scores["method"] == "a"]) == values(both)


def test_references_in_one_flat_folder(world: Path) -> None:
    table = pd.DataFrame({"image": [str(p) for p in files(world / "ours/dog")]})
    expected = dbbench.score(
        world / "ours", world / "photos", suite="mini", metrics=["clip-i"]
    ).query("subject == 'dog'")
    scores = dbbench.score(
        table.assign(prompt="snow"), str(world / "photos/dog"), encoders=MINI, metrics=["clip-i"],
        subject="dog",
    )  # fmt: skip
    assert values(scores) == values(expected)


def test_what_is_no_image_is_warned_of_and_the_rest_is_scored(world: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    paths = [tmp_path / "empty.png", files(world / "ours")[0]]
    with pytest.warns(UserWarning, match=r"empty\.png is empty"):
        scores = dbbench.score(
            paths, files(world / "photos/dog"), prompts="a dog in snow", encoders=MINI
        )
    assert len(scores) == 3
    assert len(scores.attrs["refused"]) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"prompts": ["a", "b", "c"]}, "4 images and 3 prompts"),
        ({"prompts": None}, "images need their prompts"),
        ({"references": None}, "which subject is it"),
        ({"references": "/nowhere"}, "there is no folder /nowhere"),
        ({"references": []}, 'no reference images of "subject"'),
        ({"images": [3]}, "cannot read a int as an image"),
        ({"images": [Image.new("HSV", (9, 9))]}, "convert it first: image.convert"),
        ({"images": "/nowhere", "prompts": None, "references": None}, "there is no /nowhere"),
        ({"metrics": ["dinno"]}, 'did you mean "dino"'),
        ({"metrics": ["copy"]}, "flags images and has no values"),
        ({"metrics": "dino"}, "is a list of names"),
        ({"metrics": ["div"], "suite": "mini"}, "no encoder for role lpips"),
        ({"suite": "minni"}, 'did you mean "mini"'),
        ({"device": "tpu"}, 'unknown device "tpu"'),
        ({"prompts": "jungle"}, "has no class noun"),
        ({"encoders": None}, "HF_HUB_OFFLINE is set; unset it, or download model.safetensors"),
    ],
)
def test_a_mistake_is_one_line_with_its_remedy(
    world: Path, call: dict[str, Any], message: str
) -> None:
    usual: dict[str, Any] = {
        "images": files(world / "ours/dog"),
        "references": files(world / "photos/dog"),
        "prompts": "a dog in the jungle",
        "encoders": MINI,
    }
    with pytest.raises(dbbench.UserError, match=message) as caught:
        dbbench.score(**usual | call)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dbbench.RunResults:
    out = tmp_path_factory.mktemp("finished")
    return dbbench.load_run(write_run(out, subjects=DOGS, spread=0.01))


def test_a_run_is_tables(results: dbbench.RunResults) -> None:
    assert results.suite.name == "mini"
    assert results.banner == results.suite.banner
    board = results.leaderboard.set_index("method")
    assert board.index.tolist() == [REAL, "dreambooth", "textual_inversion"]
    own = results.scores.query("method == 'dreambooth' and metric == 'dino'")
    expected = own.groupby("subject")["value"].mean().mean()
    assert board.loc["dreambooth", "dino"] == pytest.approx(expected)
    assert (board["dino_low"] <= board["dino"]).all()
    assert (board["dino"] <= board["dino_high"]).all()
    assert "dreambooth" in set(results.differences["a"])


def test_the_images_of_a_run_join_its_scores(results: dbbench.RunResults) -> None:
    images = results.images
    assert len(images) == 2 * len(DOGS) * 3 * 2
    assert all(path.is_file() for path in images["path"])
    assert images["text"].str.contains("dog").all()
    keys = ["method", "subject", "seed", "prompt", "image"]
    joined = results.scores.merge(images, on=keys)
    assert len(joined) == (results.scores["method"] != REAL).sum()
    assert len(results.references) == len(DOGS) * 3
    assert results.references["credit"].str.startswith("photo by").all()


def test_a_damaged_list_of_images_is_one_line(tmp_path: Path) -> None:
    out = write_run(tmp_path)
    (out / "runs" / "dreambooth" / "dog" / "0" / "samples" / "samples.json").write_text("{")
    with pytest.raises(dbbench.UserError, match="samples.json cannot be read .* dbbench verify"):
        _ = dbbench.load_run(out).images


def test_a_folder_without_results_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(dbbench.UserError, match="holds no results"):
        dbbench.load_run(tmp_path)


SMALL = {
    "methods.dreambooth.steps": 2,
    "prior.count": 2,
    "prior.sampler.steps": 2,
    "sample.steps": 2,
    "sample.images_per_prompt": 1,
    "prompts.first": 2,
}


def test_a_run_is_what_the_command_makes(tmp_path: Path) -> None:
    made = dbbench.run(
        "mini", subjects=["dog", "teapot"], methods=["dreambooth"], out=tmp_path / "ours",
        settings=SMALL, device="cpu", quiet=True,
    )  # fmt: skip
    command = ["run", "--suite", "mini", "--subjects", "dog,teapot", "--methods", "dreambooth"]
    command += ["--device", "cpu", "--out", str(tmp_path / "theirs")]
    command += [part for key, value in SMALL.items() for part in ("--set", f"{key}={value}")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    other = dbbench.load_run(tmp_path / "theirs")
    pd.testing.assert_frame_equal(made.scores, other.scores, check_exact=True)
    pd.testing.assert_frame_equal(made.leaderboard, other.leaderboard, check_exact=True)
    assert made.images.groupby(["method", "subject"]).size().tolist() == [2, 2]
    assert made.banner == "mini: embedded world, not comparable with published numbers"

    scored = dbbench.score(made.folder)
    keys = ["method", "subject", "prompt", "metric"]
    joined = scored.merge(made.scores, on=keys, suffixes=("", "_run"))
    assert len(joined) == len(scored) == 2 * 2 * 3
    assert joined["value"].to_numpy() == pytest.approx(joined["value_run"].to_numpy(), abs=1e-6)


@pytest.fixture
def class_noun() -> Any:
    """The third party's module, under a name of its own."""
    path = Path(__file__).parent / "third_party" / "dbbench_class_noun.py"
    spec = importlib.util.spec_from_file_location("a_module_of_mine", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules[spec.name] = module
    yield module
    del sys.modules[spec.name]


def test_methods_are_names_files_and_classes(suite: Suite, class_noun: Any, tmp_path: Path) -> None:
    call: dict[str, Any] = {"subjects": "can", "device": "cpu", "quiet": True}
    call["settings"] = {"prompts.first": 2}
    results = dbbench.run(suite, methods=class_noun.ClassNoun, out=tmp_path / "out", **call)
    assert set(results.leaderboard["method"]) == {REAL, "class_noun"}
    again = dbbench.run(
        suite, methods=["plain", f"{class_noun.__file__}:ClassNoun"], out=tmp_path / "out", **call
    )
    assert set(again.leaderboard["method"]) == {REAL, "class_noun", "plain"}
    assert not again.leaderboard["note"].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"suite": "minni"}, 'did you mean "mini"'),
        ({"suite": "paper"}, "needs the photographs"),
        ({"subjects": ["dogg"]}, 'did you mean "dog"'),
        ({"methods": ["dreamboth"]}, 'did you mean "dreambooth"'),
        ({"methods": [Path]}, "Path"),
        ({"methods": [3]}, "3 is no class"),
        ({"settings": {"train.stesp": 3}}, "stesp"),
        ({"jobs": 0}, "cannot run with jobs=0"),
        ({"device": "tpu"}, 'unknown device "tpu"'),
    ],
)
def test_a_run_that_cannot_be_is_one_line(
    call: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(dbbench.UserError, match=message) as caught:
        dbbench.run(**{"suite": "mini", "device": "cpu", "quiet": True} | call)
    assert "\n" not in str(caught.value)


def test_what_failed_is_named_and_the_rest_is_done(suite: Suite, tmp_path: Path) -> None:
    call: dict[str, Any] = {"out": tmp_path, "device": "cpu", "quiet": True, "methods": "plain"}
    fails = {"methods.plain.fail_on": "dog", "prompts.first": 2}
    options = dbbench.RunOptions(retries=0)
    with pytest.raises(dbbench.UserError, match="1 failed; .* train plain/dog/0: .*cannot learn"):
        dbbench.run(suite, subjects=["dog", "can"], settings=fails, options=options, **call)
    assert dbbench.load_run(tmp_path).images["subject"].unique().tolist() == ["can"]

"""Anyone's images are read from folders, manifests, data sets and runs; what is wrong is named."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dbbench.data.photographs import Photographs
from dbbench.data.prompt import load_prompts
from dbbench.data.subject import load_subjects
from dbbench.errors import UserError
from dbbench.evaluation.metric import CLASS_PROMPT
from dbbench.image_sets import read_submission
from dbbench.image_sets.image_set import ImageRow, accept
from dbbench.suites.suite import load_suite

PHOTOS = Photographs()


def png(path: Path, colour: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(path)
    return path


def row(subject: str = "dog", prompt: str = "jungle", **values: Any) -> ImageRow:
    return ImageRow(
        where="row 1", image=Path("a.png"), name="a.png", subject=subject, prompt=prompt, **values
    )


def only(*rows: ImageRow, identifier: str = "") -> Any:
    found = accept(rows, dataset=PHOTOS, method="ours", identifier=identifier)
    assert not found.refused
    return found.pictures[0]


def refusal(*rows: ImageRow) -> str:
    found = accept(rows, dataset=PHOTOS, method="ours", identifier="")
    return found.refused[0]


def test_prompt_id_gives_every_form_of_its_text() -> None:
    picture = only(row(), identifier="sks")
    assert picture.text("as-given") == "a sks dog in the jungle"
    assert picture.text("without-identifier") == "a dog in the jungle"
    assert picture.text("without-subject") == "a in the jungle"
    assert only(row()).text("as-given") == "a dog in the jungle"


@given(
    subject=st.sampled_from([s.name for s in load_subjects()]),
    number=st.integers(0, 24),
    token=st.sampled_from(["", "sks", "xxy5syt00", "<dog-toy>", "olis tok"]),
)
def test_text_of_any_prompt_is_recognised_with_its_identifier(
    subject: str, number: int, token: str
) -> None:
    known = {s.name: s for s in load_subjects()}[subject]
    template = load_prompts(known.live)[number]
    given_text = template.render(token, known.class_noun)
    picture = only(row(subject, given_text))
    assert picture.prompt == template.id
    assert picture.text("as-given") == given_text
    assert picture.text("without-identifier") == template.render("", known.class_noun)


def test_other_text_becomes_a_prompt_of_its_own() -> None:
    picture = only(row(prompt="a sks dog {riding} a bike", method="m"), identifier="sks")
    assert picture.prompt.startswith("a-sks-dog-riding-a-bike-")
    assert picture.text("as-given") == "a sks dog {riding} a bike"
    assert picture.text("without-identifier") == "a dog {riding} a bike"
    assert picture.text("without-subject") == "a {riding} a bike"


def test_bare_class_noun_is_no_picture_of_the_subject() -> None:
    assert only(row(prompt="a dog")).prompt == CLASS_PROMPT
    assert only(row(prompt="class-noun")).text("as-given") == "a dog"


@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (row(prompt="jungel"), 'unknown prompt "jungel"; did you mean "jungle"'),
        (row("dogg"), 'unknown subject "dogg"; did you mean "dog"'),
        (row("teapot", "red-hat"), 'prompt "red-hat" is not for object subjects'),
    ],
)
def test_what_does_not_exist_is_refused_with_the_nearest_right_one(
    wrong: ImageRow, line: str
) -> None:
    assert line in refusal(wrong)


def test_an_image_named_twice_counts_once() -> None:
    found = accept([row(), row(), row(prompt="snow")], dataset=PHOTOS, method="ours", identifier="")
    assert [picture.prompt for picture in found.pictures] == ["jungle", "snow"]
    assert "counted once" in found.refused[0]


def test_own_subject_needs_a_class_noun() -> None:
    found = accept(
        [row("my_cat")], dataset=PHOTOS, method="m", identifier="", own_subjects=["my_cat"]
    )
    assert "has no class noun" in found.refused[0]
    found = accept(
        [row("my_cat", class_noun="cat")],
        dataset=PHOTOS,
        method="m",
        identifier="",
        own_subjects=["my_cat"],
    )
    assert found.pictures[0].text("without-identifier") == "a cat in the jungle"


def test_folder_is_read_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        png(tmp_path / f"ours/dog/jungle/{number}.png")
    png(tmp_path / "ours/dog/loose.png")
    (tmp_path / "ours/dog/snow").mkdir()
    png(tmp_path / "ours/dogg/jungle/0.png")
    found = read_submission(tmp_path / "ours", scratch=tmp_path, dataset=PHOTOS)
    assert [p.name for p in found.pictures] == [f"dog/jungle/{n}.png" for n in (1, 2, 10)]
    assert found.methods == ("ours",)
    assert len(found.refused) == 3
    assert any("not in a prompt's folder" in line for line in found.refused)
    assert any("dog/snow/: no images" in line for line in found.refused)


def manifest(folder: Path, suffix: str, **columns: Any) -> Path:
    table = pd.DataFrame(columns)
    path = folder / f"list{suffix}"
    match suffix:
        case ".csv":
            table.to_csv(path, index=False)
        case ".jsonl":
            table.to_json(path, orient="records", lines=True)
        case _:
            table.to_parquet(path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_manifests_of_every_kind_say_the_same(tmp_path: Path, suffix: str) -> None:
    png(tmp_path / "a.png")
    path = manifest(
        tmp_path,
        suffix,
        image=["a.png", "a.png", "a.png"],
        subject=["dog", "teapot", "dog"],
        prompt=["jungle", "a sks teapot in the snow", None],
        text=[None, None, "a dog in the snow"],
        method=["x", "y", "x"],
        seed=[0, 1, 1],
        guidance=[7.5, 7.5, 7.5],
    )
    found = read_submission(path, scratch=tmp_path, dataset=PHOTOS)
    assert [(p.method, p.subject, p.prompt, p.seed) for p in found.pictures] == [
        ("x", "dog", "jungle", 0),
        ("y", "teapot", "snow", 1),
        ("x", "dog", "snow", 1),
    ]
    assert found.pictures[0].image == tmp_path / "a.png"
    assert found.pictures[1].given == "a sks teapot in the snow"


@pytest.mark.parametrize(
    ("columns", "line"),
    [
        ({"imge": ["a"], "subject": ["dog"], "prompt": ["jungle"]}, 'if it is "imge"'),
        ({"image": ["a"], "subjects": ["dog"], "prompt": ["jungle"]}, 'if it is "subjects"'),
        ({"image": ["a"], "subject": ["dog"], "promt": ["jungle"]}, 'if it is "promt"'),
        ({"image": ["a"], "subject": ["dog"]}, "no column prompt or text"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_wrong_column_is_named_with_the_right_one(
    tmp_path: Path, columns: dict[str, Any], line: str, suffix: str
) -> None:
    with pytest.raises(UserError, match=line):
        read_submission(manifest(tmp_path, suffix, **columns), scratch=tmp_path, dataset=PHOTOS)


def test_bad_rows_are_named_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    good = {"image": "a.png", "subject": "dog", "prompt": "jungle"}
    lines = [good, good | {"subject": ""}, good | {"seed": "x"}, good | {"image": ""}]
    path.write_text("\n".join([*map(json.dumps, lines), "{broken", "[1]"]))
    found = read_submission(path, scratch=tmp_path, dataset=PHOTOS)
    assert len(found.pictures) == 1
    assert len(found.refused) == 5
    assert any("line 5: not a JSON object" in line for line in found.refused)
    assert any("row 3" in line and 'seed "x"' in line for line in found.refused)


def test_images_inside_of_a_data_set_are_read(tmp_path: Path) -> None:
    import datasets

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (9, 0, 0)).save(buffer, "PNG")
    image = {"bytes": buffer.getvalue(), "path": "x.png"}
    columns = {"image": [image], "subject": ["dog"], "prompt": ["jungle"]}
    features = datasets.Features(
        {"image": datasets.Image(), "subject": datasets.Value("string")}
        | {"prompt": datasets.Value("string")}
    )
    saved = datasets.Dataset.from_dict(columns, features=features)
    saved.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"test": saved}).save_to_disk(str(tmp_path / "splits"))
    (tmp_path / "hub" / "data").mkdir(parents=True)
    saved.to_parquet(str(tmp_path / "hub" / "data" / "test-0.parquet"))
    for name in ("saved", "splits", "hub"):
        scratch = tmp_path / f"scratch-{name}"
        scratch.mkdir()
        found = read_submission(tmp_path / name, scratch=scratch, dataset=PHOTOS)
        assert [p.prompt for p in found.pictures] == ["jungle"]
        assert found.pictures[0].image.read_bytes() == buffer.getvalue()


def test_image_folder_of_the_datasets_library_is_a_manifest(tmp_path: Path) -> None:
    png(tmp_path / "set" / "a.png")
    (tmp_path / "set" / "metadata.csv").write_text(
        "file_name,subject,text\na.png,dog,a dog in the jungle\n"
    )
    found = read_submission(tmp_path / "set", scratch=tmp_path, dataset=PHOTOS)
    assert found.pictures[0].image == tmp_path / "set" / "a.png"
    assert found.pictures[0].prompt == "jungle"


def test_finished_run_brings_its_references_encoders_and_banner(tmp_path: Path) -> None:
    suite = load_suite("mini")
    out = tmp_path / "run"
    samples = out / "runs/dreambooth/dog/0/samples"
    png(samples / "jungle/0.png")
    png(out / "references/dog/00.png")
    (out / "suite.json").write_text(json.dumps({"suite": suite.model_dump(mode="json")}))
    entry = {"file": "jungle/0.png", "prompt": "jungle", "category": "recontextualization"}
    document = {"method": "dreambooth", "subject": "dog", "class_noun": "dog", "seed": 0}
    (samples / "samples.json").write_text(json.dumps(document | {"images": [entry]}))
    (out / "references/dog/references.json").write_text(
        json.dumps({"images": [{"file": "00.png"}]})
    )
    checkpoint = samples.parent / "checkpoint" / "checkpoint.json"
    checkpoint.parent.mkdir()
    checkpoint.write_text(json.dumps({"metadata": {"identifier": "gqx"}}))
    with pytest.raises(UserError, match="no finished samples"):
        read_submission(out, scratch=tmp_path, dataset=PHOTOS)
    (samples / "manifest.json").write_text("{}")
    found = read_submission(out, scratch=tmp_path, dataset=PHOTOS)
    assert found.banner == suite.banner
    assert found.encoders == suite.encoders
    assert found.references == {"dog": (out / "references/dog/00.png",)}
    assert found.pictures[0].given == "a gqx dog in the jungle"
    assert found.methods == ("dreambooth",)


def test_what_is_nothing_to_score_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no"):
        read_submission(tmp_path / "nowhere", scratch=tmp_path, dataset=PHOTOS)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match="neither a folder nor a manifest"):
        read_submission(tmp_path / "notes.txt", scratch=tmp_path, dataset=PHOTOS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="it is empty"):
        read_submission(tmp_path / "empty", scratch=tmp_path, dataset=PHOTOS)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="cannot read the manifest"):
        read_submission(tmp_path / "bad.parquet", scratch=tmp_path, dataset=PHOTOS)
    (tmp_path / "latin.csv").write_bytes(b"image,subject,prompt\n\xff,dog,jungle\n")
    with pytest.raises(UserError, match="cannot read the manifest"):
        read_submission(tmp_path / "latin.csv", scratch=tmp_path, dataset=PHOTOS)

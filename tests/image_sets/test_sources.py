"""Folders, tables and data sets as other programs and machines leave them."""

from __future__ import annotations

import io
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from dbbench.data.photographs import Photographs
from dbbench.errors import UserError
from dbbench.image_sets import read_submission
from dbbench.image_sets.image_set import Submission
from dbbench.image_sets.references import describe, find_references

PHOTOS = Photographs()


def png(path: Path, colour: int = 0, kind: str = "PNG") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (colour, 0, 0)).save(path, kind)
    return path


def read(source: Path, scratch: Path) -> Submission:
    scratch.mkdir(exist_ok=True)
    return read_submission(source, scratch=scratch, dataset=PHOTOS)


def test_a_folder_is_read_by_content_and_the_rest_is_counted(tmp_path: Path) -> None:
    for number, kind in enumerate(("JPEG", "PNG", "WEBP")):
        png(tmp_path / f"ours/dog/jungle/{number}.jfif", number, kind)
    png(tmp_path / "ours/dog/jungle/3")
    png(tmp_path / "ours/dog/jungle/more/4.png")
    for name in ("0.txt", "1.txt", "._0.jfif", "Thumbs.db"):
        (tmp_path / "ours/dog/jungle" / name).write_bytes(b"x")
    found = read(tmp_path / "ours", tmp_path / "scratch")
    names = [f"dog/jungle/{name}" for name in ("0.jfif", "1.jfif", "2.jfif", "3")]
    assert [picture.name for picture in found.pictures] == names
    assert list(found.refused) == [
        "dog/jungle/: 1 images in folders below it; move them to it",
        "ours/: passed over 2 files that are not images (2 .txt)",
    ]


def test_references_are_read_by_content_and_the_rest_is_counted(tmp_path: Path) -> None:
    for number in (0, 1):
        png(tmp_path / f"refs/dog/{number}.jfif", number, "JPEG")
        (tmp_path / f"refs/dog/._{number}.jfif").write_bytes(b"\0\5\x16\7")
    (tmp_path / "refs/dog/notes.txt").write_text("x")
    png(tmp_path / "refs/dog/more/2.png")
    found = find_references(str(tmp_path / "refs"), (), tmp_path)
    assert [path.name for path in found.files["dog"]] == ["0.jfif", "1.jfif"]
    line = describe(found)
    assert "2 images of 1 subject" in line
    assert "passed over 1 file that is not an image (1 .txt)" in line
    assert "1 images in folders below a subject's are not used" in line


def test_tables_beside_images_are_no_data_set(tmp_path: Path) -> None:
    own = pd.DataFrame({"image": ["a"], "subject": ["dog"], "prompt": ["jungle"], "banner": [""]})
    png(tmp_path / "ours/dog/jungle/0.png")
    (tmp_path / "ours/state.json").write_text('{"epoch": 3}')
    (tmp_path / "ours/metadata.csv").write_text("file_name,caption\n0.png,a dog\n")
    own.to_parquet(tmp_path / "ours/flags.parquet")
    pd.DataFrame({"protocol": ["paper"]}).to_parquet(tmp_path / "ours/summary.parquet")
    found = read(tmp_path / "ours", tmp_path / "scratch")
    assert [picture.name for picture in found.pictures] == ["dog/jungle/0.png"]
    assert "passed over 4 files that are not images (2 .parquet" in found.refused[-1]


def test_a_table_of_images_beside_its_images_is_the_data_set(tmp_path: Path) -> None:
    png(tmp_path / "set/images/dog/0.png")
    table = {"image": ["images/dog/0.png"], "subject": ["dog"], "prompt": ["snow"]}
    pd.DataFrame(table).to_parquet(tmp_path / "set/train.parquet")
    assert read(tmp_path / "set", tmp_path / "scratch").pictures[0].prompt == "snow"


def data_set(count: int = 1) -> object:
    import datasets

    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "subject": datasets.ClassLabel(names=["cat", "dog"]),
            "prompt": datasets.ClassLabel(names=["jungle", "snow"]),
        }
    )
    image = {"bytes": buffer.getvalue(), "path": None}
    columns = {"image": [image] * count, "subject": [1] * count, "prompt": [0] * count}
    return datasets.Dataset.from_dict(columns, features=features)


def test_class_labels_are_their_names(tmp_path: Path) -> None:
    saved = data_set()
    saved.save_to_disk(str(tmp_path / "saved"))  # type: ignore[attr-defined]
    (tmp_path / "hub").mkdir()
    saved.to_parquet(str(tmp_path / "hub/train.parquet"))  # type: ignore[attr-defined]
    for number, source in enumerate(("saved", "hub", "hub/train.parquet")):
        found = read(tmp_path / source, tmp_path / f"scratch-{number}")
        assert [(p.subject, p.prompt) for p in found.pictures] == [("dog", "jungle")]


def test_equal_images_of_a_data_set_count_as_in_a_folder(tmp_path: Path) -> None:
    for number in range(3):
        png(tmp_path / f"ours/dog/jungle/{number}.png")
    data_set(3).save_to_disk(str(tmp_path / "saved"))  # type: ignore[attr-defined]
    for name in ("ours", "saved"):
        found = read(tmp_path / name, tmp_path / "scratch")
        assert len(found.pictures) == 3
        assert not found.refused


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_separators_of_windows_lead_to_the_image(tmp_path: Path, suffix: str) -> None:
    png(tmp_path / "img/dog/0.png")
    images = ["img\\dog\\0.png", "C:\\img\\0.png", "..\\0.png"]
    table = pd.DataFrame({"image": images, "subject": "dog", "prompt": "jungle"})
    path = tmp_path / f"list{suffix}"
    if suffix == ".csv":
        table.to_csv(path)
    elif suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_parquet(path)
    found = read(path, tmp_path / "scratch")
    assert [p.image for p in found.pictures] == [tmp_path / "img/dog/0.png"]
    assert "is a path on a Windows machine" in found.refused[0]
    assert "is outside of" in found.refused[1]


def test_tables_of_pandas_name_the_rows_without_a_prompt(tmp_path: Path) -> None:
    for number in range(4):
        png(tmp_path / f"{number}.png", number)
    columns = {
        "image": [f"{n}.png" for n in range(4)],
        "subject": pd.Categorical(["dog"] * 4),
        "prompt": ["jungle", None, float("nan"), "red"],
        "seed": [0, 1, None, 3],
    }
    table = pd.DataFrame(columns)
    table.to_csv(tmp_path / "m.csv", encoding="utf-8-sig", lineterminator="\r\n")
    table.to_parquet(tmp_path / "p.parquet")
    for name in ("m.csv", "p.parquet"):
        found = read(tmp_path / name, tmp_path / "scratch")
        assert [(p.prompt, p.seed) for p in found.pictures] == [("jungle", 0), ("red", 3)]
        assert sum("neither prompt nor text" in line for line in found.refused) == 2


def test_a_manifest_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text('image,subject,prompt\n0.png,dog,"jungle\n')
    with pytest.raises(UserError, match="cannot read the manifest .*line 2"):
        read(tmp_path / "m.csv", tmp_path / "scratch")
    png(tmp_path / "0.png")
    (tmp_path / "m.csv").write_text("image,subject,prompt\n0.png,dog,a dog, red\n0.png,dog,red\n")
    found = read(tmp_path / "m.csv", tmp_path / "scratch")
    assert [picture.prompt for picture in found.pictures] == ["red"]
    assert "m.csv line 2: 4 cells" in found.refused[0]

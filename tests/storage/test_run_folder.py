"""What a run's folder records: written and read by one module, hashes checked."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from PIL import Image

from dbbench.errors import UserError
from dbbench.files import Outside
from dbbench.image_sets import read_submission
from dbbench.mini.source import MiniWorld
from dbbench.storage.artifact import MANIFEST, Artifact, Damaged
from dbbench.storage.run_folder import (
    ClassImage,
    ClassImages,
    Reference,
    References,
    Sample,
    Samples,
    all_references,
    checkpoint_folder,
    features_folder,
    images_in,
    prior_folder,
    prior_of,
    read_file,
    real_features_folder,
    references_folder,
    references_of,
    runs_in,
    samples_folder,
    samples_of,
    training_of,
)
from dbbench.suites.runs import Run
from dbbench.suites.suite import load_suite

RUN = Run("dreambooth", "dog", 0)
JUNGLE = Sample(
    file="jungle/0.png", prompt="jungle", category="recontextualization",
    number=0, seed=7, text="a dog in the jungle",
)  # fmt: skip


def write_samples(out: Path, run: Run = RUN) -> Artifact:
    """Write one image of a run and what is recorded of it."""
    artifact = Artifact(out / samples_folder(run), {"checkpoint": "f00d"})
    with artifact.create() as folder:
        (folder / "jungle").mkdir()
        Image.new("RGB", (8, 8), (run.seed, 0, 0)).save(folder / JUNGLE.file)
        Samples(
            folder=folder, images=(JUNGLE,), method=run.method, subject=run.subject,
            class_noun="dog", kind="live", seed=run.seed,
        ).write()  # fmt: skip
    return artifact


def test_what_is_written_is_read_again_and_has_its_frozen_form(tmp_path: Path) -> None:
    artifact = write_samples(tmp_path)
    found = Samples.read(artifact)
    assert found == samples_of(tmp_path, RUN) == images_in(artifact)
    assert (found.method, found.class_noun, found.seed) == ("dreambooth", "dog", 0)
    assert found.images == (JUNGLE,)
    assert found.paths == [artifact.path / "jungle/0.png"]
    assert (artifact.path / "samples.json").read_text() == (
        '{\n "method": "dreambooth",\n "subject": "dog",\n "class_noun": "dog",\n "kind": "live",\n'
        ' "seed": 0,\n "images": [\n  {\n   "file": "jungle/0.png",\n   "prompt": "jungle",\n'
        '   "category": "recontextualization",\n   "number": 0,\n   "seed": 7,\n'
        '   "text": "a dog in the jungle"\n  }\n ]\n}\n'
    )
    truth = {"place": "café", "tint": [1, 2.5]}
    image = Reference(file="00.png", name="a.jpg", sha256="f00d", credit="me", truth=truth)
    (tmp_path / references_folder("dog")).mkdir(parents=True)
    References(
        folder=tmp_path / references_folder("dog"), images=(image,),
        subject="dog", class_noun="dog", kind="live",
    ).write()  # fmt: skip
    document = json.loads((tmp_path / "references/dog/references.json").read_text("utf-8"))
    assert list(document) == ["subject", "class_noun", "kind", "images"]
    assert list(document["images"][0].items()) == list(image.model_dump().items())
    assert all_references(tmp_path) == {"dog": references_of(tmp_path, "dog")}
    (tmp_path / "prior/toy-car").mkdir(parents=True)
    ClassImages(
        folder=tmp_path / prior_folder("toy car"), images=(ClassImage(file="0.png", seed=3),),
        class_noun="toy car", prompt="a toy car",
    ).write()  # fmt: skip
    assert (prior := prior_of(tmp_path, "toy car"))
    assert prior.images[0].seed == 3


def test_runs_are_found_by_their_folders(tmp_path: Path) -> None:
    runs = (Run("a-1", "dog", 3), Run("b", "can", 0), Run("b", "dog", 12))
    for run in runs:
        (tmp_path / checkpoint_folder(run)).mkdir(parents=True)
    (tmp_path / "runs/b/dog/.12.partial").mkdir()
    (tmp_path / "runs/b/dog/notes").mkdir()
    assert runs_in(tmp_path) == runs
    assert runs_in(tmp_path / "nowhere") == ()
    assert features_folder(runs[0], "dino") == "runs/a-1/dog/3/features/dino"
    assert real_features_folder("dog", "dino") == "features/real/dog/dino"
    assert samples_of(tmp_path, runs[0]) is references_of(tmp_path, "dog") is None
    assert training_of(tmp_path, runs[0]) is prior_of(tmp_path, "dog") is None


@pytest.mark.parametrize("name", ["samples.json", "jungle/0.png"])
def test_a_file_that_changed_is_noticed_by_its_hash(tmp_path: Path, name: str) -> None:
    path = write_samples(tmp_path).path / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(Damaged, match=f"{name} has changed since it was written") as caught:
        read_file(path)
    assert isinstance(caught.value, UserError)
    assert "call dbbench verify, then rerun" in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    if name == "samples.json":
        with pytest.raises(Damaged, match="has changed"):
            samples_of(tmp_path, RUN)


def test_an_altered_image_of_a_run_is_not_scored(tmp_path: Path) -> None:
    good, bad = write_samples(tmp_path), write_samples(tmp_path, Run("dreambooth", "dog", 1))
    record = {"suite": load_suite("mini").model_dump(mode="json")}
    (tmp_path / "suite.json").write_text(json.dumps(record))
    Image.new("RGB", (8, 8), "white").save(bad.path / JUNGLE.file)
    found = read_submission(tmp_path, scratch=tmp_path, dataset=MiniWorld())
    assert [picture.image for picture in found.pictures] == [good.path / JUNGLE.file]
    (line,) = found.refused
    assert "dog/1/samples: jungle/0.png has changed since it was written" in line


@pytest.mark.parametrize("name", ["../0/samples/jungle/0.png", "/etc/passwd", "a\\..\\b.png"])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / samples_folder(RUN)
    folder.mkdir(parents=True)
    Samples(folder=folder, images=(JUNGLE.model_copy(update={"file": name}),)).write()
    found = samples_of(tmp_path, RUN)
    assert found is not None
    with pytest.raises(Outside, match="points outside"):
        _ = found.paths


@pytest.mark.parametrize("manifest", [None, "{}", '{"fingerprint": "old", "files": []}'])
def test_a_folder_of_an_earlier_version_is_read(tmp_path: Path, manifest: str | None) -> None:
    folder = tmp_path / samples_folder(RUN)
    folder.mkdir(parents=True)
    entry = {"file": "jungle/0.png", "prompt": "jungle", "unknown": 1}
    (folder / "samples.json").write_text(json.dumps({"images": [entry], "more": []}))
    if manifest is not None:
        (folder / MANIFEST).write_text(manifest)
    found = samples_of(tmp_path, RUN)
    assert found is not None
    assert found.images == (Sample(file="jungle/0.png", prompt="jungle"),)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": [{"file": 5}]}', '{"images": 1}'])
def test_a_file_that_is_no_list_of_images_is_one_line(tmp_path: Path, text: str) -> None:
    folder = tmp_path / samples_folder(RUN)
    folder.mkdir(parents=True)
    (folder / "samples.json").write_text(text)
    with pytest.raises(UserError, match=r"samples\.json cannot be read") as caught:
        samples_of(tmp_path, RUN)
    assert "\n" not in str(caught.value)

"""`dbbench score` gives what each protocol's definition gives, and says what it could not score."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from harness import installed, plugin_folder
from PIL import Image
from typer.testing import CliRunner

from dbbench.advance import silent
from dbbench.cli import app
from dbbench.data.photographs import Photographs
from dbbench.errors import UserError
from dbbench.evaluation.encoder import Distance, load_encoder
from dbbench.evaluation.features import FeatureStore
from dbbench.evaluation.scores import REAL
from dbbench.image_sets import read_submission
from dbbench.image_sets.image_set import Submission
from dbbench.image_sets.references import find_references
from dbbench.protocols.encoding import encode
from dbbench.protocols.oracle import score_oracle
from dbbench.protocols.protocol import load_protocol, protocol_names
from dbbench.protocols.roles import cast_roles
from dbbench.protocols.scoring import Reconciliation, reconcile

__all__ = ["installed", "plugin_folder"]  # fixtures

PIXELS = {"dino": "pixels:4", "clip": "pixels:6", "dinov2": "pixels:5", "lpips": "mini-lpips"}
REFERENCES = {"dog": 4, "teapot": 3, "can": 2}
NOUNS = {"dog": "dog", "teapot": "teapot", "can": "can"}
IMAGES = [("dog", "jungle", 3), ("dog", "red-hat", 2), ("teapot", "jungle", 1), ("can", "snow", 4)]
TEXTS = {"jungle": "in the jungle", "snow": "in the snow", "red-hat": "wearing a red hat"}


def picture(*seed: int | str) -> Image.Image:
    """Return noise on a colour: images of one seed's first part resemble each other."""
    numbers = [int.from_bytes(str(part).encode(), "big") % 2**32 for part in seed]
    colour = np.random.default_rng(numbers[:1]).uniform(60, 190, 3)
    noise = np.random.default_rng(numbers).normal(0, 40, (6, 6, 3))
    small = Image.fromarray((colour + noise).clip(0, 255).astype(np.uint8))
    return small.resize((24, 24), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """References of three subjects, and generated images of them in folders."""
    folder = tmp_path_factory.mktemp("world")
    for subject, count in REFERENCES.items():
        (folder / "photos" / subject).mkdir(parents=True)
        for number in range(count):
            picture(subject, number).save(folder / "photos" / subject / f"{number:02d}.png")
    for subject, prompt, count in IMAGES:
        (folder / "ours" / subject / prompt).mkdir(parents=True)
        for number in range(count):
            picture(subject, prompt, number).save(
                folder / "ours" / subject / prompt / f"{number}.png"
            )
    return folder


def score(
    images: Path | Submission,
    world: Path,
    scratch: Path,
    *,
    protocols: Sequence[str] = ("paper",),
    encoders: dict[str, str] | None = None,
    metrics: Sequence[str] = (),
    identifier: str = "",
) -> Reconciliation:
    """Do what the command does, without its words."""
    found = find_references(str(world / "photos"), (), scratch)
    submission = (
        images
        if isinstance(images, Submission)
        else read_submission(
            images,
            scratch=scratch,
            dataset=Photographs(),
            identifier=identifier,
            own_subjects=found.files,
        )
    )
    readings = [load_protocol(name) for name in protocols]
    cast = cast_roles(readings, metrics=metrics, overrides=encoders or PIXELS)
    encodings = encode(
        cast,
        submission.pictures,
        found.files,
        FeatureStore(),
        device="cpu",
        status=lambda text: None,
        advance=silent,
    )
    return reconcile(cast, submission, found.files, encodings)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    first, second = a.astype(float), b.astype(float)
    return float(sum(x * y for x, y in zip(first, second, strict=True))) / float(
        np.sqrt((first * first).sum() * (second * second).sum())
    )


# Written down again by hand from the papers: references, the text, what is averaged, the factor.
DEFINITIONS: dict[str, dict[str, Any]] = {
    "paper": {"text": "a {noun} {rest}"},
    "kosmos-g": {"first": True, "text": "a {noun} {rest}", "mean": "images"},
    "dreambench++": {"first": True, "text": "a sks {noun} {rest}", "mean": "images", "all": 100.0},
    "custom-diffusion": {"text": "a sks {noun} {rest}", "clip-t": 2.5, "floor": 0.0},
    "oft": {"text": "a sks {noun} {rest}", "mean": "pairs"},
    "textual-inversion": {"text": "a {rest}"},
}
ROLES = {"dino": "dino", "clip-i": "clip", "clip-t": "clip", "dinov2-i": "dinov2", "lpips": "lpips"}


def by_definition(
    world: Path, protocol: str, metric: str, encoders: dict[str, str], *, real: bool = False
) -> float:
    """Return a protocol's number the slow way: image by image and pair by pair."""
    definition = DEFINITIONS[protocol]
    encoder = load_encoder(encoders[ROLES[metric]], device="cpu")

    def features(path: Path) -> np.ndarray:
        assert not isinstance(encoder, Distance)
        return np.asarray(encoder.encode_images([Image.open(path).convert("RGB")])[0])

    pairs: dict[str, list[list[float]]] = {}
    for subject in REFERENCES:
        photos = sorted((world / "photos" / subject).iterdir())
        compared = photos[:1] if definition.get("first") else photos
        files = photos if real else sorted((world / "ours" / subject).glob("*/*.png"))
        for file in files:
            if metric == "clip-t":
                text = definition["text"].format(noun=NOUNS[subject], rest=TEXTS[file.parent.name])
                value = cosine(features(file), encoder.encode_texts([text])[0])
                own = [max(value, definition.get("floor", value))]
            elif isinstance(encoder, Distance):
                own = [
                    encoder.pairwise_distances([Image.open(file), Image.open(r)])[0, 1]
                    for r in compared
                ]
            else:
                own = [cosine(features(file), features(r)) for r in compared if r != file]
            if own:
                pairs.setdefault(subject, []).append(own)
    images = {s: [sum(own) / len(own) for own in rows] for s, rows in pairs.items()}
    match definition.get("mean", "subjects"):
        case "subjects":
            values = [sum(own) / len(own) for own in images.values()]
        case "images":
            values = [value for own in images.values() for value in own]
        case _:
            values = [pair for rows in pairs.values() for own in rows for pair in own]
    factor = definition.get("all", definition.get(metric, 1.0))
    return float(factor) * sum(values) / len(values)


def check_definitions(world: Path, scratch: Path, encoders: dict[str, str]) -> None:
    result = score(
        world / "ours",
        world,
        scratch,
        protocols=protocol_names(),
        encoders=encoders,
        identifier="sks",
    )
    checked = 0
    for row in result.summary.to_dict("records"):
        expected = by_definition(
            world, row["protocol"], row["metric"], encoders, real=row["method"] == REAL
        )
        assert row["value"] == pytest.approx(expected, abs=1e-5), row
        checked += 1
    # Six protocols: all but one have DINO, one has DINOv2-I and one LPIPS; the photographs have no
    # CLIP-T and no LPIPS.
    assert checked == (5 + 6 + 6 + 1 + 1) + (5 + 6 + 1)


@pytest.mark.usefixtures("installed")
def test_every_protocol_equals_its_definition(world: Path, tmp_path: Path) -> None:
    check_definitions(world, tmp_path, PIXELS)


def test_every_protocol_equals_its_definition_on_the_embedded_encoders(
    world: Path, tmp_path: Path
) -> None:
    encoders = {"dino": "mini-dino", "clip": "mini-clip", "dinov2": "mini-dino"}
    encoders["lpips"] = "mini-lpips"
    check_definitions(world, tmp_path, encoders)


@pytest.mark.usefixtures("installed")
def test_frozen_values(world: Path, tmp_path: Path) -> None:
    result = score(world / "ours", world, tmp_path, protocols=protocol_names(), identifier="sks")
    found = {
        (row["protocol"], row["metric"]): row["value"]
        for row in result.summary.to_dict("records")
        if row["method"] != REAL and row["metric"] != "lpips"  # of weights that are trained again
    }
    assert found == pytest.approx(FROZEN, abs=1e-4)


FROZEN = {
    ("paper", "dino"): 0.9776,
    ("paper", "clip-i"): 0.9587,
    ("paper", "clip-t"): 0.0123,
    ("custom-diffusion", "dino"): 0.9776,
    ("custom-diffusion", "clip-i"): 0.9587,
    ("custom-diffusion", "clip-t"): 0.0728,
    ("dreambench++", "dino"): 97.9851,
    ("dreambench++", "dinov2-i"): 97.1099,
    ("dreambench++", "clip-i"): 96.0676,
    ("dreambench++", "clip-t"): -5.0286,
    ("kosmos-g", "dino"): 0.9799,
    ("kosmos-g", "clip-i"): 0.9607,
    ("kosmos-g", "clip-t"): -0.0365,
    ("oft", "dino"): 0.9791,
    ("oft", "clip-i"): 0.9596,
    ("oft", "clip-t"): -0.0503,
    ("textual-inversion", "clip-i"): 0.9587,
    ("textual-inversion", "clip-t"): -0.0788,
}


@pytest.mark.usefixtures("installed")
def test_added_metrics_are_shown_under_every_protocol(world: Path, tmp_path: Path) -> None:
    result = score(world / "ours", world, tmp_path, metrics=["dinov2-i"])
    shown = set(result.summary["metric"])
    assert shown == {"dino", "clip-i", "clip-t", "dinov2-i"}
    expected = by_definition(world, "paper", "dinov2-i", PIXELS)
    own = result.summary.query("metric == 'dinov2-i' and method == 'ours'")
    assert own["value"].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.usefixtures("installed")
def test_class_images_count_for_pres_alone(world: Path, tmp_path: Path) -> None:
    records = [
        (world / "ours/dog/jungle/0.png", "dog", "jungle"),
        (world / "ours/dog/jungle/1.png", "dog", "a dog"),
        (world / "ours/dog/jungle/2.png", "dog", "class-noun"),
    ]
    manifest = write_csv(tmp_path / "m.csv", records)
    result = score(manifest, world, tmp_path, metrics=["pres"])
    counts = result.scores[result.scores["method"] != REAL].groupby("metric").size().to_dict()
    assert counts == {"dino": 1, "clip-i": 1, "clip-t": 1, "pres": 2}
    encoder = load_encoder(PIXELS["dino"], device="cpu")
    vectors = [
        encoder.encode_images([Image.open(path)])[0]
        for path in [records[1][0], *sorted((world / "photos/dog").iterdir())]
    ]
    expected = np.mean([cosine(vectors[0], other) for other in vectors[1:]])
    found = result.scores.query("metric == 'pres'")["value"].iloc[0]
    assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.usefixtures("installed")
def test_copies_and_collapsed_prompts_are_flagged_by_name(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copycat" / "dog"
    for prompt, source in {"jungle": "photos/dog/02.png", "snow": "ours/dog/jungle/0.png"}.items():
        (folder / prompt).mkdir(parents=True)
        for number in range(2):
            # Another compression: the same picture in other bytes.
            image = Image.open(world / source)
            image.save(folder / prompt / f"{number}.png", compress_level=number)
    flags = score(tmp_path / "copycat", world, tmp_path).flags
    copies, collapsed = flags.query("flag == 'copy'"), flags.query("flag == 'collapse'")
    given_back = copies[copies["prompt"] == "jungle"]
    assert set(given_back["image"]) == {"dog/jungle/0.png", "dog/jungle/1.png"}
    assert set(given_back["nearest"]) == {"02.png"}
    assert (given_back["value"] > 1 - 1e-6).all()
    assert set(collapsed["prompt"]) == {"jungle", "snow"}
    assert (collapsed["value"] > 1 - 1e-6).all()


@pytest.mark.usefixtures("installed")
def test_flagged_is_what_is_above_the_most_alike_photographs(world: Path, tmp_path: Path) -> None:
    flags = score(world / "ours", world, tmp_path).flags
    encoder = load_encoder(PIXELS["dino"], device="cpu")
    expected = set()
    for subject in REFERENCES:
        photos = encoder.encode_images(
            [Image.open(path) for path in sorted((world / "photos" / subject).iterdir())]
        )
        ceiling = max(cosine(a, b) for a, b in combinations(photos, 2))
        for file in (world / "ours" / subject).glob("*/*.png"):
            image = encoder.encode_images([Image.open(file)])[0]
            if max(cosine(image, photo) for photo in photos) > ceiling:
                expected.add(str(file.relative_to(world / "ours")))
    assert 0 < len(expected) < sum(count for *_, count in IMAGES)
    assert set(flags[flags["flag"] == "copy"]["image"]) == expected


@pytest.mark.usefixtures("installed")
def test_partial_coverage_is_counted_and_named(world: Path, tmp_path: Path) -> None:
    coverage = score(world / "ours", world, tmp_path).coverage.set_index("subject")
    dog = coverage.loc["dog"]
    assert (dog["images"], dog["prompts"], dog["prompts_planned"]) == (5, 2, 25)
    assert (dog["fewest_per_prompt"], dog["most_per_prompt"]) == (2, 3)
    missing = dog["missing_prompts"].split(", ")
    assert len(missing) == 23
    assert "snow" in missing


@pytest.mark.usefixtures("installed")
def test_encoder_that_cannot_be_had_costs_its_own_metrics_only(world: Path, tmp_path: Path) -> None:
    encoders = PIXELS | {"clip": "nowhere:x"}
    result = score(world / "ours", world, tmp_path, encoders=encoders)
    assert set(result.summary["metric"]) == {"dino"}
    (note,) = result.notes
    assert note.startswith("not scored: CLIP-I (paper), CLIP-T (paper): unknown encoder")


@pytest.mark.usefixtures("installed")
def test_images_that_are_none_are_named_and_the_rest_is_scored(world: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no image")
    good = world / "ours/dog/jungle/0.png"
    whole = good.read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    records = [(tmp_path / f"{name}.png", "dog", "jungle") for name in ("empty", "text", "cut")]
    records += [(tmp_path / "gone.png", "dog", "jungle"), (good, "dog", "jungle")]
    manifest = write_csv(tmp_path / "m.csv", records)
    command = ["score", str(manifest), "--references", str(world / "photos")]
    command += ["--encoder", "dino=pixels:4,clip=pixels:6", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    for name in ("empty.png", "text.png", "cut.png", "gone.png"):
        assert f"{name} " in result.output
    scores = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert set(scores[scores["method"] != REAL]["image"]) == {str(good)}
    record = json.loads((tmp_path / "out" / "score.json").read_text())
    assert len(record["refused"]) == 4
    text = (tmp_path / "out" / "score.md").read_text()
    assert "gone.png is missing" in text
    assert "the same images under each protocol" in text.lower()


@pytest.mark.usefixtures("installed")
def test_nothing_that_can_be_scored_is_one_line(world: Path, tmp_path: Path) -> None:
    command = ["score", str(world / "ours"), "--references", str(world / "photos")]
    result = CliRunner().invoke(app, [*command, "--encoder", "dino=nowhere:x,clip=nowhere:y"])
    assert isinstance(result.exception, UserError)
    assert "no image could be scored" in str(result.exception)
    for option, line in {
        "--protocol=kosmos": 'did you mean "kosmos-g"',
        "--encoder=dino": "write it as dino=mini-dino",
        "--metrics=divv": 'did you mean "div"',
    }.items():
        result = CliRunner().invoke(app, [*command, option])
        assert isinstance(result.exception, UserError)
        assert line in str(result.exception)
    result = CliRunner().invoke(app, ["score", str(world / "ours"), "--references", "/nowhere"])
    assert "there is no folder /nowhere" in str(result.exception)


@pytest.mark.usefixtures("installed")
def test_oracle_compares_photographs_with_and_without_themselves(world: Path) -> None:
    found = find_references(str(world / "photos"), (), world)
    cast = cast_roles([load_protocol(n) for n in protocol_names()], overrides=PIXELS, flags=())
    table, notes = score_oracle(
        cast, found.files, device="cpu", status=lambda text: None, advance=silent
    )
    assert not notes
    assert len(table) == 5 + 6 + 1
    for row in table.to_dict("records"):
        expected = by_definition(world, row["protocol"], row["metric"], PIXELS, real=True)
        assert row["value"] == pytest.approx(expected, abs=1e-5)
        assert row["with_self_pairs"] > row["value"]
        assert np.isnan(row["published"])  # Other encoders than the published ones.


def write_csv(path: Path, records: Sequence[tuple[Path, str, str]]) -> Path:
    table = pd.DataFrame(records, columns=["image", "subject", "prompt"])
    table.to_csv(path, index=False)
    return path


@pytest.mark.usefixtures("installed")
def test_a_part_of_the_prompts_does_not_beat_the_whole(world: Path, tmp_path: Path) -> None:
    """The same files, once whole and once without their worst prompt, are the same method."""
    shutil.copytree(world / "ours", tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "dog" / "red-hat")
    both = [
        read_submission(folder, scratch=tmp_path, own_subjects=REFERENCES)
        for folder in (world / "ours", tmp_path / "part")
    ]
    found = score(both[0].join(both[1]), world, tmp_path).differences
    assert set(found["metric"]) == {"dino", "clip-i", "clip-t"}
    assert found["difference"].abs().max() < 1e-12
    (note,) = found["left_out"].unique()
    assert note.startswith("ours - part leaves out 2 images of ours: no counterpart of the same")

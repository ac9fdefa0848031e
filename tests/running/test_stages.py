from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tinted_plugin
import tiny_backbone
from PIL import Image

from dbbench.advance import Advance, silent
from dbbench.data.dataset import select_subjects
from dbbench.data.prompt import load_prompts
from dbbench.data.subject import Subject
from dbbench.errors import UserError
from dbbench.evaluation import features
from dbbench.generation.backbone import Backbone, load_backbone
from dbbench.generation.method import load_method
from dbbench.mini.source import MiniWorld
from dbbench.planning.task import ImageJob
from dbbench.running import stages
from dbbench.seeds import image_seed, prior_seed, train_seed
from dbbench.storage.artifact import Artifact
from dbbench.suites.rows import SuiteRow
from dbbench.suites.runs import Run
from dbbench.suites.sampling import SampleSettings
from dbbench.suites.suite import PriorSettings

(DOG,) = select_subjects(MiniWorld(), "dog")
RUN = Run("tinted", "dog", 0)
ROW = SuiteRow("tinted", "tinted")
SAMPLE = SampleSettings(steps=2, batch_size=4, images_per_prompt=2)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    folder = tiny_backbone.write(tmp_path_factory.mktemp("backbone"))
    return load_backbone(str(folder), resolution=tiny_backbone.RESOLUTION, device="cpu")


def jobs(run: Run = RUN) -> tuple[ImageJob, ...]:
    return tuple(
        ImageJob(prompt, number, image_seed(run.seed, run.subject, prompt.id, number))
        for prompt in load_prompts(live=True)[:5]
        for number in range(2)
    )


def references(folder: Path, subject: Subject = DOG) -> Artifact:
    artifact = Artifact(folder / "references", {})
    stages.references(artifact, subject, MiniWorld(), 16)
    return artifact


def trained(folder: Path) -> Artifact:
    artifact = Artifact(folder / "checkpoint", {})
    stages.train(
        [artifact], [RUN], [DOG], tinted_plugin.Plain(), NoBackbone(),
        references=[references(folder)], prior=None, row=ROW,
    )  # fmt: skip
    return artifact


class NoBackbone:
    """A method without a network asks nothing of its backbone but this."""

    def restore(self) -> None:
        pass


def test_references_are_written_with_credit_and_truth(tmp_path: Path) -> None:
    artifact = references(tmp_path)
    document = json.loads((artifact.path / "references.json").read_text())
    assert (document["class_noun"], document["kind"]) == ("dog", "live")
    assert len(document["images"]) == len(DOG.photos)
    for entry in document["images"]:
        assert entry["credit"]
        assert entry["truth"]
        with Image.open(artifact.path / entry["file"]) as image:
            assert (image.size, image.mode) == ((16, 16), "RGB")


def test_seeds_are_the_same_everywhere_and_paired_over_methods() -> None:
    # Frozen: other seeds would be another benchmark.
    assert image_seed(0, "dog", "jungle", 0) == 7060574879875
    assert train_seed(0, "dog") == 43496574892690
    assert prior_seed("dog", 0) == 54928427499090
    assert len({job.seed for job in jobs()}) == len(jobs())
    assert [job.seed for job in jobs(Run("other", "dog", 0))] == [job.seed for job in jobs()]
    assert not {job.seed for job in jobs(Run("tinted", "dog", 1))} & {job.seed for job in jobs()}


def test_training_hands_on_the_images_and_reports_its_steps(tmp_path: Path) -> None:
    heard: list[tuple[int, int, float]] = []
    artifact = Artifact(tmp_path / "checkpoint", {})
    steps = stages.train(
        [artifact], [RUN], [DOG], tinted_plugin.Tinted(), NoBackbone(),
        references=[references(tmp_path)], prior=references(tmp_path), row=ROW,
        advance=lambda done, total, figures: heard.append((done, total, figures["loss"])),
    )  # fmt: skip
    assert steps == 3
    assert heard == [(1, 3, 1.0), (2, 3, 0.5), (3, 3, pytest.approx(1 / 3))]
    metadata = json.loads((artifact.path / "checkpoint.json").read_text())["metadata"]
    assert metadata["priors"] == len(DOG.photos)
    assert metadata["seed"] == train_seed(0, "dog")


def test_samples_are_recorded_with_prompt_seed_and_text(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path / "samples", {})
    stages.sample(
        artifact, RUN, DOG, tinted_plugin.Plain(), NoBackbone(),
        checkpoint=trained(tmp_path), settings=SAMPLE, jobs=jobs(), row=ROW,
    )  # fmt: skip
    document = json.loads((artifact.path / "samples.json").read_text())
    first = document["images"][1]
    assert first["file"] == "jungle/1.png"
    assert first["seed"] == image_seed(0, "dog", "jungle", 1)
    assert first["text"] == "a dog in the jungle"
    assert all((artifact.path / entry["file"]).is_file() for entry in document["images"])


def test_an_interrupted_pass_goes_on_at_a_whole_batch_with_the_same_bits(
    tmp_path: Path, backbone: Backbone
) -> None:
    settings = PriorSettings(count=11, sampler=SampleSettings(steps=2, batch_size=4))
    whole = Artifact(tmp_path / "whole", {})
    stages.prior(whole, "dog", settings, backbone)

    def interrupt(done: int, total: int, figures: Any, /) -> None:
        if done == 7:
            raise KeyboardInterrupt

    broken = Artifact(tmp_path / "broken", {})
    with pytest.raises(KeyboardInterrupt):
        stages.prior(broken, "dog", settings, backbone, interrupt)
    assert broken.state == "missing"
    # The last image was cut short by the crash.
    (partial,) = tmp_path.glob(".broken.*.partial")
    (partial / "0006.png").write_bytes((partial / "0006.png").read_bytes()[:50])

    made = stages.prior(broken, "dog", settings, backbone)
    assert made == 11 - 4
    for number in range(11):
        name = f"{number:04d}.png"
        assert (broken.path / name).read_bytes() == (whole.path / name).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken", "whole"]


def test_another_batch_size_starts_the_pass_again(tmp_path: Path, backbone: Backbone) -> None:
    artifact = Artifact(tmp_path / "prior", {})
    for batch_size in (4, 3):
        settings = PriorSettings(count=8, sampler=SampleSettings(steps=1, batch_size=batch_size))

        def interrupt(done: int, total: int, figures: Any, /) -> None:
            if done == 6:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            stages.prior(artifact, "dog", settings, backbone, interrupt)
    assert stages.prior(artifact, "dog", settings, backbone) == 8 - 6


@pytest.mark.parametrize("count", [9, 11])
def test_a_method_that_gives_another_number_of_images_fails(tmp_path: Path, count: int) -> None:
    class Miscounting(tinted_plugin.Plain):
        def generate(self, *args: Any, **kwargs: Any) -> Iterator[Image.Image]:
            return iter([Image.new("RGB", (16, 16))] * count)

    artifact = Artifact(tmp_path / "samples", {})
    with pytest.raises(UserError, match="the method returned"):
        stages.sample(
            artifact, RUN, DOG, Miscounting(), NoBackbone(),
            checkpoint=trained(tmp_path), settings=SAMPLE, jobs=jobs(), row=ROW,
        )  # fmt: skip
    assert artifact.state == "missing"


def test_features_have_a_row_for_each_image_and_its_text(tmp_path: Path) -> None:
    samples = Artifact(tmp_path / "samples", {})
    stages.sample(
        samples, RUN, DOG, tinted_plugin.Plain(), NoBackbone(),
        checkpoint=trained(tmp_path), settings=SAMPLE, jobs=jobs(), row=ROW,
    )  # fmt: skip
    encoder = tinted_plugin.Pixels(4)
    artifact = Artifact(tmp_path / "features", {})
    assert stages.encode(artifact, samples, encoder, texts=True) == 10
    images = np.load(artifact.path / "images.npy", allow_pickle=False)
    texts = np.load(artifact.path / "texts.npy", allow_pickle=False)
    assert images.shape == texts.shape == (10, 48)
    assert images.dtype == np.float32
    with Image.open(samples.path / "jungle" / "1.png") as image:
        assert np.allclose(images[1], encoder.encode_images([image])[0])
    assert np.array_equal(texts[0], texts[1])
    assert np.allclose(texts[2], encoder.encode_texts(["a dog in the snow"])[0])


def test_an_encoder_never_sees_more_than_a_batch_of_images(tmp_path: Path) -> None:
    sizes: list[int] = []

    class Counting(tinted_plugin.Pixels):
        def encode_images(self, images: Sequence[Image.Image]) -> np.ndarray:
            sizes.append(len(images))
            return super().encode_images(images)

    folder = tmp_path / "images"
    folder.mkdir()
    entries = []
    for number in range(features.BATCH + 5):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
        entries.append({"file": f"{number}.png"})
    (folder / "references.json").write_text(json.dumps({"images": entries}))
    stages.encode(Artifact(tmp_path / "features", {}), Artifact(folder, {}), Counting(2))
    assert sizes == [features.BATCH, 5]


@pytest.mark.parametrize("name", ["dreambooth", "textual_inversion"])
def test_an_interrupted_sampling_of_a_real_method_ends_with_the_same_bits(
    tmp_path: Path, backbone: Backbone, name: str
) -> None:
    method = load_method(name, {"steps": 2, "batch_size": 2})
    images = references(tmp_path)
    checkpoint = Artifact(tmp_path / "checkpoint", {})
    stages.train(
        [checkpoint], [RUN], [DOG], method, backbone,
        references=[images], prior=images if method.needs_prior else None, row=ROW,
    )  # fmt: skip

    def interrupt(done: int, total: int, figures: Any, /) -> None:
        if done == 6:
            raise KeyboardInterrupt

    def sample(artifact: Artifact, advance: Advance) -> int:
        return stages.sample(
            artifact, RUN, DOG, method, backbone,
            checkpoint=checkpoint, settings=SAMPLE, jobs=jobs(), row=ROW, advance=advance,
        )  # fmt: skip

    whole, broken = Artifact(tmp_path / "whole", {}), Artifact(tmp_path / "broken", {})
    sample(whole, silent)
    with pytest.raises(KeyboardInterrupt):
        sample(broken, interrupt)
    assert sample(broken, silent) == 10 - 4
    for job in jobs():
        assert (broken.path / job.file).read_bytes() == (whole.path / job.file).read_bytes()

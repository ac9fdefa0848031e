"""A run's images of one colour are said where its leaderboard is shown, and counted on its page."""

import json
import logging
from pathlib import Path

import pytest
import tinted_plugin
from finished_run import MakeRun, Page, text_of
from PIL import Image

from dbbench.data.photographs import Photographs
from dbbench.planning.task import ImageJob
from dbbench.reports import write_report
from dbbench.running import stages
from dbbench.storage.artifact import Artifact
from dbbench.storage.run_folder import Samples
from dbbench.suites.rows import SuiteRow
from dbbench.suites.runs import Run
from dbbench.suites.sampling import SampleSettings

RUN = Run("plain", "dog", 0)
DOG = next(subject for subject in Photographs().subjects if subject.name == "dog")


def mark(out: Path, method: str, blank: int) -> None:
    """Enter what the sample stage would have seen."""
    for file in out.glob(f"runs/{method}/*/*/samples/samples.json"):
        document = json.loads(file.read_text())
        for number, entry in enumerate(document["images"]):
            entry["one_colour"] = number < blank
        file.write_text(json.dumps(document))


def test_the_report_counts_them(make_run: MakeRun) -> None:
    out = make_run()
    mark(out, "dreambooth", 2)
    mark(out, "textual_inversion", 0)
    page = Page(write_report(out))
    line = "4 of 12 images of dreambooth are of one colour"
    assert line in " ".join(text_of(out).split())
    assert line in (out / "leaderboard.md").read_text()
    assert "images of textual_inversion" not in (out / "leaderboard.md").read_text()
    assert "Of one colour" in page.text
    assert '<td class="n">4</td></tr>' in page.source
    assert '<td class="n">0</td></tr>' in page.source


def test_of_older_runs_it_is_not_known(make_run: MakeRun) -> None:
    out = make_run()
    page = Page(write_report(out))
    assert page.source.count('<td class="n">not known</td></tr>') == 2
    assert "one colour" not in (out / "leaderboard.md").read_text()


def test_the_sample_stage_looks_at_what_it_wrote(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Censored(tinted_plugin.Plain):
        def generate(self, checkpoint, prompts, class_noun, backbone, *, seeds, sample):
            images = super().generate(
                checkpoint, prompts, class_noun, backbone, seeds=seeds, sample=sample
            )
            for number, image in enumerate(images):
                yield Image.new("RGB", image.size) if number == 1 else image

    class NoBackbone:
        def restore(self) -> None: ...

    checkpoint = Artifact(tmp_path / "checkpoint", {})
    with checkpoint.create() as folder:
        image = Image.effect_noise((8, 8), 50).convert("RGB")
        metadata = {"pixels": image.tobytes().hex()}
        tinted_plugin.Checkpoint(files={}, metadata=metadata, losses=[1.0]).save(folder)
    prompts = Photographs().prompts(DOG)[:3]
    artifact = Artifact(tmp_path / "samples", {})
    with caplog.at_level(logging.WARNING):
        stages.sample(
            artifact, RUN, DOG, Censored(), NoBackbone(),  # type: ignore[arg-type]
            checkpoint=checkpoint, settings=SampleSettings(), row=SuiteRow("plain", "plain"),
            jobs=[ImageJob(prompt, 0, 5) for prompt in prompts],
        )  # fmt: skip
    assert [s.one_colour for s in Samples.read(artifact).images] == [False, True, False]
    assert "1 of 3 images of plain/dog/0 is of one colour" in caplog.text


def test_borrowed_encoders_have_their_line_on_every_table(make_run: MakeRun) -> None:
    line = "mini-clip, mini-dino: encoders of the embedded world"
    encoders = {"dino": "mini-dino", "clip": "mini-clip"}
    out = make_run(banner=None, suite={"encoders": encoders})
    page = Page(write_report(out))
    assert line in " ".join(text_of(out).split())
    assert line in page.text
    assert "BLIP" not in page.source
    for file in (out / "report" / "tables").glob("*.md"):
        assert line in file.read_text()

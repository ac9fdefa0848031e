"""`dbbench.load_run`: an output folder of `dbbench run` as DataFrames."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from dbbench.reports.results import Results, load_results
from dbbench.storage.run_folder import all_references, runs_in, samples_of
from dbbench.suites.suite import Suite

IMAGES = ["method", "subject", "seed", "prompt", "category", "text", "image", "path"]
REFERENCES = ["subject", "image", "path", "credit"]
_INNER = ["suite", "banner", "oracle"]
"""Columns of the ranking that are constant or repeat another column."""


@dataclass(frozen=True)
class RunResults:
    """The results in an output folder as DataFrames; made by `load_run`."""

    folder: Path
    _results: Results

    @property
    def suite(self) -> Suite:
        """The suite of the run, with all settings."""
        return self._results.suite

    @property
    def banner(self) -> str | None:
        """A note to show beside the numbers, or None."""
        return self._results.banner

    @property
    def scores(self) -> pd.DataFrame:
        """One row per image and metric: suite, method, subject, class_noun, kind, seed, prompt,
        category, image, metric, value.

        `prompt` is the prompt's id and `image` a file in the run's samples. Method "real-images"
        are the references, each compared with the subject's other references.
        """
        return self._results.scores.copy()

    @property
    def leaderboard(self) -> pd.DataFrame:
        """One row per method: the real images first, then the best by the first metric first.

        For each metric, such as "dino": `dino` (the mean over subjects of the mean over images),
        `dino_low` and `dino_high` (its 95% interval, which resamples subjects), `dino_rank` (NA
        if runs are missing) and `dino_tied` (whether another method shares the rank). `note`
        names the missing runs, `reason` explains a missing interval.
        """
        return self._results.leaderboard.ranking.drop(columns=_INNER)

    @property
    def differences(self) -> pd.DataFrame:
        """One row per metric and two methods, paired by subject: metric, a, b, difference (a - b),
        low, high (95%), p, p_holm, subjects, reason.
        """
        return self._results.leaderboard.differences.drop(columns=_INNER[:2])

    @cached_property
    def images(self) -> pd.DataFrame:
        """One row per sampled image: method, subject, seed, prompt, category, text, image, path.

        `text` is the prompt without an identifier. `image` is as in `scores`, so that both tables
        can be merged; `path` is the file. Raises UserError if a run's folder is damaged.
        """
        rows = []
        for run in runs_in(self.folder):
            if (samples := samples_of(self.folder, run)) is None:
                continue
            for image in samples.images:
                asked = (image.prompt, image.category, image.text, image.file)
                rows.append((*astuple(run), *asked, samples.path(image)))
        return pd.DataFrame(rows, columns=IMAGES)

    @cached_property
    def references(self) -> pd.DataFrame:
        """One row per reference image: subject, image, path, credit (to show beside the image).

        Raises UserError if a folder of references is damaged.
        """
        rows = [
            (subject, image.file, found.path(image), image.credit)
            for subject, found in all_references(self.folder).items()
            for image in found.images
        ]
        return pd.DataFrame(rows, columns=REFERENCES)


def load_run(folder: str | Path) -> RunResults:
    """Return the results in an output folder of `dbbench run` or `dbbench.run`.

    Raises UserError if the folder has no scores, or scores of another version.

        results = dbbench.load_run("results/mini")
        results.leaderboard[["method", "dino", "dino_low", "dino_high"]]
    """
    out = Path(folder).expanduser()
    return RunResults(out, load_results(out))

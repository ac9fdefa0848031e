"""What lies where in an output folder: the one place that knows its names."""

from __future__ import annotations

from dbbench.suites.runs import Run

SCORES = "scores.parquet"
"""One row per image and metric."""
SCORES_MANIFEST = "scores.json"
"""What the score table was made from, and the hashes of it and of the leaderboard."""
LEADERBOARD = ("leaderboard.parquet", "leaderboard.csv", "leaderboard.md")
PAGE = "report/index.html"


def folder_of(run: Run) -> str:
    """Return the folder of a run inside the output folder."""
    return f"runs/{run.method}/{run.subject}/{run.seed}"

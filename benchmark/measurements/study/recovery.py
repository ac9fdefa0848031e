"""Tests whether the analysis recovers the true shares of simulated raters within its intervals.

    python benchmark/measurements/study/recovery.py \\
        --out benchmark/measurements/results/study-recovery.json

The paper's study: 1,800 answers on 600 pairs, 25 questions per rater, 3 raters per pair. Raters err
at different rates. Their true preferences are set so that the expected shares, of majority
votes or of all answers, equal those of the paper.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dbbench.study.analysis.shares import ANSWERS, Share, majority_shares, raw_shares
from dbbench.study.analysis.simulate import Crowd, simulate_votes
from dbbench.study.analysis.summary import SIMULATED

# Ruiz et al., arXiv 2208.12242, Table 2: DreamBooth, Textual Inversion, undecided.
PAPER = {"subject fidelity": (0.68, 0.22, 0.10), "prompt fidelity": (0.81, 0.12, 0.07)}
MEASURES = {"by majority": majority_shares, "of all answers": raw_shares}


def main(
    studies: Annotated[int, typer.Option(min=1)] = 100,
    error: Annotated[float, typer.Option(help="Mean error rate of the raters.")] = 0.1,
    only: Annotated[str | None, typer.Option(help=" or ".join(MEASURES))] = None,
    out: Annotated[Path | None, typer.Option(help="Write the counts to this JSON file.")] = None,
) -> None:
    """Count the studies whose 95% intervals contain the true shares, each alone and all three."""
    counts: dict[str, Any] = {"studies": studies, "error": error, "note": SIMULATED}
    measures = MEASURES if only is None else {only: MEASURES[only]}
    table = Table("shares", "measure", *ANSWERS, "each alone", "all three, joint interval")
    with Progress(console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("simulating", total=studies * len(PAPER) * len(measures))
        for title, shares in PAPER.items():
            for measure, analyse in measures.items():
                crowd = Crowd((1.0, 0.0, 0.0), error).with_expected(
                    shares, 3, majority=measure == "by majority"
                )
                alone, joint = [0, 0, 0], 0
                for seed in range(studies):
                    votes = simulate_votes(
                        crowd, pairs=600, raters_per_pair=3, questions_per_rater=25, seed=seed
                    )
                    row = analyse(votes)
                    found = [row.first, row.second, row.undecided]
                    pairs = list(zip(found, shares, strict=True))
                    for i, (share, true) in enumerate(pairs):
                        alone[i] += _holds(share, true)
                    joint += all(_holds_all(share, true) for share, true in pairs)
                    bars.advance(bar)
                counts[f"{title}, {measure}"] = {
                    **dict(zip(ANSWERS, alone, strict=True)),
                    "all three, joint interval": joint,
                }
                table.add_row(title, measure, *map(str, alone), str(min(alone)), str(joint))
    Console().print(table, f"of {studies} studies each; {SIMULATED}")
    if out is not None:
        known = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
        key = f"{studies} studies"
        known[key] = known.get(key, {}) | counts
        out.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def _holds(share: Share, true: float) -> bool:
    return share.low is not None and share.high is not None and share.low <= true <= share.high


def _holds_all(share: Share, true: float) -> bool:
    low, high = share.low_all, share.high_all
    return low is not None and high is not None and low <= true <= high


if __name__ == "__main__":
    typer.run(main)

"""Answers to a study as a table, from one line of words each, for the tests of its analysis."""

from __future__ import annotations

import pandas as pd


def rows(
    *answers: str, origin: str = "link", methods: tuple[str, str] = ("b", "a")
) -> pd.DataFrame:
    """Each answer is "rater pair choice [known answer]"; the left method is the later name."""
    table = []
    for number, answer in enumerate(answers):
        rater, pair, choice, *check = answer.split()
        table.append(
            {
                "rater": rater,
                "pair": pair,
                "question": "subject",
                "subject": "dog",
                "prompt": "jungle",
                "left_method": methods[0],
                "right_method": methods[1],
                "left_image": f"{pair}-left",
                "right_image": f"{pair}-right",
                "choice": choice,
                "check": check[0] if check else "",
                "seconds": float(number + 1),
                "answered_at": "2026-01-01T00:00:00+00:00",
                "origin": origin,
            }
        )
    return pd.DataFrame(table)

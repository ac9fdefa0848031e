"""Work is shown as a bar on a terminal, and as a line for each status elsewhere."""

from __future__ import annotations

import pytest
from rich.console import Console

from dbbench.bars import make_bars, shown


def test_without_a_terminal_there_is_a_line_for_each_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with shown("reading") as (status, advance):
        status("encoding [8] images")
        advance(3, 8, {})
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "encoding [8] images\n")


@pytest.mark.parametrize("width", [60, 120])
def test_a_bar_says_how_far_and_how_long(width: int) -> None:
    console = Console(width=width, force_terminal=True, color_system=None, legacy_windows=False)
    bars = make_bars(console)
    bars.add_task("all [of] it", total=8, completed=2, left=125.0)
    bars.add_task("unknown", total=None)
    with console.capture() as capture:
        console.print(bars.get_renderable())
    first, second = capture.get().splitlines()
    assert first.startswith("all [of] it ")
    assert "2/8 2 min left" in first
    assert second.startswith("unknown ")
    assert max(len(first), len(second)) <= width

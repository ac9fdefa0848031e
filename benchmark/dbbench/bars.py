"""Progress bars for the terminal, used by all packages that do long work.

running/display prints the progress of tasks as lines of text or JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text
from typing_extensions import override

from dbbench.advance import Advance, silent
from dbbench.terminal import plain_console
from dbbench.units import duration, per_second


def make_bars(console: Console) -> Progress:
    """Return bars that fit the terminal and are removed at the end.

    A task may have the fields `detail` (text to show), `unit` (to show the rate in) and `left`
    (seconds, or None while unknown). Without `left`, the time left follows from the speed.
    """
    label, figures = (38, 42) if console.width >= 100 else (27, 20)
    return Progress(
        TextColumn("{task.description}", markup=False, table_column=_column(label)),
        BarColumn(None, table_column=Column(ratio=1)),
        _Figures(_column(figures)),
        console=console,
        transient=True,
        expand=True,
    )


@contextmanager
def shown(text: str = "") -> Iterator[tuple[Callable[[str], None], Advance]]:
    """Show progress on stderr while open; yield `status(text)` and the callback `advance`.

    On a terminal it is a bar labelled `text`, then the last status; elsewhere a line per status.
    """
    console = plain_console(stderr=True)
    if not console.is_terminal:
        yield (lambda text: console.print(text, markup=False, highlight=False)), silent
        return
    with make_bars(console) as bars:
        task = bars.add_task(text, total=None)

        def advance(done: int, total: int, figures: Mapping[str, Any], /) -> None:
            bars.update(task, completed=done, total=total or None)

        yield (lambda text: bars.reset(task, description=text, total=None)), advance


class _Figures(ProgressColumn):
    """Renders the known figures, such as "40/100 2 min left 12.3 step/s loss 0.123"."""

    @override
    def render(self, task: Task) -> Text:
        left = task.fields.get("left", task.time_remaining)
        unit = task.fields.get("unit")
        parts = [
            f"{task.completed:,.0f}/{task.total:,.0f}" if task.total else "",
            f"{duration(left)} left" if left is not None and not task.finished else "",
            f"{per_second(task.speed)} {unit}/s" if unit and task.speed else "",
            task.fields.get("detail", ""),
        ]
        return Text(" ".join(filter(None, parts)))


def _column(width: int) -> Column:
    return Column(width=width, no_wrap=True, overflow="ellipsis")

"""What the terminal shows while a recipe runs."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True, highlight=False, soft_wrap=True)


class Bar:
    """One progress bar; an `advance` for each step done."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, count: int = 1, **shown: float) -> None:
        figures = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        self._progress.update(self._task, advance=count, **({"figures": figures} if shown else {}))


@contextmanager
def progress(title: str, total: int) -> Iterator[Bar]:
    """A bar with time left. Where the output is no terminal: one line when it starts and one when it ends."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    shown = sys.stderr.isatty()
    if not shown:
        console.print(f"{title}: {total} steps")
    with Progress(*columns, console=console, transient=True, disable=not shown) as bars:
        yield Bar(bars, bars.add_task(title, total=total, figures=""))


def log(message: str) -> None:
    """One line that stays."""
    console.print(message, markup=False)

"""What the terminal shows."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from compress.pages import findings, words
from compress.report.parts import Space
from compress.report.report import Report

# Progress goes to stderr, results to stdout, so that results can be piped.
errors = Console(stderr=True, highlight=False, soft_wrap=True)
output = Console(highlight=False)


class Bar:
    """One progress bar; an `advance` for each step done."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, count: int = 1, **shown: float) -> None:
        """Count steps as done and show figures beside the bar."""
        if shown:
            self._progress.update(self._task, figures="  ".join(f"{name} {value:.4g}" for name, value in shown.items()))
        self._progress.advance(self._task, count)


@contextmanager
def progress(title: str, total: int) -> Iterator[Bar]:
    """A bar with time left; where the output is no terminal, one line as it starts."""
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
        errors.print(f"{title}: {total} steps", markup=False)
    with Progress(*columns, console=errors, transient=True, disable=not shown) as bars:
        yield Bar(bars, bars.add_task(title, total=total, figures=""))


def log(message: str) -> None:
    """One line that stays."""
    errors.print(message, markup=False)


def say(message: str) -> None:
    """One line of a result."""
    output.print(message, markup=False, soft_wrap=True)


def table(columns: Iterable[str], rows: Iterable[Iterable[str]], title: str | None = None, wrap: bool = False) -> None:
    """A table on stdout; all columns but the first are right-aligned, and kept on one line unless `wrap`."""
    shown = Table(title=None if title is None else escape(title), title_justify="left")
    for i, column in enumerate(columns):
        shown.add_column(escape(column), justify="left" if i == 0 else "right", no_wrap=i > 0 and not wrap)
    for row in rows:
        shown.add_row(*map(escape, row))
    output.print(shown)


def report(content: Report) -> None:
    """Costs, quality, latency, gates, what is worse, and the verdict."""
    table(("", "teacher (PyTorch)", "student (onnxruntime)", "ratio"), findings.costs(content))
    for title, rows in findings.groups(content):
        timed = [
            (
                row.name,
                f"{row.ms:.3g}",
                words.span(row.interval, digits=3),
                f"{row.speedup:.3g}×",
                findings.against_student(row, rows),
            )
            for row in rows
        ]
        table(("", "ms a call", "95% interval", "speedup", "against the student"), timed, f"latency, {title}")
    for failed in content.failed:
        say(f"{failed.name}: failed: {failed.reason}")
    own = ((metric, "", figure) for metric, figure in content.quality.items())
    table((*findings.QUALITY[:4], ""), ((*row[:4], row[5]) for row in findings.qualities(own)))  # without the floors
    _spaces(content.spaces)
    for metric, reason in content.unmeasured.items():
        say(f"{words.name(metric)}: not measured: {reason}")
    if content.gates:
        table(findings.GATES, findings.gates(content))
    say(f"worse: {'; '.join(findings.shortfalls(content)) or 'nothing that was measured'}")
    style = {"pass": "bold green", "fail": "bold red"}.get(content.verdict, "bold yellow")
    output.print(f"verdict: {content.verdict}", style=style)
    if unjudged := findings.unjudged(content):
        say(unjudged)


def _spaces(spaces: Mapping[str, Space]) -> None:
    """Distances in every feature space, a column each, with what is said of them."""
    rows = []
    for metric in dict.fromkeys(metric for space in spaces.values() for metric in space.metrics):
        figures = [space.metrics.get(metric) for space in spaces.values()]
        cells = (
            f"{words.number(figure.value, metric)} {words.finding(figure)}" if figure else "–" for figure in figures
        )
        rows.append((words.name(metric), *map(str.strip, cells)))
    if rows:
        table(("in the space", *spaces), rows, wrap=True)

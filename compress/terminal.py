"""What the terminal shows."""

import sys
import time
from collections.abc import Iterator
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

from compress.pages import findings, tables, targets
from compress.pages.candidate import tables_of
from compress.report.candidate import Candidate
from compress.report.parts import Verdict
from compress.report.report import Report

# Progress goes to stderr, results to stdout, so that results can be piped.
errors = Console(stderr=True, highlight=False, soft_wrap=True)
output = Console(highlight=False)
EVERY = 60.0  # seconds from one line of progress to the next where the output is no terminal


class Bar:
    """One progress bar; an `advance` for each step done."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, count: int = 1, **shown: float) -> None:
        """Count steps as done and show figures beside the bar."""
        if shown:
            self._progress.update(self._task, figures="  ".join(f"{name} {value:.4g}" for name, value in shown.items()))
        self._progress.advance(self._task, count)


class Lines(Bar):
    """The same where the output is no terminal: one line as it starts, then one every EVERY seconds."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        super().__init__(progress, task)
        self._said = time.monotonic()
        shown = progress.tasks[task]
        log(f"{shown.description}: {shown.total:.0f} steps")

    def advance(self, count: int = 1, **shown: float) -> None:
        """Count steps as done, and say how far it came."""
        super().advance(count, **shown)
        if time.monotonic() - self._said < EVERY:
            return
        self._said = time.monotonic()
        task = self._progress.tasks[self._task]
        left = "" if task.time_remaining is None else f", {max(task.time_remaining / 60, 1):.0f} min left"
        log(f"{task.description}: {task.completed:.0f} of {task.total:.0f}{left}  {task.fields['figures']}".rstrip())


@contextmanager
def progress(title: str, total: int) -> Iterator[Bar]:
    """A bar with time left; where the output is no terminal, lines."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    shown = sys.stderr.isatty()
    with Progress(*columns, console=errors, transient=True, disable=not shown) as bars:
        yield (Bar if shown else Lines)(bars, bars.add_task(title, total=total, figures=""))


def log(message: str) -> None:
    """One line that stays."""
    errors.print(message, markup=False)


def say(message: str) -> None:
    """One line of a result."""
    output.print(message, markup=False, soft_wrap=True)


def table(shown: tables.Table, columns: int | None = None) -> None:
    """A table on stdout, or its first columns, all but the first right-aligned; what is shorter stands below it."""
    if not shown.rows:
        return
    drawn = Table(title=escape(shown.title) or None, title_justify="left", show_edge=False)
    for i, head in enumerate(shown.heads[:columns]):
        drawn.add_column(escape(head), justify="right" if i else "left")
    for row in shown.rows:
        if len(row) == len(shown.heads):
            drawn.add_row(*(escape(str(cell)) for cell in row[:columns]))
    output.print(drawn)
    for row in shown.rows:
        if len(row) < len(shown.heads):
            say(": ".join(map(str, row)))
    output.print()


def report(content: Report) -> None:
    """Costs, quality, latency, gates, what is worse, and the verdict."""
    table(tables.costs(content))
    table(tables.pipeline(content))
    for timed in tables.latency(content):
        table(timed)
    table(targets.engines(content))
    table(targets.targets(content))
    table(tables.quality(content), 3)
    table(tables.gates(content))
    say(f"worse: {'; '.join(findings.shortfalls(content)) or 'nothing that was measured'}")
    _verdict(content.verdict)
    if unjudged := findings.unjudged(content):
        say(unjudged)


def candidate(content: Candidate) -> None:
    """Figures, findings and the verdict on a file that another tool made."""
    for shown in tables_of(content):
        table(shown)
    for finding in content.findings:
        say(f"{'wrong' if finding.certain else 'perhaps'}: {finding.said}")
    _verdict(content.verdict)
    if content.verdict == "not judged":
        say("nothing is surely wrong; limits make a pass: a recipe with verify: {gates: {output_error: {max: 0.05}}}")


def _verdict(verdict: Verdict) -> None:
    style = {"pass": "bold green", "fail": "bold red"}.get(verdict, "bold yellow")
    output.print(f"verdict: {verdict}", style=style)

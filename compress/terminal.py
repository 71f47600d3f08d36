"""What the terminal shows."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

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

from compress.report import words

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


def report(content: Mapping[str, Any]) -> None:
    """Costs, quality, latency, gates, what is worse, and the verdict of a `report.json`."""
    teacher, student, ratios = content["teacher"], content["student"], content["ratios"]
    rows = [
        (label, form.format(teacher[key]), form.format(student[key]), f"{ratios[ratio]:.3g}×")
        for label, key, ratio, form in (
            ("parameters", "params", "params", "{:,}"),
            ("multiply-accumulates a call", "macs", "macs", "{:,}"),
            ("bytes", "bytes", "bytes", "{:,}"),
            ("ms a call", "ms_per_call", "call_speedup", "{:.2f}"),
            ("ms an image", "ms_per_image", "image_speedup", "{:.1f}"),
        )
    ]
    table(("", "teacher (PyTorch)", "student (onnxruntime)", "ratio"), rows)
    for batch, threads, engines in words.groups(content):
        timed = [_engine(row, engines) for row in engines if "reason" not in row]
        title = f"latency, batch {batch}, threads: {threads}"
        table(("", "ms a call", "95% interval", "speedup", "against the student"), timed, title)
        for row in engines:
            if "reason" in row:
                say(f"{row['name']}: failed: {row['reason']}")
    quality = [
        (
            words.name(metric),
            words.number(entry["value"], metric),
            words.span(entry.get("interval"), metric),
            words.number(entry.get("teacher"), metric),
            words.finding(entry),
        )
        for metric, entry in content["quality"].items()
        if "reason" not in entry
    ]
    table(("quality", "student", "95% interval", "teacher's own", ""), quality)
    _spaces(content.get("spaces") or {})
    unmeasured: dict[str, list[str]] = {}
    for metric, space, entry in words.entries(content):
        if "reason" in entry:
            unmeasured.setdefault(f"{words.name(metric)}: not measured: {entry['reason']}", []).append(space)
    for line, where in unmeasured.items():
        say(line + (f" ({', '.join(where)})" if any(where) else ""))
    if content["gates"]:
        gates = [
            (
                words.gate(gate),
                words.limit(gate),
                words.held(gate, "value"),
                words.held(gate, "bound"),
                words.outcome(gate),
            )
            for gate in content["gates"]
        ]
        table(("gate", "limit", "value", "far end of its interval", ""), gates)
    say(f"worse: {'; '.join(words.shortfalls(content)) or 'nothing that was measured'}")
    style = {"pass": "bold green", "fail": "bold red"}.get(content["verdict"], "bold yellow")
    output.print(f"verdict: {content['verdict']}", style=style)
    if unjudged := words.unjudged(content):
        say(unjudged)


def _spaces(spaces: Mapping[str, Any]) -> None:
    """Distances in every feature space, a column each, with what is said of them."""
    metrics = dict.fromkeys(metric for content in spaces.values() for metric in content["metrics"])
    rows = []
    for metric in metrics:
        entries = [content["metrics"].get(metric, {}) for content in spaces.values()]
        if any("value" in entry for entry in entries):
            cells = (f"{words.number(entry.get('value'), metric)} {words.finding(entry)}".strip() for entry in entries)
            rows.append((words.name(metric), *cells))
    if rows:
        table(("in the space", *spaces), rows, wrap=True)


def _engine(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    span, speedup = words.span(row["interval"], digits=3), words.number(row["speedup"], digits=3)
    return row["name"], f"{row['ms']:.3g}", span, f"{speedup}×", words.against_student(row, rows)

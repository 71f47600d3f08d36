"""What the terminal shows."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
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


def table(columns: Iterable[str], rows: Iterable[Iterable[str]], title: str | None = None) -> None:
    """A table on stdout; all columns but the first are right-aligned."""
    shown = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        shown.add_column(column, justify="left" if i == 0 else "right", no_wrap=i > 0)
    for row in rows:
        shown.add_row(*row)
    output.print(shown)


def report(content: Mapping[str, Any]) -> None:
    """Costs, quality, gates and verdict of a `report.json`."""
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
    output.print(
        f"The teacher in onnxruntime fp32 takes {content['teacher_onnxruntime']['ms_per_call']:.2f} ms a call: "
        f"the student is {ratios['call_speedup_over_onnxruntime']:.2f}× as fast."
    )
    quality = [
        (name, f"{entry['value']:.4f}", "{:.4f} … {:.4f}".format(*entry["interval"]) if entry["interval"] else "")
        for name, entry in content["quality"].items()
        if "value" in entry
    ]
    table(("quality", "value", "95% interval"), quality)
    if content["gates"]:
        gates = [
            (
                gate["name"],
                f"{'≥' if gate['kind'] == 'min' else '≤'} {gate['limit']:g}",
                f"{gate['value']:.4g}",
                "pass" if gate["passed"] else "FAIL",
            )
            for gate in content["gates"]
        ]
        table(("gate", "limit", "value", ""), gates)
    output.print(f"verdict: {content['verdict']}", style="bold green" if content["verdict"] == "pass" else "bold red")

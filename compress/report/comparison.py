"""compare.html: several students of one teacher, side by side, from their reports."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.errors import ReportError
from compress.report import plots, words
from compress.report.page import render
from compress.report.schema import read_report
from compress.report.thumbnails import data_uri

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Student:
    """A student with a name that no other of the comparison has."""

    name: str
    folder: Path
    report: Report


@dataclass(frozen=True)
class Cell:
    """A figure, its interval (or nothing) and what is said of it (or nothing)."""

    text: str
    small: str = ""
    said: str = ""


@dataclass(frozen=True)
class Row:
    """One figure of every student; `teacher` where it is the same for all of them."""

    label: str
    teacher: str
    cells: Sequence[Cell]


def read(folders: Sequence[Path]) -> list[Student]:
    """The students in their order. Raises ReportError unless they can stand side by side.

    They must be of one teacher (its parameters and multiply-accumulates) and, where it is known,
    have been judged against one reference.
    """
    if len(folders) < 2:
        raise ReportError("compare needs at least two bundles: name two result folders or more")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ReportError("compare: a bundle is named twice")
    names = [folder.resolve().parent.name if folder.name == "onnx" else folder.resolve().name for folder in folders]
    unique = len(set(names)) == len(names)
    students = [
        Student(name if unique else str(folder), folder, read_report(folder))
        for name, folder in zip(names, folders, strict=True)
    ]
    first = students[0]
    for student in students[1:]:
        _comparable(first, student)
    return students


def caveats(students: Sequence[Student]) -> list[str]:
    """What makes figures of these reports less comparable than they look."""
    found = []
    for key, what in (("cpu", "processors"), ("threads", "numbers of threads"), ("torch", "versions of PyTorch")):
        values = sorted({str((student.report.get("environment") or {}).get(key, "unknown")) for student in students})
        if len(values) > 1:
            found.append(f"timed on different {what} ({', '.join(values)}): compare ratios, not milliseconds")
    found += [f"{student.name} is not judged: {why}" for student in students if (why := words.unjudged(student.report))]
    older = [student.name for student in students if "format" not in student.report]
    if older:
        found.append(f"without noise floors, from an older version: {', '.join(older)}")
    if len({(student.report.get("reference") or {}).get("identity") for student in students}) > 1:
        found.append("not every report says which reference it was judged against")
    return found


def table(students: Sequence[Student]) -> list[Row]:
    """The figures that any of the students has; a dash where one has it not."""
    reports = [student.report for student in students]
    teacher = reports[0]["teacher"]
    rows = [
        Row("verdict", "", [Cell(report["verdict"], said=report["verdict"]) for report in reports]),
        Row("size", words.size(teacher["bytes"]), _sized(reports, "bytes", words.size)),
        Row("multiply-accumulates a call", words.amount(teacher["macs"]), _sized(reports, "macs", words.amount)),
        Row("parameters", words.amount(teacher["params"]), _sized(reports, "params", words.amount)),
        Row("a call", "", [Cell(words.ms(report["student"]["ms_per_call"])) for report in reports]),
        Row("an image", "", [Cell(words.ms(report["student"]["ms_per_image"])) for report in reports]),
    ]
    for key in ("call_speedup", "call_speedup_over_onnxruntime", "image_speedup"):
        rows.append(Row(words.name(key), "", [_speedup(report, key) for report in reports]))
    found = [
        {(metric, space): entry for metric, space, entry in words.entries(report) if metric != "teacher_class_accuracy"}
        for report in reports
    ]
    for metric, space in dict.fromkeys(key for entries in found for key in entries):
        label = words.name(metric) + (f" ({space})" if space else "")
        entries = [each.get((metric, space)) for each in found]
        own = {words.number(entry.get("teacher"), metric) for entry in entries if entry} - {"–"}
        rows.append(Row(label, own.pop() if len(own) == 1 else "", [_figure(entry, metric) for entry in entries]))
    return rows


def comparison(students: Sequence[Student]) -> str:
    """One HTML file with the table, the plots and the samples of every student."""
    probes = {student.name: student.report["probe"] for student in students if student.report.get("probe")}
    return render(
        "comparison.html.jinja",
        title=f"{len(students)} students of one teacher",
        students=students,
        rows=table(students),
        caveats=caveats(students),
        shortfalls={student.name: words.shortfalls(student.report) for student in students},
        trades=_trades(students),
        probe=plots.probe(probes) if probes else None,
        latency=_latency(students),
        pictures={s.name: data_uri(p.read_bytes()) for s in students if (p := _home(s) / "samples.png").is_file()},
    )


def _comparable(first: Student, other: Student) -> None:
    for key in ("params", "macs"):
        ours, theirs = first.report["teacher"][key], other.report["teacher"][key]
        if ours != theirs:
            raise ReportError(
                f"{other.folder}: has another teacher than {first.folder} ({key} {theirs:,}, not {ours:,}); "
                "compare students of one teacher"
            )
    ours, theirs = ((student.report.get("reference") or {}).get("identity") for student in (first, other))
    if ours and theirs and ours != theirs:
        raise ReportError(
            f"{other.folder}: was judged against another reference than {first.folder} ({theirs}, not {ours}): "
            "another teacher, sampling or number of images; verify both with the same recipe"
        )


def _sized(reports: Sequence[Report], key: str, say: Callable[[float], str]) -> list[Cell]:
    return [Cell(say(report["student"][key]), f"{report['ratios'][key]:.3g}×") for report in reports]


def _speedup(report: Report, key: str) -> Cell:
    ratio, interval = report["ratios"].get(key), (report.get("intervals") or {}).get(key)
    if ratio is None:
        return Cell("–")
    return Cell(f"{ratio:.3g}×", words.span(interval, digits=3), "SLOWER" if ratio < 1 else "")


def _figure(entry: Mapping[str, Any] | None, metric: str) -> Cell:
    if entry is None or "reason" in entry:
        return Cell("–", "" if entry is None else "not measured")
    return Cell(words.number(entry["value"], metric), words.span(entry.get("interval"), metric), words.finding(entry))


def _trades(students: Sequence[Student]) -> list[Any]:
    """Cost against output error, where every student has it."""
    entries = [student.report["quality"].get("output_error", {}) for student in students]
    if any("value" not in entry for entry in entries):
        return []
    return [
        plots.trade(
            [
                (student.name, student.report["student"][key] * scale, entry["value"])
                for student, entry in zip(students, entries, strict=True)
            ],
            label,
            "relative output error",
            None,
            path=False,
        )
        for key, scale, label in (("bytes", 1e-6, "MB"), ("ms_per_call", 1, "ms a call"))
    ]


def _latency(students: Sequence[Student]) -> list[dict[str, Any]]:
    """Bars of every student's own row, by batch and threads, with the first report's baselines above them."""
    rows: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for number, student in enumerate(students):
        for batch, threads, engines in words.groups(student.report):
            for row in engines:
                if words.is_student(row):
                    named = {**row, "name": f"student {student.name}"}
                elif number == 0:
                    named = dict(row)
                else:
                    continue
                rows.setdefault((batch, threads), []).append(named)
    return [
        {"batch": batch, "threads": threads, "plot": plots.latency(group)} for (batch, threads), group in rows.items()
    ]


def _home(student: Student) -> Path:
    return student.folder.parent if (student.folder / "bundle.json").is_file() else student.folder

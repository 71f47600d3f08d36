"""compare.html: several students of one teacher, side by side, from their reports."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from compress.errors import ReportError
from compress.pages import findings, plots, words
from compress.pages.page import render
from compress.pages.thumbnails import data_uri
from compress.report.parts import Figure, Latency
from compress.report.report import Report
from compress.report.report import read as read_report


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

    They must be of one teacher (its parameters and multiply-accumulates) and judged against one reference.
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
        values = sorted({str(getattr(student.report.environment, key)) for student in students})
        if len(values) > 1:
            found.append(f"timed on different {what} ({', '.join(values)}): compare ratios, not milliseconds")
    return found + [
        f"{student.name} is not judged: {why}" for student in students if (why := findings.unjudged(student.report))
    ]


def table(students: Sequence[Student]) -> list[Row]:
    """The figures that any of the students has; a dash where one has it not."""
    reports = [student.report for student in students]
    teacher = reports[0].teacher
    rows = [
        Row("verdict", "", [Cell(report.verdict, said=report.verdict) for report in reports]),
        Row("size", words.size(teacher.bytes), _sized(reports, "bytes", words.size)),
        Row("multiply-accumulates a call", words.amount(teacher.macs), _sized(reports, "macs", words.amount)),
        Row("parameters", words.amount(teacher.params), _sized(reports, "params", words.amount)),
        Row("a call", "", [Cell(words.ms(report.student.ms_per_call)) for report in reports]),
        Row("an image", "", [Cell(words.ms(report.student.ms_per_image)) for report in reports]),
    ]
    for key in ("call_speedup", "call_speedup_over_onnxruntime", "image_speedup"):
        rows.append(Row(words.name(key), "", [_speedup(report.ratios[key]) for report in reports]))
    found = [{(metric, space): figure for metric, space, figure in report.figures()} for report in reports]
    for metric, space in dict.fromkeys(key for figures in found for key in figures):
        figures = [each.get((metric, space)) for each in found]
        own = {words.number(figure.teacher, metric) for figure in figures if figure} - {"–"}
        cells = [_figure(figure, metric) for figure in figures]
        rows.append(Row(words.where(metric, space), own.pop() if len(own) == 1 else "", cells))
    return rows


def comparison(students: Sequence[Student]) -> str:
    """One HTML file with the table, the plots and the samples of every student."""
    errors = [
        (s.name, s.report.student, s.report.quality["output_error"].value)
        for s in students
        if "output_error" in s.report.quality
    ]
    probes = {student.name: student.report.probe for student in students if student.report.probe}
    return render(
        "comparison.html.jinja",
        title=f"{len(students)} students of one teacher",
        students=students,
        rows=table(students),
        caveats=caveats(students),
        shortfalls={student.name: findings.shortfalls(student.report) for student in students},
        trades=plots.trades(errors) if len(errors) == len(students) else [],
        probe=plots.probe(probes) if probes else None,
        latency=_latency(students),
        pictures={s.name: data_uri(p.read_bytes()) for s in students if (p := _home(s) / "samples.png").is_file()},
    )


def _comparable(first: Student, other: Student) -> None:
    for key in ("params", "macs"):
        ours, theirs = getattr(first.report.teacher, key), getattr(other.report.teacher, key)
        if ours != theirs:
            raise ReportError(
                f"{other.folder}: has another teacher than {first.folder} ({key} {theirs:,}, not {ours:,}); "
                "compare students of one teacher"
            )
    ours, theirs = first.report.reference.identity, other.report.reference.identity
    if ours != theirs:
        raise ReportError(
            f"{other.folder}: was judged against another reference than {first.folder} ({theirs}, not {ours}): "
            "another teacher, sampling or number of images; verify both with the same recipe"
        )


def _sized(reports: Sequence[Report], key: str, say: Callable[[float], str]) -> list[Cell]:
    return [Cell(say(getattr(report.student, key)), f"{report.ratios[key].value:.3g}×") for report in reports]


def _speedup(ratio: Figure) -> Cell:
    return Cell(f"{ratio.value:.3g}×", words.span(ratio.interval, digits=3), "SLOWER" if ratio.value < 1 else "")


def _figure(figure: Figure | None, metric: str) -> Cell:
    if figure is None:
        return Cell("–")
    return Cell(words.number(figure.value, metric), words.span(figure.interval, metric), words.finding(figure))


def _latency(students: Sequence[Student]) -> list[tuple[str, Markup]]:
    """Bars of every student's own row, by batch and threads, with the first report's baselines above them."""
    found: dict[str, list[tuple[Latency, str]]] = {}
    for number, student in enumerate(students):
        for title, rows in findings.groups(student.report):
            named = [(row, row.name if row.side == "teacher" else f"{row.name}: {student.name}") for row in rows]
            found.setdefault(title, []).extend(one for one in named if number == 0 or one[0].side == "student")
    return [(title, plots.latency(*zip(*rows, strict=True))) for title, rows in found.items()]


def _home(student: Student) -> Path:
    return student.folder.parent if (student.folder / "bundle.json").is_file() else student.folder

"""The tables of a report, each written once: the page, the card, the comparison and the terminal only lay them out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress.pages import findings, words
from compress.report.candidate import Candidate
from compress.report.parts import Figure, Latency
from compress.report.report import Report

TIMES = {"call_speedup": "ms_per_call", "image_speedup": "ms_per_image"}


@dataclass(frozen=True)
class Cell:
    """A figure, what is said of it (or nothing), and in small type its interval (or nothing)."""

    text: str = ""
    said: str = ""
    small: str = ""

    def __str__(self) -> str:
        """In one line."""
        return " ".join(filter(None, (self.text, self.said, self.small and f"({self.small})")))


Cells = tuple[Cell | str, ...]


@dataclass(frozen=True)
class Table:
    """rows: under the heads; where a row is shorter, its last cell reaches to the end. folded: shown when asked for."""

    heads: tuple[str, ...]
    rows: Sequence[Cells]
    title: str = ""
    folded: bool = False


def gates(report: Report | Candidate) -> Table:
    """Every limit, and what was held against it."""
    rows: list[Cells] = []
    for gate in report.gates:
        held = words.held(gate.bound, gate), words.held(gate.value, gate)
        name = Cell(words.name(gate.name), small="always" if gate.always else "")
        found = (gate.reason,) if gate.reason else held
        rows.append((name, Cell(said=words.outcome(gate)), words.limit(gate), *found))
    return Table(("gate", "", "limit", "far end", "value"), rows)


def costs(report: Report) -> Table:
    """Sizes and times of both sides, and their ratios."""
    rows: list[Cells] = []
    for key, ratio in report.ratios.items():
        field = TIMES.get(key, key)
        ours, theirs = (getattr(side, field, None) for side in (report.student, report.teacher))
        say = words.ms if key in TIMES else words.number
        said, small = words.faster(ratio.value), words.span(ratio.interval, digits=3)
        if ratio.better == "less":
            said, small = "", f"{ratio.value:.3g}× the teacher's"
        rows.append((words.name(field), Cell("" if ours is None else say(ours), said, small), say(theirs)))
    return Table(("cost", "student, as it ships", "teacher, PyTorch"), rows)


def quality(report: Report) -> Table:
    """Every figure beside the teacher's own, and what was not measured."""
    agree = {metric: "yes" if same else Cell(said="NO") for metric, same in report.agreement.items()}
    rows: list[Cells] = [
        (
            _label(report, metric, space, figure),
            Cell(words.number(figure.value, metric), words.finding(figure), words.span(figure.interval, metric)),
            words.number(figure.teacher, metric),
            words.within(figure.floor, metric),
            Cell(words.change(figure.excess, metric), small=words.span(figure.excess_interval, metric, words.change)),
            agree.get(metric, "–") if space else "–",
        )
        for metric, space, figure in report.figures()
    ]
    rows += [(words.name(metric), f"not measured: {reason}") for metric, reason in report.unmeasured.items()]
    return Table(("figure", "student", "teacher's own", "floor", "student − teacher", "spaces agree"), rows)


def _label(report: Report, metric: str, space: str, figure: Figure) -> Cell | str:
    """A figure's name; of an attribute with what is known of the classifier."""
    text = f"{words.where(metric, space)} {'↑' if figure.better == 'more' else '↓'}"
    judge = report.attributes.get(space)
    if judge is None:
        return text
    return Cell(text, small=f"the classifier itself: {judge.accuracy:.1%} of {judge.count:,}")


def spaces(report: Report) -> Table:
    """What distributions were compared in."""
    few = Cell(said="Too few samples for so many: read the distances with care")
    rows: list[Cells] = [
        (name, words.SPACES.get(name, "your own"), str(space.dimension), "" if space.enough else few)
        for name, space in report.spaces.items()
    ]
    return Table(("feature space", "of", "dimensions", ""), rows)


def latency(report: Report) -> list[Table]:
    """Every engine, by batch and threads."""
    tables = []
    for title, rows in findings.groups(report):
        cells: list[Cells] = [
            (
                row.name,
                _ms(row),
                Cell(said=findings.against_student(row, rows)),
                Cell(f"{row.speedup:.3g}×", small=words.span(row.speedup_interval, digits=3)),
                words.ms(row.p90),
            )
            for row in rows
        ]
        cells += [(row.name, f"failed: {row.reason}") for row in report.failed if row.batch == rows[0].batch]
        tables.append(Table(("engine", "median", "against the student", "speedup", "p90"), cells, title))
    return tables


def pipeline(report: Report) -> Table:
    """What each part costs a picture, the teacher's → the student's, and the error that it makes alone."""
    rows: list[Cells] = []
    slow, fast = (sum(getattr(part, f"{side}_ms") for part in report.pipeline) for side in ("teacher", "student"))
    for part in report.pipeline:
        size = _change(part.teacher_bytes, part.student_bytes, words.size)
        time = _change(part.teacher_ms, part.student_ms, words.ms)
        share = f"{part.teacher_ms / slow:.0%} → {part.student_ms / fast:.0%}"
        rows.append((part.name, size, time, share, _decibels(part.psnr)))
    if rows:
        size, time = _change(report.teacher.bytes, report.student.bytes, words.size), _change(slow, fast, words.ms)
        rows.append(("all of it", size, time, "", _decibels(report.quality.get("psnr"))))
    return Table(("part", "bytes", "time", "share", "dB alone"), rows)


def _change(before: float, after: float, say: Callable[[float], str]) -> str:
    """Both, the unit once where it is the same."""
    (first, unit), (last, other) = (say(value).split() for value in (before, after))
    return f"{first} → {last} {other}" if unit == other else f"{first} {unit} → {last} {other}"


def _decibels(figure: Figure | None) -> Cell | str:
    if figure is None:
        return "–"
    return Cell(words.number(figure.value, digits=3), small=words.span(figure.interval, digits=3))


def few_steps(report: Report) -> Table:
    """The teacher with fewer steps, and the student."""
    mine, right = report.student.ms_per_image, report.quality.get("class_accuracy")
    rows: list[Cells] = []
    for row in report.few_steps:
        time = Cell(words.ms(row.ms_per_image), "FASTER" if row.ms_per_image < mine else "")
        figures = words.number(row.class_accuracy, "class_accuracy"), words.number(row.frechet)
        rows.append((row.name, str(row.evaluations), time, *figures))
    if rows:
        accuracy = words.number(None if right is None else right.value, "class_accuracy")
        rows.append(("the student as it ships", "–", words.ms(mine), accuracy, "–"))
    return Table(("", "evaluations", "an image", "class accuracy", "Fréchet distance"), rows)


def processes(report: Report) -> Table:
    """What starting from nothing takes."""
    return of("a fresh process", report.process, "name", "cold_start_s", "peak_memory_bytes")


def stages(report: Report) -> Table:
    """What every pass cost and gained."""
    fields = ("name", "bytes", "ms_per_call", "output_error", "sqnr_db", "params", "macs", "runtime")
    table = of("after", report.stages, *fields)
    return Table(table.heads, [(f"{place}. {name}", *rest) for place, (name, *rest) in enumerate(table.rows, 1)])


def by_class(report: Report) -> Table:
    """Class accuracy of both sides."""
    rows = [
        (str(row.label), *(words.number(value, "class_accuracy") for value in (row.teacher, row.student)))
        for row in report.by_class
    ]
    return Table(("class", "teacher", "student"), rows, "as a table", folded=True)


def quantization(report: Report) -> Table:
    """What int8 loses, simulated and real: SQNR against the float student."""
    levels = {} if report.quantization is None else dict(report.quantization)
    rows = [(words.name(field), words.number(level, digits=3)) for field, level in levels.items()]
    return Table(("against the float student", ""), rows)


def records(passes: Sequence[Mapping[str, Any]]) -> Table:
    """The passes that made the student, from their records; settings that are long or not set are left out."""
    rows = []
    for record in passes:
        shown = {key: value for key, value in record["config"].items() if value is not None and len(str(value)) < 80}
        settings = ", ".join(f"{key}: {value}" for key, value in shown.items()) or "default"
        rows.append((record["name"], f"{record['seconds']:.0f}", settings))
    return Table(("pass", "seconds", "settings"), rows)


def origin(report: Report, passes: Sequence[Mapping[str, Any]]) -> Table:
    """What it takes to reproduce a report. passes: the records, which know the libraries that made the student."""
    known = {**(passes[-1]["versions"] if passes else {}), **dict(report.environment), "seed": report.seed}
    known |= {f"reference, {key}": value for key, value in report.reference}
    return Table(("", ""), [(key, str(value)) for key, value in known.items()])


def side_by_side(reports: Mapping[str, Report]) -> Table:
    """Costs, times and quality of students, a column each by name; the teacher's where it is the same for all."""
    found = {name: {row[0]: row[1:] for row in _of_one(report)} for name, report in reports.items()}
    rows: list[Cells] = []
    for label in dict.fromkeys(label for own in found.values() for label in own):
        cells = [own.get(label, ("–", "–")) for own in found.values()]
        teacher = {theirs for _, theirs in cells} - {"–"}
        rows.append((label, *(ours for ours, _ in cells), teacher.pop() if len(teacher) == 1 else "–"))
    return Table(("figure", *reports, "teacher"), rows)


def _of_one(report: Report) -> Iterator[Cells]:
    """(label, the student's, the teacher's)."""
    yield "verdict", Cell(said=report.verdict), "–"
    yield from costs(report).rows
    for row in report.latency:
        if row.side == "student":
            yield f"{row.unit}, batch {row.batch}, threads: {row.threads}", _ms(row), "–"
    yield from (row[:3] for row in quality(report).rows if row[3:])


def _ms(row: Latency) -> Cell:
    return Cell(words.ms(row.ms), small=words.span(row.interval, digits=3))


def of(what: str, parts: Sequence[Any], *fields: str, title: str = "") -> Table:
    """A row for each of the parts, a column for each of its fields, in the words and the form of their own."""
    rows = [tuple(words.say(getattr(part, field), field) for field in fields) for part in parts]
    return Table((what, *map(words.name, fields[1:])), rows, title)

"""What follows from a report: the same statements in the page, the card, the comparison and the terminal."""

from collections.abc import Sequence
from itertools import groupby
from operator import attrgetter

from compress.judge.decision import on_quality
from compress.pages.words import finding, held, limit, ms, name, where
from compress.report.parts import Latency
from compress.report.report import Report

ALWAYS = "Gates marked “always” hold whatever the recipe says."
EXAMPLES = {  # gates on quality, the most telling first
    "class_accuracy": "{margin: 0.02}",
    "psnr": "{min: 25}",
    "output_error": "{max: 0.05}",
}


def summary(report: Report) -> str:
    """What was gained and lost, in one sentence."""
    ratios = report.ratios
    text = (
        f"{ratios['call_speedup'].value:.1f}× faster a call than the teacher in PyTorch and "
        f"{ratios['call_speedup_over_onnxruntime'].value:.1f}× than the teacher in onnxruntime fp32, "
        f"{ratios['bytes'].value:.2f}× its bytes, {ratios['macs'].value:.2f}× its multiply-accumulates"
    )
    if "class_agreement" in report.quality:
        text += f"; {report.quality['class_agreement'].value:.1%} of images are named as the teacher's"
    told = sorted({metric for metric, space, figure in report.figures() if space and figure.resolved})
    if any(space.metrics for space in report.spaces.values()):
        text += f"; told apart from the teacher by {', '.join(told)}" if told else "; not told apart from the teacher"
    return f"{text}."


def unjudged(report: Report) -> str:
    """Of a student that was not judged, why, and what to add to the recipe; else nothing."""
    if report.verdict != "not judged":
        return ""
    named = any(on_quality(decision.name) for decision in report.gates)
    why = "no gate on quality means anything for this student" if named else "the recipe has no gate on quality"
    measured = {metric for metric, _, _ in report.figures()}
    settings = next((f"gates: {{{key}: {EXAMPLES[key]}}}" for key in EXAMPLES if key in measured), None)
    return f"{why}; add one, such as verify: {{{settings or 'samples: 1000, gates: {coverage: {margin: 0.1}}'}}}"


def heaviest(report: Report) -> str:
    """Which part of a pipeline takes most of the student's time and bytes, and which makes most of its error; nothing
    where a net stands alone."""
    parts = report.pipeline
    if not parts:
        return ""
    slow, large = (max(parts, key=attrgetter(field)) for field in ("student_ms", "student_bytes"))
    text = f"most of its time goes to the {slow.name}, most of its bytes to the {large.name}"
    errors = [(part.psnr.value, part.name) for part in parts if part.psnr is not None]
    if errors:
        least, name = min(errors)
        text += f"; the {name} makes most of its error: {least:.3g} dB PSNR when it alone is the student's"
    return text[0].upper() + text[1:] + "."


def groups(report: Report) -> list[tuple[str, list[Latency]]]:
    """Latency rows by (batch, threads), in words."""
    found = groupby(report.latency, key=lambda row: (row.batch, row.threads))
    return [(f"batch {batch}, threads: {threads}", list(rows)) for (batch, threads), rows in found]


def against_student(row: Latency, rows: Sequence[Latency]) -> str:
    """What a baseline's latency says of the student's of the same unit: FASTER, slower, or not told apart (the
    intervals overlap)."""
    student = next((other for other in rows if (other.side, other.unit) == ("student", row.unit)), None)
    if row.side == "student" or student is None:
        return ""
    if row.interval[1] < student.interval[0]:
        return "FASTER"
    return "slower" if row.interval[0] > student.interval[1] else "not told apart"


def shortfalls(report: Report) -> list[str]:
    """Where the student is worse or a baseline is ahead, one plain statement each."""
    found = []
    for decision in report.gates:
        if decision.passed is None:
            found.append(f"gate {name(decision.name)} could not be judged")
        elif not decision.passed:
            found.append(
                f"gate {name(decision.name)} fails: {held(decision.value, decision)} against {limit(decision)}"
            )
    for key, ratio in report.ratios.items():
        if ratio.better == "more" and ratio.value < 1:
            found.append(f"{name(key)} is below 1: {ratio.value:.3g}×")
        elif ratio.better == "less" and ratio.value > 1:
            found.append(f"more {name(key)} than the teacher: {ratio.value:.3g}×")
    worse: dict[str, list[str]] = {}
    for metric, space, figure in report.figures():
        if finding(figure) == "worse":
            worse.setdefault(metric, []).append(space)
    if worse:
        figures = (where(metric, ", ".join(spaces)) for metric, spaces in worse.items())
        found.append(f"worse than the teacher's own figure: {', '.join(figures)}")
    ahead: dict[str, list[str]] = {}
    for group, rows in groups(report):
        for row in rows:
            if against_student(row, rows) == "FASTER":
                ahead.setdefault(row.name, []).append(group)
    found += [f"{baseline} is faster at {'; '.join(places)}" for baseline, places in ahead.items()]
    mine = report.student.ms_per_image
    found += [
        f"{row.name}, {row.evaluations} evaluations, is faster an image: {ms(row.ms_per_image)} against {ms(mine)}"
        for row in report.few_steps
        if row.ms_per_image < mine
    ]
    return found + [
        f"{name(key)} is more than that of {row.name}"
        for student in report.process
        for row in report.process
        for key in ("cold_start_s", "peak_memory_bytes")
        if (student.side, row.side) == ("student", "teacher") and getattr(student, key) > getattr(row, key)
    ]

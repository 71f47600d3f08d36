"""How figures and findings are said: the same words in the page, the card, the comparison and the terminal."""

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import get_args

from compress.evaluation.decision import Quality
from compress.evaluation.parts import Decision, Figure, Latency
from compress.evaluation.report import Report

NAMES = {
    "psnr": "PSNR in dB",
    "ssim": "SSIM",
    "class_agreement": "same class as the teacher's",
    "class_accuracy": "class accuracy",
    "classifier_accuracy": "accuracy of the classifier itself",
    "output_error": "relative output error",
    "worst_timestep_error": "relative output error, worst timestep",
    "guidance_ratio": "effective guidance scale ÷ asked",
    "sampling_error": "noise level told and supposed, difference",
    "kernel_loss": "real kernels less exact than simulated, dB",
    "finite_output": "finite samples, share",
    "listed_files": "files as in the hash list",
    "frechet": "Fréchet distance FD∞",
    "kid": "kernel distance (KID)",
    "two_sample": "two-sample test",
    "vendi": "Vendi score",
    "class_variance": "variance within a class",
    "frechet_real": "Fréchet distance to real images",
    "frechet_ratio": "Fréchet ratio",
    "memorised": "memorised training images",
    "macs": "multiply-accumulates",
    "params": "parameters",
    "call_speedup": "speedup a call",
    "image_speedup": "speedup an image",
    "call_speedup_over_onnxruntime": "speedup a call over onnxruntime fp32",
    "cold_start_s": "cold start",
    "peak_memory_bytes": "peak memory",
}
PERCENT = {"class_agreement", "class_accuracy", "classifier_accuracy"}
SPACES = {
    "classifier": "features of a classifier",
    "random": "features of untrained networks",
    "pixels": "principal components of the pixels",
}
UNRESOLVED = "not resolved"
QUALITY = ("quality", "student", "95% interval", "teacher's own", "floor", "finding")
GATES = ("gate", "limit", "value", "far end of its interval", "")
ALWAYS = "Gates marked “always” hold whatever the recipe says."
EXAMPLES = {  # gates on quality, the most telling first
    "class_accuracy": "{margin: 0.02}",
    "psnr": "{min: 25}",
    "output_error": "{max: 0.05}",
}


def name(metric: str) -> str:
    """A metric in words; one without words of its own keeps its name."""
    return NAMES.get(metric, metric.replace("_", " "))


def where(metric: str, space: str) -> str:
    """A metric in words, with its space, if it has one."""
    return name(metric) + (f" ({space})" if space else "")


def number(value: float | None, metric: str = "", digits: int = 4) -> str:
    """A value as a person reads it: shares in percent, thousands separated; a dash for what is missing."""
    if value is None:
        return "–"
    if metric in PERCENT:
        return f"{value:.1%}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def change(value: float | None, metric: str = "") -> str:
    """A signed difference; of shares, in percentage points."""
    if value is None:
        return "–"
    text = f"{100 * value:+.1f} points" if metric in PERCENT else f"{value:+.3g}"
    return text.replace("-", "−", 1) if value < 0 else text


def span(interval: Sequence[float] | None, metric: str = "", digits: int = 4) -> str:
    """Both ends of an interval, or nothing."""
    return "" if interval is None else " … ".join(number(end, metric, digits) for end in interval)


def change_span(interval: Sequence[float] | None, metric: str = "") -> str:
    """Both ends of the interval of a difference, or nothing."""
    return "" if interval is None else " … ".join(change(end, metric) for end in interval)


def size(count: float | None) -> str:
    """Bytes in decimal units."""
    return _scaled(count, ("B", "kB", "MB", "GB", "TB"))


def amount(count: float | None) -> str:
    """A large count: 38.9 M."""
    return _scaled(count, ("", "k", "M", "G", "T"))


def ms(value: float | None) -> str:
    """Milliseconds with three significant digits, never in powers of ten."""
    return "–" if value is None else f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def faster(ratio: float) -> str:
    """A speedup in words; below 1 it says so."""
    return f"{ratio:.3g}× faster" if ratio >= 1 else f"{ratio:.3g}×: SLOWER"


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


def costs(report: Report) -> list[tuple[str, str, str, str]]:
    """(what, the teacher's in PyTorch, the student's as it ships, the ratio) of sizes and times."""
    teacher, student, ratios = report.teacher, report.student, report.ratios
    sizes = (("parameters", "params"), ("multiply-accumulates a call", "macs"), ("bytes", "bytes"))
    return [
        *(
            (label, f"{getattr(teacher, key):,}", f"{getattr(student, key):,}", f"{ratios[key].value:.3g}×")
            for label, key in sizes
        ),
        ("a call, batch 1", ms(teacher.ms_per_call), ms(student.ms_per_call), faster(ratios["call_speedup"].value)),
        ("a whole image", ms(teacher.ms_per_image), ms(student.ms_per_image), faster(ratios["image_speedup"].value)),
    ]


def qualities(figures: Iterable[tuple[str, str, Figure]]) -> list[tuple[str, ...]]:
    """Rows under QUALITY. figures: (metric, space or nothing, figure)."""
    return [
        (
            where(metric, space),
            number(figure.value, metric),
            span(figure.interval, metric),
            number(figure.teacher, metric),
            number(figure.floor, metric),
            finding(figure) or "–",
        )
        for metric, space, figure in figures
    ]


def gates(report: Report) -> list[tuple[str, ...]]:
    """Rows under GATES."""
    return [
        (
            name(decision.name) + (" (always)" if decision.always else ""),
            limit(decision),
            held(decision.value, decision),
            held(decision.bound, decision),
            outcome(decision),
        )
        for decision in report.gates
    ]


def unjudged(report: Report) -> str:
    """Of a student that was not judged, why, and what to add to the recipe; else nothing."""
    if report.verdict != "not judged":
        return ""
    named = any(decision.name in get_args(Quality) for decision in report.gates)
    why = "no gate on quality means anything for this student" if named else "the recipe has no gate on quality"
    measured = {metric for metric, _, _ in report.figures()}
    settings = next((f"gates: {{{key}: {EXAMPLES[key]}}}" for key in EXAMPLES if key in measured), None)
    return f"{why}; add one, such as verify: {{{settings or 'samples: 1000, gates: {coverage: {margin: 0.1}}'}}}"


def limit(decision: Decision) -> str:
    """What a gate demands."""
    sign = {"min": "≥ ", "max": "≤ ", "margin": "worse by ≤ "}[decision.kind]
    return f"{sign}{decision.limit:g}"


def held(value: float | None, decision: Decision) -> str:
    """A gate's value or bound, with as many digits as it takes to tell it from the limit."""
    if value is None:
        return "–"
    texts = (f"{value:.{digits}g}" for digits in range(4, 16))
    return next((text for text in texts if value == decision.limit or float(text) != decision.limit), repr(value))


def outcome(decision: Decision) -> str:
    """pass, FAIL, or left out."""
    return "left out" if decision.passed is None else "pass" if decision.passed else "FAIL"


def finding(figure: Figure) -> str:
    """better, worse or not resolved, against the teacher's own figure; nothing where it has no floor."""
    if figure.resolved is None or figure.excess is None:
        return ""
    if not figure.resolved:
        return UNRESOLVED
    return "better" if (figure.excess > 0) == (figure.better == "more") else "worse"


def groups(report: Report) -> list[tuple[str, list[Latency]]]:
    """Latency rows by (batch, threads), in words."""
    found = groupby(report.latency, key=lambda row: (row.batch, row.threads))
    return [(f"batch {batch}, threads: {threads}", list(rows)) for (batch, threads), rows in found]


def against_student(row: Latency, rows: Sequence[Latency]) -> str:
    """What a baseline's latency says of the student's of its unit: FASTER, slower, or not told apart (they overlap)."""
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


def _scaled(count: float | None, units: Sequence[str]) -> str:
    if count is None:
        return "–"
    for unit in units:
        if abs(count) < 999.5 or unit == units[-1]:
            return f"{count:.3g} {unit}".strip()
        count /= 1000
    raise AssertionError

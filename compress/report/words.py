"""How figures and findings are said: the same words in the page, the card, the comparison and the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from compress.evaluation.decision import Quality

NAMES = {
    "psnr": "PSNR in dB",
    "ssim": "SSIM",
    "class_agreement": "same class as the teacher's",
    "class_accuracy": "class accuracy",
    "teacher_class_accuracy": "class accuracy of the teacher",
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
PERCENT = {"class_agreement", "class_accuracy", "teacher_class_accuracy", "classifier_accuracy"}
SPACES = {
    "classifier": "features of a classifier",
    "random": "features of untrained networks",
    "pixels": "principal components of the pixels",
}
UNRESOLVED = "not resolved"
EXAMPLES = {  # gates on quality, the most telling first
    "class_accuracy": "{margin: 0.02}",
    "psnr": "{min: 25}",
    "output_error": "{max: 0.05}",
}


def name(metric: str) -> str:
    """A metric in words; one without words of its own keeps its name."""
    return NAMES.get(metric, metric.replace("_", " "))


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


def gate(entry: Mapping[str, Any]) -> str:
    """What a gate is on, and whether it holds whatever the recipe says."""
    return name(entry["name"]) + (" (always)" if entry.get("always") else "")


def always(report: Mapping[str, Any]) -> str:
    """What is meant by it, where a report has such gates."""
    marked = any(entry.get("always") for entry in report["gates"])
    return "Gates marked “always” hold whatever the recipe says." if marked else ""


def unjudged(report: Mapping[str, Any]) -> str:
    """Of a student that was not judged, why, and what to add to the recipe; else nothing."""
    if report["verdict"] != "not judged":
        return ""
    named = any(entry["name"] in get_args(Quality) for entry in report["gates"])
    why = "no gate on quality means anything for this student" if named else "the recipe has no gate on quality"
    measured = {metric for metric, _, entry in entries(report) if "value" in entry}
    settings = next((f"gates: {{{key}: {EXAMPLES[key]}}}" for key in EXAMPLES if key in measured), None)
    return f"{why}; add one, such as verify: {{{settings or 'samples: 1000, gates: {coverage: {margin: 0.1}}'}}}"


def limit(gate: Mapping[str, Any]) -> str:
    """What a gate demands."""
    sign = {"min": "≥ ", "max": "≤ ", "margin": "worse by ≤ "}[gate["kind"]]
    return f"{sign}{gate['limit']:g}"


def held(gate: Mapping[str, Any], key: str) -> str:
    """A gate's `value` or `bound`, with as many digits as it takes to tell it from the limit."""
    value = gate.get(key)
    if value is None:
        return "–"
    texts = (f"{value:.{digits}g}" for digits in range(4, 16))
    return next((text for text in texts if value == gate["limit"] or float(text) != gate["limit"]), repr(value))


def outcome(gate: Mapping[str, Any]) -> str:
    """pass, FAIL, or left out."""
    return "left out" if "reason" in gate else "pass" if gate["passed"] else "FAIL"


def finding(entry: Mapping[str, Any]) -> str:
    """better, worse or not resolved, against the teacher's own figure; nothing where it has no floor."""
    excess, resolved, direction = (entry.get(key) for key in ("excess", "resolved", "better"))
    if resolved is None or excess is None or direction is None:
        return ""
    if not resolved:
        return UNRESOLVED
    return "better" if (excess > 0) == (direction == "more") else "worse"


def entries(report: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(metric, space or nothing, entry) of every quality figure."""
    found = [(metric, "", entry) for metric, entry in report["quality"].items()]
    for space, content in (report.get("spaces") or {}).items():
        found += [(metric, space, entry) for metric, entry in content["metrics"].items()]
    return found


def groups(report: Mapping[str, Any]) -> list[tuple[int, int, list[Mapping[str, Any]]]]:
    """Latency rows by (batch, threads), in the order in which they first appear."""
    found: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for row in report.get("latency") or []:
        if str(row.get("reason", "")).startswith("not asked for"):
            continue  # written up to format 2
        found.setdefault((row["batch"], row["threads"]), []).append(row)
    return [(batch, threads, rows) for (batch, threads), rows in found.items()]


def against_student(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    """What a baseline's latency says of the student: FASTER, slower, or not told apart (the intervals overlap)."""
    student = next((other for other in rows if is_student(other) and "reason" not in other), None)
    if "reason" in row or is_student(row) or student is None:
        return ""
    if row["interval"][1] < student["interval"][0]:
        return "FASTER"
    return "slower" if row["interval"][0] > student["interval"][1] else "not told apart"


def is_student(row: Mapping[str, Any]) -> bool:
    """Whether a row of latency, process or few steps is of the student and not of a baseline."""
    return str(row["name"]).startswith("student")


def shortfalls(report: Mapping[str, Any]) -> list[str]:
    """Where the student is worse or a baseline is ahead, one plain statement each."""
    found = []
    for gate in report["gates"]:
        if outcome(gate) == "FAIL":
            found.append(f"gate {name(gate['name'])} fails: {held(gate, 'value')} against {limit(gate)}")
        elif outcome(gate) == "left out":
            found.append(f"gate {name(gate['name'])} could not be judged")
    for key, ratio in report["ratios"].items():
        if "speedup" in key and ratio < 1:
            found.append(f"{name(key)} is below 1: {ratio:.3g}×")
        elif "speedup" not in key and ratio > 1:
            found.append(f"more {name(key)} than the teacher: {ratio:.3g}×")
    worse: dict[str, list[str]] = {}
    for metric, space, entry in entries(report):
        if finding(entry) == "worse":
            worse.setdefault(metric, []).append(space)
    if worse:
        figures = (
            name(metric) + (f" ({', '.join(spaces)})" if any(spaces) else "") for metric, spaces in worse.items()
        )
        found.append(f"worse than the teacher's own figure: {', '.join(figures)}")
    ahead: dict[str, list[str]] = {}
    for batch, threads, rows in groups(report):
        for row in rows:
            if against_student(row, rows) == "FASTER":
                ahead.setdefault(row["name"], []).append(f"batch {batch} (threads: {threads})")
    found += [f"{baseline} is faster at {', '.join(where)}" for baseline, where in ahead.items()]
    mine = report["student"]["ms_per_image"]
    for row in report.get("few_steps") or []:
        if not is_student(row) and row["ms_per_image"] < mine:
            found.append(
                f"{row['name']}, {row['evaluations']} evaluations, is faster an image: "
                f"{ms(row['ms_per_image'])} against {ms(mine)}"
            )
    return found + _heavier(report.get("process") or [])


def _heavier(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    student = next((row for row in rows if is_student(row) and "reason" not in row), None)
    baselines = [row for row in rows if not is_student(row) and "reason" not in row]
    if student is None:
        return []
    return [
        f"{name(key)} is more than that of {row['name']}"
        for row in baselines
        for key in ("cold_start_s", "peak_memory_bytes")
        if student[key] > row[key]
    ]


def _scaled(count: float | None, units: Sequence[str]) -> str:
    if count is None:
        return "–"
    for unit in units:
        if abs(count) < 999.5 or unit == units[-1]:
            return f"{count:.3g} {unit}".strip()
        count /= 1000
    raise AssertionError

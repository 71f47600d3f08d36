"""How values are said: the same words in the page, the card, the comparison and the terminal."""

from collections.abc import Callable, Sequence
from typing import Any

from compress.report.parts import Decision, Figure

NAMES = {
    "psnr": "PSNR in dB",
    "ssim": "SSIM",
    "class_agreement": "same class as the teacher's",
    "class_accuracy": "class accuracy",
    "alignment": "similarity to its own text",
    "chance_alignment": "similarity of the teacher's to other texts",
    "attribute_agreement": "named as the teacher's",
    "attribute_accuracy": "named as asked",
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
    "ms_per_call": "a call, batch 1",
    "ms_per_image": "a whole image",
    "sqnr_db": "SQNR in dB",
    "simulated_sqnr_db": "SQNR in dB, simulated in PyTorch",
    "kernels_sqnr_db": "SQNR in dB, in the kernels that ship",
    "runtime": "engine",
    "call_speedup": "speedup a call",
    "image_speedup": "speedup an image",
    "call_speedup_over_onnxruntime": "speedup a call over onnxruntime fp32",
    "cold_start_s": "cold start",
    "peak_memory_bytes": "peak memory",
    "memory_bytes": "memory",
    "seconds": "time",
}
PERCENT = {"class_agreement", "class_accuracy", "classifier_accuracy", "attribute_agreement", "attribute_accuracy"}
SPACES = {
    "classifier": "features of a classifier",
    "random": "features of untrained networks",
    "pixels": "principal components of the pixels",
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


def within(value: float | None, metric: str = "") -> str:
    """What a difference may be for nothing."""
    return "–" if value is None else f"± {change(value, metric).lstrip('+')}"


def span(interval: Sequence[float] | None, metric: str = "", say: Callable[..., str] = number, **digits: int) -> str:
    """Both ends of an interval, or nothing."""
    return "" if interval is None else " … ".join(say(end, metric, **digits) for end in interval)


def size(count: float | None) -> str:
    """Bytes in decimal units."""
    if count is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def ms(value: float | None) -> str:
    """Milliseconds with three significant digits, never in powers of ten."""
    return "–" if value is None else f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def faster(ratio: float) -> str:
    """A speedup in words; below 1 it says so."""
    return f"{ratio:.3g}× {'faster' if ratio >= 1 else 'SLOWER'}"


def say(value: Any, field: str) -> str:
    """What a field of the report holds, in the form that it has there."""
    return value if isinstance(value, str) else _FORMS.get(field, number)(value)


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
        return "not resolved"
    return "better" if (figure.excess > 0) == (figure.better == "more") else "worse"


_FORMS: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(("bytes", "peak_memory_bytes", "memory_bytes"), size),
    "ms_per_call": ms,
    "cold_start_s": lambda seconds: f"{seconds:.2f} s",
    "seconds": lambda seconds: f"{seconds:,.0f} s",
}

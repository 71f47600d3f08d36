"""What is wrong with a denoiser that somebody else's tool made: figures and findings from arrays [timesteps,b,…].

A fault of meaning (another timestep, another prediction type, another sign) is a teacher that was asked otherwise: each
such `Guess` says what a file with that fault would answer, and the one that fits far better than the teacher's own
answer is the fault.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compress.onnx_graph.quantizers import Cut
from compress.report.candidate import Finding
from compress.report.parts import Figure, against
from compress.report.statistics import bootstrap, interval

FAR_BETTER, FITS = 0.25, 0.1  # of the error, and relative error, that are left where a guess explains it
EXACT = 1e-6  # relative error that is rounding, and needs no explanation
LEFT = (0.5, 1.5)  # shares of an effect, outside of which it is lost or overdone
BAD = 0.01  # relative error from which saturation matters
SATURATED = 0.1  # share of the energy of a layer's values that its quantizer cuts off
LARGEST_LOSS = 1.0  # dB that kernels may be less exact than their graph
ROUNDS = 500


@dataclass(frozen=True)
class Guess:
    """What a file with a fault would answer [timesteps,b,…], NaN where nothing can be said; `said` ends a sentence."""

    name: str
    said: str
    outputs: np.ndarray


def relative_error(wanted: np.ndarray, found: np.ndarray) -> float:
    """Squared error ÷ squared `wanted`, over all that is finite in `wanted`; any shape."""
    known = np.isfinite(wanted)
    return float(np.square((found - wanted)[known]).sum() / max(np.square(wanted[known]).sum(), 1e-30))


def explained(wanted: np.ndarray, found: np.ndarray, guesses: Iterable[Guess]) -> Finding | None:
    """The guess that fits the answers `found` far better than the teacher's own `wanted` do; None: none does."""
    scale = float((wanted * found).sum() / max(np.square(wanted).sum(), 1e-30))
    scaled = Guess("output_scale", f"are the teacher's times {scale:.3g}: divide the output by it", scale * wanted)
    tried = []
    for guess in (*([scaled] if scale else []), *guesses):  # nothing but zeros is what is lost, not a scale
        known = np.isfinite(guess.outputs)
        error, own = (relative_error(np.where(known, one, np.nan), found) for one in (guess.outputs, wanted))
        if known.any() and own > EXACT and error < min(FITS, FAR_BETTER * own):
            tried.append((error, own, guess))
    if not tried:
        return None
    error, own, guess = min(tried, key=lambda one: one[0])
    said = f"its answers {guess.said} (relative error {error:.2g}, against {own:.2g} as it was asked)"
    return Finding(name=guess.name, value=error, certain=True, said=said)


def share_left(wanted: np.ndarray, found: np.ndarray) -> Figure | None:
    """Of a change of the teacher's output `wanted` [timesteps,b,…]: ⟨d, e⟩ ÷ ⟨d, d⟩ with the file's change `found`.

    None: the teacher's own does not change, as where all items have the same condition.
    """
    axes = (0, *range(2, wanted.ndim))
    parts = np.stack([(wanted * found).sum(axes), np.square(wanted).sum(axes)], axis=-1).astype(np.float64)
    if not parts[:, 1].any():
        return None

    def share(index: np.ndarray) -> float:
        product, energy = parts[index].sum(axis=0)
        return float(product / max(energy, 1e-30))

    value, count = share(np.arange(len(parts))), len(parts)
    ends = interval(bootstrap(share, count, rounds=ROUNDS))
    return against(value, "more" if value < 1 else "less", ends, count, 1.0, EXACT)


def lost(left: Mapping[str, Figure]) -> list[Finding]:
    """Conditions of which too little or too much is left, the whole interval long."""
    found = []
    for name, figure in left.items():
        low, high = figure.interval or (figure.value, figure.value)
        if LEFT[0] <= high and low <= LEFT[1]:
            continue
        what = "is nearly lost" if high < LEFT[0] else "does too much"
        said = f"{name} {what}: {figure.value:.3g} is left of what it changes in the teacher's output"
        found.append(Finding(name=f"{name}_left", value=figure.value, certain=True, said=said))
    return found


def saturated(cuts: Sequence[Cut], error: float) -> Finding | None:
    """The quantizer that cuts off most, if that is much. error: relative, of the output."""
    worst = max(cuts, key=lambda one: one.lost, default=None)
    if worst is None or worst.lost < SATURATED:
        return None
    said = (
        f"what the layer {worst.layer} reads is saturated: {worst.share:.1%} of the values lie beyond the ends of "
        f"their grid, with {worst.lost:.1%} of their energy: its scale is too small, calibrate it anew"
    )
    return Finding(name="saturated_layer", value=worst.lost, certain=error > BAD, said=said)


def inexact_kernels(loss: Figure | None) -> Finding | None:
    """Kernels that surely compute something else than their graph says. loss: as `probe.kernel_loss`, if measured."""
    if loss is None or loss.interval is None or loss.interval[0] <= LARGEST_LOSS:
        return None
    said = (
        f"onnxruntime's optimized kernels are {loss.value:.1f} dB less exact than the graph node by node: sums of "
        "products of bytes saturate on this processor; quantize weights to 7 bits (reduce_range)"
    )
    return Finding(name="kernel_loss", value=loss.value, certain=True, said=said)


def not_finite(finite: np.ndarray, timesteps: Sequence[float]) -> Finding | None:
    """NaN and infinity. finite: of each output [timesteps,b]."""
    if finite.all():
        return None
    first = timesteps[int(np.argmin(finite.all(axis=1)))]
    said = (
        f"{1 - finite.mean():.1%} of its outputs hold NaN or infinity, the first at timestep {first:g}: in fp16 a "
        "value is beyond 65,504; leave the layers that overflow in float"
    )
    return Finding(name="finite_output", value=float(finite.mean()), certain=True, said=said)

"""The sampling loop, for numpy arrays and torch tensors alike.

Every solver of this package is linear in the sample, in the estimate of the clean sample and in the
two such estimates before it. A solver is therefore a table of numbers (`Step`), computed once in
`compress.diffusion.solvers`, and this loop is the only one there is: the teacher in PyTorch and the
bundle on a device run the same lines.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Array = Any  # numpy.ndarray or torch.Tensor
Denoise = Callable[[Array, float], Array]


@dataclass(frozen=True)
class Step:
    """One solver step. All coefficients are dimensionless.

    clean = clean_from_sample · sample + clean_from_output · output, then clipped if asked
    next  = next_from_sample · sample + next_from_clean · clean + next_from_previous · previous clean
            + next_from_earlier · clean before the previous
    timestep: what the net is told, a whole number for most.
    """

    timestep: float
    clean_from_sample: float
    clean_from_output: float
    next_from_sample: float
    next_from_clean: float
    next_from_previous: float = 0.0
    next_from_earlier: float = 0.0


def classifier_free_guidance(conditional: Array, unconditional: Array, scale: float) -> Array:
    """Guided output, any shape. Ho & Salimans 2022, eq. 6, with diffusers' scale = 1 + w."""
    return unconditional + scale * (conditional - unconditional)


def solve(
    denoise: Denoise,
    noise: Array,
    steps: Sequence[Step],
    clip_range: float | None = None,
    on_step: Callable[[], None] | None = None,
) -> Array:
    """Draw clean samples [b,…] from standard normal `noise` [b,…].

    denoise: the (guided) model output [b,…] for a sample [b,…] at one timestep.
    clip_range: clip every estimate of the clean sample to ±clip_range; None: do not clip. The noise
        direction is recomputed from the clipped estimate (diffusers' use_clipped_model_output=True).
    """
    sample, previous, earlier = noise, None, None
    for step in steps:
        clean = step.clean_from_sample * sample + step.clean_from_output * denoise(sample, step.timestep)
        if clip_range is not None:
            clean = clean.clip(-clip_range, clip_range)
        sample = step.next_from_sample * sample + step.next_from_clean * clean
        if previous is not None and step.next_from_previous:
            sample = sample + step.next_from_previous * previous
        if earlier is not None and step.next_from_earlier:
            sample = sample + step.next_from_earlier * earlier
        previous, earlier = clean, previous
        if on_step is not None:
            on_step()
    return sample

"""The sampling loop, for numpy arrays and torch tensors alike.

Every solver of this package is linear in the sample, in the estimate of the clean sample and in the
previous such estimate. A solver is therefore a table of numbers (`Step`), computed once in
`compress.diffusion.solvers`, and this loop is the only one there is: the teacher in PyTorch and the
bundle on a device run the same lines.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Array = Any  # numpy.ndarray or torch.Tensor
Denoise = Callable[[Array, int], Array]


@dataclass(frozen=True)
class Step:
    """One solver step. All coefficients are dimensionless.

    clean = clean_from_sample · sample + clean_from_output · output, then clipped if asked
    next  = next_from_sample · sample + next_from_clean · clean + next_from_previous · previous clean
    """

    timestep: int
    clean_from_sample: float
    clean_from_output: float
    next_from_sample: float
    next_from_clean: float
    next_from_previous: float = 0.0


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
    """Draw clean samples [b,c,h,w] from `noise` [b,c,h,w].

    denoise: the (guided) model output [b,c,h,w] for a sample [b,c,h,w] at one integer timestep.
    clip_range: clip every estimate of the clean sample to ±clip_range; None: do not clip. The noise
        direction is recomputed from the clipped estimate (diffusers' use_clipped_model_output=True).
    """
    sample, previous = noise, None
    for step in steps:
        clean = step.clean_from_sample * sample + step.clean_from_output * denoise(sample, step.timestep)
        if clip_range is not None:
            clean = clean.clip(-clip_range, clip_range)
        sample = step.next_from_sample * sample + step.next_from_clean * clean
        if previous is not None and step.next_from_previous:
            sample = sample + step.next_from_previous * previous
        previous = clean
        if on_step is not None:
            on_step()
    return sample

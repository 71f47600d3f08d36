"""The teacher, asked as a file with a fault would ask it: at another timestep, for another prediction, without a
condition."""

from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

import numpy as np
import torch

from compress.diffusion.prediction import PredictionType, clean_coefficients
from compress.judge.candidate import Guess
from compress.judge.probe import Probe
from compress.model.denoiser import Denoiser, evaluate, null_conditions

Conditions = Mapping[str, np.ndarray]


def answers(teacher: Denoiser, samples: np.ndarray, told: Sequence[float], conditions: Conditions) -> np.ndarray:
    """Raw outputs [timesteps,b,…] on samples [timesteps,b,…], with a number that the net is told for each timestep."""
    given = {name: torch.from_numpy(value).to(teacher.device) for name, value in conditions.items()}
    found = []
    with torch.no_grad():
        for sample, number in zip(samples, told, strict=True):
            times = torch.full((len(sample),), number, device=teacher.device)
            found.append(evaluate(teacher, torch.from_numpy(sample).to(teacher.device), times, given).cpu().numpy())
    return np.stack(found)


def told(teacher: Denoiser, timesteps: Sequence[float]) -> list[float]:
    """What the net is told at timesteps of its sampling."""
    numbers: list[float] = teacher.sampling.told(torch.tensor(timesteps)).tolist()
    return numbers


def without(teacher: Denoiser, conditions: Conditions) -> dict[str, dict[str, np.ndarray]]:
    """By what is left out, the conditions without it: the null condition in its place, or else another item's.

    Each condition by itself, and as `guidance` all that guidance leaves out, if that is more than one.
    """
    given = {name: torch.from_numpy(value) for name, value in conditions.items()}
    known = teacher.sampling.guidance.null_class is not None or set(teacher.dropped) <= set(teacher.null)
    null = {name: value.numpy() for name, value in null_conditions(teacher, given).items()} if known else {}
    dropped = [name for name in teacher.dropped if name in null]
    found = {
        name: {**conditions, name: null[name] if name in dropped else np.roll(value, 1, axis=0)}
        for name, value in conditions.items()
    }
    return found | ({"guidance": {**conditions, **null}} if len(dropped) > 1 else {})


def guesses(teacher: Denoiser, probe: Probe, places: Sequence[int]) -> Iterator[Guess]:
    """What the teacher's conditional answers would be, of a file with a fault, at these places of the probe."""
    samples, own = probe.samples[places], told(teacher, [probe.timesteps[i] for i in places])
    last = teacher.sampling.num_train_timesteps - 1
    other = {
        "÷ 1,000: it takes a 1,000 times larger number": [t / 1000 for t in own],
        "× 1,000: it takes a 1,000 times smaller number, as t ÷ 1,000 in 0…1": [t * 1000 for t in own],
        "counted from the other end: it takes the last timestep − t": [last - t for t in own],
        "one earlier: it takes t + 1": [t - 1 for t in own],
        "one later: it takes t − 1": [t + 1 for t in own],
    }
    for said, numbers in other.items():
        yield Guess(
            "timestep",
            f"are the teacher's at the timestep {said}",
            answers(teacher, samples, numbers, probe.conditions),
        )
    sampling, wanted = teacher.sampling, probe.conditional[places]
    levels = sampling.level(torch.tensor([probe.timesteps[i] for i in places]))
    alpha, sigma = (level.numpy().reshape(-1, *[1] * (samples.ndim - 1)) for level in levels)
    with np.errstate(all="ignore"):  # no trace of the clean sample is left, or none of the noise
        a, b = clean_coefficients(sampling.prediction_type, alpha, sigma, sampling.sigma_data)
        for kind in (kind for kind in get_args(PredictionType) if kind not in ("edm", sampling.prediction_type)):
            c, d = clean_coefficients(kind, alpha, sigma)
            outputs = ((a - c) * samples + b * wanted) / d
            said = f"are what a net of prediction type {kind} gives, and the teacher's is {sampling.prediction_type}"
            yield Guess("prediction_type", said, np.where(np.isfinite(outputs), outputs, np.nan))

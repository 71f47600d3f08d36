"""Steps that adapt to the image: long ones where the estimate of the clean sample hardly changes.

Every image goes its own way over one grid of levels, that of the bundle's own steps, and may pass over places of it.
After an evaluation the change of the clean estimate since the one before tells how far the next step may reach: the
difference between a step of first order and one of second, the error of an embedded pair (Hairer, Nørsett & Wanner
1993, section II.4), here for a step from place i to place j of the grid:

    error(i, j) = (α_j − α_i·σ_j/σ_i) · (j − i)/2 · |change of the clean estimate a place|, root mean square of pixels

With a tolerance of 0 no place is passed over, and the samples are those of the bundle's own steps.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import BundleError
from compress.runtime.sampling import Step

Denoise = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Grid:
    """Where steps begin and arrive. alpha, sigma [n + 1], the last being where sampling ends.

    second_order: as DPM-Solver++(2M), else as DDIM. first_order_end: the last step is of first order.
    """

    steps: Sequence[Step]
    alpha: np.ndarray
    sigma: np.ndarray
    second_order: bool
    first_order_end: bool

    @classmethod
    def read(cls, path: Path, steps: Sequence[Step], sampling: Mapping[str, Any]) -> "Grid":
        """From the `sampling` of the bundle.json in a folder. Raises BundleError where steps cannot be passed over."""
        for why, hinders in (
            ("its steps were distilled", sampling.get("distilled")),
            ("unipc corrects what is behind", sampling["solver"] == "unipc"),
            ("it holds no levels; export it again", "levels" not in sampling),
        ):
            if hinders:
                raise BundleError(f"{path}: its steps cannot adapt: {why}")
        alpha, sigma = (np.array(sampling["levels"][name], dtype=np.float64) for name in ("alpha", "sigma"))
        short = len(steps) < 15 or sigma[-1] == 0  # as in compress.diffusion.solvers
        return cls(steps, alpha, sigma, sampling["solver"] == "dpmpp_2m", short)

    def arrive(
        self, sample: np.ndarray, clean: np.ndarray, change: np.ndarray | None, before: int, begin: int, end: int
    ) -> np.ndarray:
        """The sample [c,h,w] at place `end`. change: of the clean estimate since place `before`."""
        last = len(self.steps)
        if change is not None and self.second_order and not (end == last and self.first_order_end):
            log_snr = [_log_snr(self.alpha[place], self.sigma[place]) for place in (before, begin, end)]
            clean = clean + change * (log_snr[2] - log_snr[1]) / (2 * (log_snr[1] - log_snr[0]))
        ratio = self.sigma[end] / self.sigma[begin]
        weight = self.alpha[end] - self.alpha[begin] * ratio
        return (ratio * sample + weight * clean).astype(np.float32)


def _log_snr(alpha: float, sigma: float) -> float:
    """λ = ln(α/σ)."""
    return float(np.log(alpha / sigma)) if alpha > 0 else -np.inf


def solve_adaptively(
    denoise: Denoise,
    noise: np.ndarray,
    grid: Grid,
    tolerance: float,
    clip_range: float | None = None,
    seconds: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(clean samples [b,c,h,w], evaluations int64 [b]) from standard normal noise [b,c,h,w].

    denoise: the (guided) output for samples [k,c,h,w] at timesteps int64 [k]; its third argument says which items of
    the batch they are. tolerance: of one step, root mean square in pixels' units. seconds: time that the whole batch
    may take; steps get longer when it would not suffice, whatever the tolerance.
    """
    began = time.perf_counter()
    last = len(grid.steps)
    sample = noise.astype(np.float32)
    place = np.zeros(len(noise), dtype=np.int64)
    before = np.full(len(noise), -1)
    kept = np.zeros_like(sample)
    evaluations = np.zeros(len(noise), dtype=np.int64)
    rounds = 0
    while (active := np.flatnonzero(place < last)).size:
        timesteps = np.array([grid.steps[place[item]].timestep for item in active])
        output = denoise(sample[active], timesteps, active)
        evaluations[active] += 1
        rounds += 1
        left = None
        if seconds is not None:
            taken = time.perf_counter() - began
            left = int(min((seconds - taken) / (taken / rounds), last))
        for item, found in zip(active, output, strict=True):
            begin = int(place[item])
            step = grid.steps[begin]
            clean = step.clean_from_sample * sample[item] + step.clean_from_output * found
            if clip_range is not None:
                clean = clean.clip(-clip_range, clip_range)
            change, end = None, begin + 1
            if before[item] >= 0:
                change = clean - kept[item]
                end = _furthest(grid, begin, _size(change) / (begin - before[item]), tolerance)
            if left is not None:
                end = last if left < 1 else max(end, begin + -(-(last - begin) // (left + 1)))
            sample[item] = grid.arrive(sample[item], clean, change, int(before[item]), begin, end)
            kept[item], before[item], place[item] = clean, begin, end
    return sample, evaluations


def asked_tolerance(
    path: Path, manifest: Mapping[str, Any], psnr: float | None, tolerance: float | None, milliseconds: float | None
) -> float:
    """The tolerance that a wish means for the bundle in `path`; 0 if there is a limit of time alone.

    Raises BundleError for wishes that are no finite, positive numbers, that no quality was calibrated for, or none.
    """
    if manifest["batch"] and manifest["batch"] > 1:
        raise BundleError(f"{path}: steps adapt image by image; export it for any batch size, or for 1")
    for name, asked in (("psnr", psnr), ("tolerance", tolerance), ("milliseconds", milliseconds)):
        if asked is not None and not (0 < asked < math.inf or (name == "tolerance" and asked == 0)):
            raise BundleError(f"{path}: {name} should be a positive, finite number; got {asked}")
    if psnr is not None:
        return calibrated_tolerance(path, manifest["sampling"], psnr)
    if tolerance is None and milliseconds is None:
        raise BundleError(f"{path}: give psnr, tolerance or milliseconds")
    return tolerance or 0.0


def calibrated_tolerance(path: Path, sampling: Mapping[str, Any], psnr: float) -> float:
    """The largest calibrated tolerance of a bundle's steps that keeps the quality, in dB. Raises BundleError."""
    table = sampling.get("adaptive") or []
    if not table:
        raise BundleError(f"{path}: no quality was calibrated; export it with `adaptive: true`")
    kept = [row["tolerance"] for row in table if row["psnr"] >= psnr]
    if not kept:
        best = max(row["psnr"] for row in table)
        raise BundleError(f"{path}: psnr {psnr:g} dB is more than adaptive steps reach ({best:.1f} dB)")
    return float(max(kept))


def _furthest(grid: Grid, begin: int, change: float, tolerance: float) -> int:
    """The last place before which no step would err by more than the tolerance; at least the next."""
    reach = grid.alpha[begin + 1 :] - grid.alpha[begin] * (grid.sigma[begin + 1 :] / grid.sigma[begin])
    errors = reach * np.arange(1, len(reach) + 1) / 2 * change
    beyond = np.flatnonzero(errors > tolerance)
    return begin + max(1, int(beyond[0]) if beyond.size else len(reach))


def _size(change: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(change, dtype=np.float64))))

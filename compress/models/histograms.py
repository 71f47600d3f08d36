"""Ranges of values read from their histogram: what to clip, so that 256 levels lie where they count."""

import torch

LEVELS = 256
TAILS = 1e-4  # share of the values that `percentile` clips at each end
SHARES = torch.logspace(-6, -1.5, 40, dtype=torch.float64)  # of the values, that `entropy` tries to clip at each end


def percentile(counts: torch.Tensor, low: float, high: float, share: float = TAILS) -> tuple[float, float]:
    """The range without `share` of the values at each end. counts [bins] of equal width from low to high."""
    below = torch.cumsum(counts.double(), 0) / counts.sum().clamp_min(1)
    first = int((below <= share).sum())
    last = int((below < 1 - share).sum())
    width = (high - low) / len(counts)
    return low + first * width, low + (max(last, first) + 1) * width


def entropy(counts: torch.Tensor, low: float, high: float) -> tuple[float, float]:
    """The range whose levels tell most: least Kullback-Leibler divergence of the values from their rounded selves.

    After Migacz 2017, "8-bit inference with TensorRT", for ranges that need not be symmetric: of those that clip equal
    shares at both ends.
    """
    found, least = (low, high), _divergence(counts, 0, len(counts))
    width = (high - low) / len(counts)
    for share in SHARES.tolist():
        ends = percentile(counts, low, high, share)
        first, last = round((ends[0] - low) / width), round((ends[1] - low) / width)
        divergence = _divergence(counts, first, last)
        if divergence < least:
            found, least = ends, divergence
    return found


def _divergence(counts: torch.Tensor, first: int, last: int) -> float:
    """KL(P ‖ Q) in nats: P the counts with what lies outside [first, last) at its ends, Q the inside by levels."""
    inside = counts[first:last].double()
    wanted = inside.clone()
    wanted[0] += counts[:first].sum()
    wanted[-1] += counts[last:].sum()
    level = torch.arange(len(inside)) * LEVELS // len(inside)
    filled = (inside > 0).double()
    total = torch.zeros(LEVELS, dtype=torch.float64).index_add_(0, level, inside)
    bins = torch.zeros(LEVELS, dtype=torch.float64).index_add_(0, level, filled)
    rounded = filled * (total / bins.clamp_min(1))[level]  # a level's count, spread over its bins that hold values
    known = wanted > 0
    p, q = wanted / wanted.sum(), rounded / rounded.sum().clamp_min(1e-300)
    return float((p[known] * (p[known] / q[known].clamp_min(1e-12)).log()).sum())

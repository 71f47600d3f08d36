"""How close a student's samples are to its teacher's. Arrays [n,c,h,w] in [-1, 1] unless said otherwise."""

import numpy as np
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

PIXEL_RANGE = 2.0


def sqnr(reference: np.ndarray, value: np.ndarray) -> float:
    """Signal to quantization-noise ratio in dB, 10·log10(Σ reference² ÷ Σ (reference − value)²); any shape."""
    noise = float(np.square(reference.astype(np.float64) - value).sum())
    signal = float(np.square(reference.astype(np.float64)).sum())
    if noise == 0:
        return 200.0  # equal to the last bit; finite, so that it can be written as JSON
    return min(200.0, 10 * float(np.log10(signal / noise))) if signal > 0 and np.isfinite(noise) else -200.0


def sqnr_by_timestep(times: np.ndarray, reference: np.ndarray, value: np.ndarray) -> dict[str, float]:
    """SQNR in dB over all, and at each timestep from the first on. times [n]; the others [n,…]."""
    own = sorted(set(times.tolist()), reverse=True)
    found = {str(time): sqnr(reference[times == time], value[times == time]) for time in own}
    return {"all": sqnr(reference, value), **found}


def psnr(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """Peak signal to noise ratio in dB of each pair, [n]; arrays [n,…] whose values span 2. At most 200."""
    error = np.square(teacher.astype(np.float64) - student).mean(axis=tuple(range(1, teacher.ndim)))
    return 10 * np.log10(PIXEL_RANGE**2 / np.maximum(error, PIXEL_RANGE**2 * 1e-20))


def ssim(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """Structural similarity of each pair, [n]. Wang et al. 2004, by torchmetrics.

    Gaussian window of σ = 1 (0.5 for images under 9 pixels); values are clipped to [-1, 1].
    """
    sigma = 1.0 if min(teacher.shape[2:]) >= 9 else 0.5
    values = structural_similarity_index_measure(
        torch.from_numpy(student), torch.from_numpy(teacher), sigma=sigma, data_range=(-1.0, 1.0), reduction="none"
    )
    return np.atleast_1d(np.asarray(values, dtype=np.float64))

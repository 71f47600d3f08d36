"""Guidance by a classifier that names noisy samples: TorchScript, f(sample [b,c,h,w], timestep int64 [b]) → logits."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from compress.diffusion.prediction import score_shift
from compress.diffusion.sampling import Sampling
from compress.errors import CheckpointError, CompressError
from compress.model import torchscript


def load(file: Path, shape: Sequence[int], classes: int | None, allow_pickle: bool) -> nn.Module:
    """The classifier of samples of `shape` (c,h,w), tried on two. classes: labels that it has to know at least.

    allow_pickle: whether programs may be run; raises CompressError where not. Raises CheckpointError for a file that
    cannot be read or does not run, and for logits without a gradient or too few.
    """
    try:
        classifier = torchscript.load(file, allow_pickle)
    except CompressError:
        raise
    except Exception as error:  # of many kinds
        raise CheckpointError(f"{file}: cannot be read as a TorchScript classifier: {_reason(error)}") from None
    sample = torch.zeros(2, *shape, requires_grad=True)
    try:
        with torch.enable_grad():
            logits = classifier(sample, torch.zeros(2, dtype=torch.int64))
            torch.autograd.grad(logits.sum(), sample)
    except Exception as error:
        raise CheckpointError(f"{file}: fails on 2 noisy samples {list(shape)}: {_reason(error)}") from None
    if logits.ndim != 2 or len(logits) != 2 or logits.shape[1] < (classes or 1):
        raise CheckpointError(f"{file}: 2 samples should give logits [2, {classes}]; got {list(logits.shape)}")
    for parameter in classifier.parameters():
        parameter.requires_grad_(False)
    return classifier


def direction(
    classifier: nn.Module, sampling: Sampling, sample: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """What guidance of scale 1 adds to the model's output [b,c,h,w]: that of ∇ log p(label | x_t) in the score.

    Dhariwal & Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", algorithm 2. labels: int64 [b].
    """
    alpha, sigma = sampling.alpha_sigma(timestep, sample)
    with torch.enable_grad():
        noisy = sample.detach().requires_grad_(True)
        logarithm = classifier(noisy, sampling.told(timestep)).log_softmax(dim=1)
        (gradient,) = torch.autograd.grad(logarithm.gather(1, labels[:, None]).sum(), noisy)
    return score_shift(sampling.prediction_type, gradient, alpha, sigma, sampling.sigma_data)


def _reason(error: Exception) -> str:
    """TorchScript ends its messages with it, below a trace."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]

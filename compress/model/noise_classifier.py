"""Guidance by a classifier that names noisy samples: TorchScript, f(sample [b,c,h,w], timestep int64 [b]) → logits."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from compress.diffusion.prediction import score_shift
from compress.diffusion.sampling import Sampling
from compress.model import torchscript


def load(file: Path, shape: Sequence[int], classes: int | None, allow_pickle: bool) -> nn.Module:
    """The classifier of samples of `shape` (c,h,w), tried on two. classes: labels that it has to know at least.

    Raises as `torchscript.classifier`.
    """
    return torchscript.classifier(file, shape, classes, allow_pickle, torch.zeros(2, dtype=torch.int64))


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

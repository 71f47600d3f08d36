"""What a classifier says of the samples that two models denoise, as it is unsure of it (Hinton et al. 2015,
"Distilling the Knowledge in a Neural Network")."""

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from compress.diffusion.targets import clean_sample
from compress.model import torchscript
from compress.model.denoiser import Denoiser


class SoftLabels(nn.Module):
    """How far the labels of one model's denoised samples are from those of another's.

    file: TorchScript, f(samples [b,c,h,w]) → logits. Raises as `torchscript.classifier`.
    """

    def __init__(self, file: Path, model: Denoiser, allow_pickle: bool) -> None:
        super().__init__()
        self.sampling = model.sampling
        self.classifier = torchscript.classifier(file, model.sample_shape, None, allow_pickle).to(model.device)

    def train(self, mode: bool = True) -> "SoftLabels":
        """The classifier is not trained, whatever it is part of."""
        return super().train(False)

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, ours: torch.Tensor, theirs: torch.Tensor
    ) -> torch.Tensor:
        """mean Σ p(T) · (log p(T) − log p(S)) of the models' outputs S and T [b,c,h,w] at noisy samples; in nats."""
        levels = self.sampling.alpha_sigma(timestep, sample)
        student, teacher = (
            self.classifier(clean_sample(self.sampling, sample, output, *levels).float()).log_softmax(1)
            for output in (ours, theirs)
        )
        return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)

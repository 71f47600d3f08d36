"""What weights are trained by that will be rounded."""

from collections.abc import Mapping

import torch
from torch import nn

from compress.data import HELD_OUT, Batch
from compress.devices import send
from compress.model.denoiser import Denoiser, Quantized
from compress.quantization.calibration import BATCH


class RoundedImitation(nn.Module):
    """The objective of `qat`: the float model's answers, given under int8 rounding.

    Loss: squared error ÷ the float answers' own square, at points of the float model's trajectories.
    """

    average = None

    def __init__(
        self, student: Denoiser, rounded: Quantized, points: list[torch.Tensor], answers: torch.Tensor
    ) -> None:
        super().__init__()
        self.net = student.module
        self.rounded = (rounded.module,)  # the same weights; an exported graph refuses to be put in training mode
        self.points, self.answers = points, answers
        self.trained = len(answers) - int(HELD_OUT * len(answers))

    def forward(self, batch: Batch, random: torch.Generator) -> Mapping[str, torch.Tensor]:
        """The loss at points drawn at random, as many as the batch has images."""
        start, end = (0, self.trained) if self.training else (self.trained, len(self.answers))
        which = send(torch.randint(start, end, (len(batch.images),), generator=random), self.answers.device)
        wanted = self.answers[which]
        parts = zip(*(value[which].split(BATCH) for value in self.points), strict=True)
        found = torch.cat([self.rounded[0](*part) for part in parts])
        return {"output": (found - wanted).square().mean() / wanted.square().mean()}

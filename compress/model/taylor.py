"""What a weight matters by itself: its size, or how the denoising loss would change without it, to first order."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import nn

from compress.model.denoiser import Denoiser, predict
from compress.model.noising import Question


def _gradient(weight: nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


SCORES: dict[str, Callable[[nn.Parameter], torch.Tensor]] = {
    "taylor": lambda weight: (weight * _gradient(weight)).abs(),
    "diffusion_taylor": lambda weight: (weight * _gradient(weight)).abs(),
    "l1": lambda weight: weight.abs(),
    "l2": lambda weight: weight.square(),
}


@torch.no_grad()
def loss(model: Denoiser, question: Question, parts: int) -> float:
    """The denoising loss, computed in parts of the batch."""
    return sum(float(one) for one in _losses(model, question, parts))


def add_gradients(model: Denoiser, question: Question, parts: int) -> None:
    """Add the gradient of the denoising loss to those of the model's parameters; parts: as few as memory takes."""
    for one in _losses(model, question, parts):
        one.backward()


def _losses(model: Denoiser, question: Question, parts: int) -> Iterator[torch.Tensor]:
    """What each part of the batch has of the mean over all."""
    count = len(question.sample)
    size = math.ceil(count / parts)
    for start in range(0, count, size):
        part = question[start : start + size]
        assert part.answer is not None
        yield len(part.sample) / count * nn.functional.mse_loss(predict(model, *part.asked), part.answer)

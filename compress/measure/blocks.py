"""How long models and their blocks take, in PyTorch, at batch 1."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from compress.measure.latency import interleaved
from compress.model.denoiser import Denoiser, example_inputs
from compress.model.paths import watched
from compress.model.reference import Progress, silent

ROUNDS = 5


@torch.no_grad()
def share(whole: Denoiser, less: Denoiser) -> float:
    """The time of one evaluation of `less` as a fraction of that of `whole`, medians of one interleaved run."""
    inputs = example_inputs(whole, batch=1)
    calls = {name: _call(each.module, whole.device, *inputs) for name, each in (("whole", whole), ("less", less))}
    taken = interleaved(calls, ROUNDS, silent)
    return float(np.median(taken["less"]) / np.median(taken["whole"]))


@torch.no_grad()
def times(model: Denoiser, progress: Progress, title: str) -> dict[str, float]:
    """Milliseconds that each block takes longer than what its removal leaves, by path.

    Each is called alone, on the inputs that it has in the net: a difference of whole models would drown in noise.
    """
    calls: dict[str, Callable[[], object]] = {}
    blocks = model.family.blocks(model.net)

    def note(path: str, block: nn.Module, inputs: Any, named: Any, _output: object) -> None:
        left = model.family.left[blocks[path]["kind"]](block)
        calls[path] = _call(block, model.device, *inputs, **named)
        calls[f"{path}: left"] = _call(left, model.device, *inputs, **named)

    with watched(model.net, blocks, note):
        model.module(*example_inputs(model, batch=1))
    taken = {name: float(np.median(values)) for name, values in interleaved(calls, ROUNDS, progress, title).items()}
    return {path: taken[path] - taken[f"{path}: left"] for path in blocks}


def _call(module: nn.Module, device: torch.device, *inputs: Any, **named: Any) -> Callable[[], object]:
    """Runs the module and waits for it."""

    def call() -> None:
        module(*inputs, **named)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return call

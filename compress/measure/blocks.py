"""How long the blocks of a model take, in PyTorch, at batch 1."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from compress.families.replacements import Edit
from compress.measure.latency import interleaved
from compress.model.denoiser import Denoiser, example_inputs
from compress.model.reference import Progress

ROUNDS = 5


@torch.no_grad()
def share(model: Denoiser, less: Denoiser, progress: Progress, title: str) -> float:
    """The time of one evaluation of `less` as a fraction of that of `model`, medians of one interleaved run."""
    inputs = example_inputs(model, batch=1)
    calls = {name: _call(each.module, model.device, *inputs) for name, each in (("whole", model), ("less", less))}
    taken = interleaved(calls, ROUNDS, progress, title)
    return float(np.median(taken["less"]) / np.median(taken["whole"]))


@torch.no_grad()
def times(model: Denoiser, progress: Progress, title: str) -> dict[str, float]:
    """Milliseconds that each block takes longer than what its removal leaves, by path.

    Each is called alone, on the inputs that it has in the net: a difference of whole models would drown in noise.
    """
    calls: dict[str, Callable[[], object]] = {}
    handles, blocks, left = [], model.family.blocks(model.net), model.family.left
    for path, edit in blocks.items():

        def note(module: nn.Module, inputs: Any, named: Any, path: str = path, edit: Edit = edit) -> None:
            calls[path] = _call(module, model.device, *inputs, **named)
            calls[f"{path}: left"] = _call(left[edit["kind"]](module), model.device, *inputs, **named)

        handles.append(model.net.get_submodule(path).register_forward_pre_hook(note, with_kwargs=True))
    model.module(*example_inputs(model, batch=1))
    for handle in handles:
        handle.remove()
    taken = {name: float(np.median(values)) for name, values in interleaved(calls, ROUNDS, progress, title).items()}
    return {path: taken[path] - taken[f"{path}: left"] for path in blocks}


def _call(module: nn.Module, device: torch.device, *inputs: Any, **named: Any) -> Callable[[], object]:
    """Runs the module and waits for it."""

    def call() -> None:
        module(*inputs, **named)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return call

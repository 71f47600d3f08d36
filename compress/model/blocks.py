"""Whole blocks of a model: taking them out, and what is still read without them."""

import copy
import dataclasses
from collections.abc import Iterable

import torch

from compress.model import edits
from compress.model.denoiser import Denoiser
from compress.model.paths import outermost
from compress.randomness import Draw, generator


def without(model: Denoiser, paths: Iterable[str]) -> Denoiser:
    """A copy of the model without some of its blocks."""
    net, blocks = copy.deepcopy(model.net), model.family.blocks(model.net)
    for path in outermost(paths):
        edits.put(net, model.family, path, blocks[path])
    model.family.repair(net)
    stages = model.family.stages(net)
    kept = {tap: channels for tap, channels in model.kept.items() if tap in stages}
    return dataclasses.replace(model, net=net, kept=kept)


@torch.no_grad()
def inputs_read(model: Denoiser) -> set[str]:
    """Names of the inputs beside the sample on which the output depends."""
    random, device = generator(0, Draw.INPUTS_READ), model.device
    sample = torch.randn(1, *model.sample_shape, generator=random).to(device)
    told = model.sampling.told(model.sampling.training[[0, -1]]).to(device)
    pairs = {"timestep": list(told[:, None])}
    for name, condition in model.conditions.items():
        shape = (1, *condition.shape)
        if condition.dtype == torch.int64:
            other = torch.full(shape, (model.family.classes(model.net) or 1) - 1)
        else:
            other = torch.randn(shape, generator=random)
        pairs[name] = [torch.zeros_like(other).to(device), other.to(device)]

    def output(changed: str | None) -> torch.Tensor:
        result: torch.Tensor = model.module(sample, *(pair[int(name == changed)] for name, pair in pairs.items()))
        return result

    base = output(None)
    return {name for name in pairs if not torch.equal(output(name), base)}

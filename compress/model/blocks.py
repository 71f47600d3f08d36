"""Whole blocks of a model: taking them out, and what is still read without them."""

import copy
import dataclasses
from collections.abc import Iterable

import torch

from compress.model import edits
from compress.model.denoiser import Denoiser, example_inputs
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
    told = model.sampling.told(model.sampling.training[[0, -1]]).to(device)
    inputs = dict(zip(("sample", "timestep", *model.inputs), example_inputs(model, batch=1), strict=True))
    inputs |= {"sample": torch.randn(inputs["sample"].shape, generator=random).to(device), "timestep": told[:1]}
    others = {"timestep": told[1:]}
    for name, condition in model.inputs.items():
        if condition.dtype == torch.int64:
            others[name] = torch.full_like(inputs[name], (model.family.classes(model.net) or 1) - 1)
        else:  # scalars are positive
            others[name] = inputs[name] + torch.randn(inputs[name].shape, generator=random).abs().to(device)
    base = model.module(*inputs.values())
    return {name for name in others if not torch.equal(model.module(*(inputs | {name: others[name]}).values()), base)}

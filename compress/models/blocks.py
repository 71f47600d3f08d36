"""Whole blocks of a model: taking them out, and the layouts that say which."""

import copy
import dataclasses
import re
from collections.abc import Iterable
from typing import Any

import torch

from compress.models import edits
from compress.models.denoiser import Denoiser
from compress.randomness import Draw, generator

_LAYER = re.compile(r"(down_blocks|up_blocks)\.(\d+)\.(?:resnets|attentions)\.(\d+)")


def without(model: Denoiser, paths: Iterable[str]) -> Denoiser:
    """A copy of the model without some of its blocks."""
    net, blocks = copy.deepcopy(model.net), model.family.blocks(model.net)
    for path in outermost(paths):
        edits.put(net, path, blocks[path])
    stages = model.family.stages(net)
    kept = {tap: channels for tap, channels in model.kept.items() if tap in stages}
    return dataclasses.replace(model, net=net, kept=kept)


def outermost(paths: Iterable[str]) -> list[str]:
    """Paths without those that lie within another of them, none twice."""
    paths = list(dict.fromkeys(paths))
    return [path for path in paths if not any(path.startswith(f"{other}.") for other in paths)]


def layout(model: Denoiser, name: str) -> list[str]:
    """The blocks that a BK-SDM layout leaves out: Kim et al. 2023, arXiv:2305.15798.

    bk-base keeps the first residual + attention pair of every down stage, and the first and the last of every up
    stage; bk-small takes the mid block too; bk-tiny also all of the innermost stage, where the paper takes the
    resampling and the convolutions of shortcuts too: here they stay, and so does every width.
    """
    net: Any = model.net
    chosen = []
    for path in model.family.blocks(net):
        match = _LAYER.fullmatch(path)
        if match is None:
            taken = path == "mid_block" and name != "bk-base"
        else:
            kind, stage, layer = match[1], int(match[2]), int(match[3])
            down = kind == "down_blocks"
            last = len(getattr(net, kind)[stage].resnets) - 1
            innermost = stage == (len(net.down_blocks) - 1 if down else 0)
            taken = (layer > 0 and (down or layer < last)) or (name == "bk-tiny" and innermost)
        if taken:
            chosen.append(path)
    return chosen


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

"""Narrower models that stay plain diffusers models: every width is one that the config can say."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn

from compress.errors import PassError
from compress.models import edits
from compress.models.channels import Coupled
from compress.models.denoiser import Denoiser


def narrower(model: Denoiser, share: float, multiple_of: int, heads: Literal["narrow", "remove"]) -> nn.Module:
    """The net, on the meta device, whose every level has lost `share` of its channels, in legal widths.

    heads: whether attention heads become narrower or fewer. Raises PassError where the config cannot say that.
    """
    if edits.found(model.net):
        raise PassError("widths: stock needs a plain diffusers model; blocks or ranks were changed: use widths: free")
    config: dict[str, Any] = dict(model.config)
    dimension = config.get("attention_head_dim")
    levels = tuple(config["block_out_channels"])
    attending = _heads(model)
    counted = model.family.name == "UNet2DConditionModel"  # there `attention_head_dim` is the number of heads
    if counted and heads == "remove":
        raise PassError("widths: stock keeps the number of heads of this model; set heads: narrow")
    each = math.lcm(int(config.get("norm_num_groups") or 1), multiple_of, 2)  # 2: time embeddings have two halves
    if counted or heads == "narrow":
        each = math.lcm(each, *attending.values())
    elif attending:
        each = math.lcm(each, int(dimension or 1))
    widths: list[int] = []
    for level, width in enumerate(levels):
        left = max(each, math.floor(width * (1 - share) / each) * each) if width % each == 0 else width
        # where levels differ, the first block of the wider one has a shortcut of its own, and keeps it
        widths.append(
            left + each if level and width > levels[level - 1] and left <= widths[-1] < width - each else left
        )
    config["block_out_channels"] = tuple(widths)
    if not counted and heads == "narrow" and attending:
        dimensions = {widths[level] // count for level, count in attending.items()}
        if len(dimensions) > 1:
            raise PassError("widths: stock needs one width of attention heads at all levels; set heads: remove")
        config["attention_head_dim"] = dimensions.pop()
    with torch.device("meta"):
        return model.family.build(config)


def _heads(model: Denoiser) -> dict[int, int]:
    """Number of attention heads at the levels that have attention; the mid block belongs to the last."""
    levels = len(model.config["block_out_channels"])
    paths = {module: path for path, module in model.net.named_modules()}
    found = {}
    for projection, count in model.family.heads(model.net).items():
        kind, _, rest = paths[projection].partition(".")
        if kind == "mid_block":
            found[levels - 1] = count
        elif kind == "down_blocks":
            found[int(rest.partition(".")[0])] = count
    return found


def counts(sets: Iterable[Coupled], stock: nn.Module) -> dict[str, int]:
    """How many channels of every coupled set `stock` has."""
    return {one.name: _width(one, stock) for one in sets}


def _width(one: Coupled, stock: nn.Module) -> int:
    member = min(one.members, key=lambda m: len(m.places) / one.count if len(m.places) >= one.count else math.inf)
    for other in one.members:  # a reader of a concatenation reads other sets too: prefer a layer that is read whole
        weight = stock.get_submodule(other.path).get_parameter("weight")
        if len(other.places) == one.count and other.dim == 0 and weight.ndim > 1:
            return int(weight.shape[0])
    return int(stock.get_submodule(member.path).get_parameter("weight").shape[member.dim])


def conform(pruned: Denoiser, stock: nn.Module) -> Denoiser:
    """The pruned model as the plain net `stock` (on the meta device). Raises PassError if a width differs.

    A narrower first level has fewer sinusoids of time, and of a class that is a number, at other frequencies: the
    weights of the nearest are taken.
    """
    weights = dict(pruned.net.state_dict())
    wanted = stock.state_dict()
    for name in ("time_embedding.linear_1.weight", "class_embedding.linear_1.weight"):
        if name in wanted and weights[name].shape[1] != wanted[name].shape[1]:
            old, new = weights[name].shape[1] // 2, wanted[name].shape[1] // 2
            nearest = torch.linspace(0, old - 1, new).round().long()
            weights[name] = weights[name][:, torch.cat([nearest, nearest + old])]
    unlike = [key for key in wanted if weights[key].shape != wanted[key].shape]
    if unlike:
        raise PassError(f"widths: stock cannot make {unlike[0]} {list(wanted[unlike[0]].shape)}; use widths: free")
    stock.load_state_dict(weights, assign=True)
    return dataclasses.replace(pruned, net=stock.requires_grad_(False).train(pruned.net.training))

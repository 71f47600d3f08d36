"""Narrower models that stay plain diffusers models: every width is one that the config can say."""

import dataclasses
import math
from typing import Literal

import torch
from torch import nn

from compress.errors import PassError
from compress.model import edits
from compress.model.channels import Coupled, Member
from compress.model.denoiser import Denoiser


def narrower(model: Denoiser, share: float, multiple_of: int, heads: Literal["narrow", "remove"]) -> nn.Module:
    """The net, on the meta device, whose every width has lost `share` of its channels, heads being narrowed or removed.

    Raises PassError where a config cannot say that.
    """
    if model.family.narrower is None:
        raise PassError(f"widths: stock: the config of a {model.family.name} has no such widths; use widths: free")
    if edits.found(model.net):
        raise PassError("widths: stock needs a plain diffusers model; blocks or ranks were changed: use widths: free")
    return model.family.narrower(model.net, share, multiple_of, heads)


def width(one: Coupled, stock: nn.Module) -> int:
    """How many channels of a coupled set `stock` has.

    A reader of a concatenation reads other sets too: by a layer that writes this one alone, or else the nearest.
    """

    def doubt(member: Member) -> tuple[bool, float]:
        count = len(member.places)
        writes = count == one.count and member.dim == 0 and member.weight(stock).ndim > 1
        return not writes, count if count >= one.count else math.inf

    member = min(one.members, key=doubt)
    return member.weight(stock).shape[member.dim]


def conform(pruned: Denoiser, stock: nn.Module) -> Denoiser:
    """The pruned model as the plain net `stock` (on the meta device). Raises PassError if a width differs.

    A narrower net may have fewer sinusoids of time, and of a class that is a number, at other frequencies: the weights
    of the nearest are taken.
    """
    weights = dict(pruned.net.state_dict())
    wanted = stock.state_dict()
    for name in pruned.family.sinusoids:
        if name in wanted and weights[name].shape[1] != wanted[name].shape[1]:
            old, new = weights[name].shape[1] // 2, wanted[name].shape[1] // 2
            nearest = torch.linspace(0, old - 1, new).round().long()
            weights[name] = weights[name][:, torch.cat([nearest, nearest + old])]
    unlike = [key for key in wanted if weights[key].shape != wanted[key].shape]
    if unlike:
        raise PassError(f"widths: stock cannot make {unlike[0]} {list(wanted[unlike[0]].shape)}; use widths: free")
    stock.load_state_dict(weights, assign=True)
    return dataclasses.replace(pruned, net=stock.requires_grad_(False).train(pruned.net.training))

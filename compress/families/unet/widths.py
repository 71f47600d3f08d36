"""Narrower U-Nets whose every width is one that the config can say."""

import math
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from compress.errors import PassError
from compress.families.attention import projections


def narrower(net: Any, share: float, multiple_of: int, heads: Literal["narrow", "remove"]) -> nn.Module:
    """The net, on the meta device, whose every level has lost `share` of its channels, in legal widths.

    heads: whether attention heads become narrower or fewer. Raises PassError where the config cannot say that.
    """
    config: dict[str, Any] = dict(net.config)
    dimension = config.get("attention_head_dim")
    levels = tuple(config["block_out_channels"])
    attending = _heads(net)
    counted = isinstance(net, UNet2DConditionModel)  # there `attention_head_dim` is the number of heads
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
        stock: nn.Module = net.from_config(config)
    return stock


def _heads(net: Any) -> dict[int, int]:
    """Number of attention heads at the levels that have attention; the mid block belongs to the last."""
    levels = len(net.config["block_out_channels"])
    found = {}
    for path, block in projections(net).items():
        kind, _, rest = path.partition(".")
        if kind == "mid_block":
            found[levels - 1] = block.heads
        elif kind == "down_blocks":
            found[int(rest.partition(".")[0])] = block.heads
    return found

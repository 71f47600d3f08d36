"""What differs between architectures."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from compress.models.edits import Edit


@dataclass(frozen=True)
class Condition:
    """One input beside sample and timestep. shape: of one item, without the batch dimension."""

    dtype: torch.dtype
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Family:
    """One architecture: how to build it, call it, prune it and read its features.

    name: diffusers' class name, as in `config.json`.
    refuse: why a config of this class cannot be used, or None.
    conditions: the conditions of a net in the order of `positional`; `tokens` is the text length.
    positional: a module f(sample, timestep, *conditions) -> output [b,c,h,w] around a net.
    stages: tap name → path of the module whose first output is that stage's feature map [b,c,h,w],
        and path of the layer that writes its channels.
    heads: attention projections (to_q, to_k, to_v) → number of heads.
    protected: modules whose output channels are part of the interface.
    blocks: what can be taken out without a change of widths: path → edit (see `edits`).
    repair: after layers changed width, put right what modules store about widths.
    """

    name: str
    build: Callable[[Mapping[str, Any]], nn.Module]
    refuse: Callable[[Mapping[str, Any]], str | None]
    classes: Callable[[nn.Module], int | None]
    conditions: Callable[[nn.Module, int], dict[str, Condition]]
    positional: Callable[[nn.Module], nn.Module]
    stages: Callable[[nn.Module], dict[str, tuple[str, str]]]
    heads: Callable[[nn.Module], dict[nn.Module, int]]
    protected: Callable[[nn.Module], list[nn.Module]]
    blocks: Callable[[nn.Module], dict[str, Edit]]
    repair: Callable[[nn.Module], None]

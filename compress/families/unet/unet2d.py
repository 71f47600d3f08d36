"""diffusers' `UNet2DModel`: unconditional or class-conditional."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import nn

from compress.families.family import Condition
from compress.families.unet import common


class Unconditional(nn.Module):
    """f(sample, timestep, *scalars) -> output, in the sample's type whatever the net computes in."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        first: torch.Tensor | None = None,
        second: torch.Tensor | None = None,
    ) -> torch.Tensor:
        labels = common.labels(None, first, second)
        output = self.net(sample.to(self.net.dtype), timestep, class_labels=labels, return_dict=False)[0]
        return output.to(sample.dtype)


class ClassConditional(Unconditional):
    """f(sample, timestep, class_labels, *scalars) -> output. class_labels: int64 [b], or as `class_condition` says."""

    def __init__(self, net: Any) -> None:
        super().__init__(net)
        if net.config.class_embed_type == "timestep":
            net.class_embedding.float()  # diffusers gives it float32, whatever the net computes in

    def forward(  # type: ignore[override]
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        class_labels: torch.Tensor,
        first: torch.Tensor | None = None,
        second: torch.Tensor | None = None,
    ) -> torch.Tensor:
        if class_labels.is_floating_point():
            class_labels = class_labels.to(self.net.dtype)
        labels = common.labels(class_labels, first, second)
        output = self.net(sample.to(self.net.dtype), timestep, class_labels=labels, return_dict=False)[0]
        return output.to(sample.dtype)


def _conditions(net: Any, tokens: int) -> dict[str, Condition]:
    return common.class_condition(net)


def _positional(net: Any) -> nn.Module:
    return ClassConditional(net) if common.class_condition(net) else Unconditional(net)


def _refuse(config: Mapping[str, Any]) -> str | None:
    if config.get("time_embedding_type", "positional") == "fourier":
        return "time_embedding_type 'fourier' (a score-SDE model with continuous noise levels) is not supported"
    return None


FAMILY = common.unet(
    name="UNet2DModel",
    build=lambda config: UNet2DModel.from_config(dict(config)),
    refuse=_refuse,
    conditions=_conditions,
    positional=_positional,
)

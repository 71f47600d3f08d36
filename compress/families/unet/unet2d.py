"""diffusers' `UNet2DModel`: unconditional or class-conditional, perhaps on an image beside the sample."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DModel

from compress.families.unet import common


def _call(
    net: Any,
    sample: torch.Tensor,
    timestep: torch.Tensor,
    conditions: Mapping[str, torch.Tensor],
    scalars: tuple[torch.Tensor, ...],
) -> torch.Tensor:
    labels = common.class_given(conditions, scalars)
    output: torch.Tensor = net(sample, timestep, class_labels=labels, return_dict=False)[0]
    return output


def _refuse(config: Mapping[str, Any]) -> str | None:
    if config.get("time_embedding_type", "positional") == "fourier":
        return "time_embedding_type 'fourier' (a score-SDE model with continuous noise levels) is not supported"
    return None


FAMILY = common.unet(
    name="UNet2DModel",
    build=lambda config: UNet2DModel.from_config(dict(config)),
    refuse=_refuse,
    conditions=lambda net, tokens: common.class_condition(net, dropped=True) | common.concatenated(net),
    call=_call,
)

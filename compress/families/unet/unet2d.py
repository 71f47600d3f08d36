"""diffusers' `UNet2DModel`: unconditional or class-conditional."""

from collections.abc import Mapping
from typing import Any

from diffusers import UNet2DModel
from torch import nn

from compress.families.unet import common


def _positional(net: Any) -> nn.Module:
    if net.config.class_embed_type == "timestep":
        net.class_embedding.float()  # diffusers gives it float32, whatever the net computes in
    return common.Positional(net, common.class_condition(net))


def _refuse(config: Mapping[str, Any]) -> str | None:
    if config.get("time_embedding_type", "positional") == "fourier":
        return "time_embedding_type 'fourier' (a score-SDE model with continuous noise levels) is not supported"
    return None


FAMILY = common.unet(
    name="UNet2DModel",
    build=lambda config: UNet2DModel.from_config(dict(config)),
    refuse=_refuse,
    conditions=lambda net, tokens: common.class_condition(net),
    positional=_positional,
)

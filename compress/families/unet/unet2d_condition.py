"""diffusers' `UNet2DConditionModel`: conditioned on text embeddings."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from compress.families.family import Condition
from compress.families.unet import common

_UNUSED = ("addition_embed_type", "time_cond_proj_dim")


def _conditions(net: Any, tokens: int) -> dict[str, Condition]:
    return {"encoder_hidden_states": Condition(torch.float32, (tokens, _width(net)))} | common.class_condition(net)


def _width(net: Any) -> int:
    width = net.config.encoder_hid_dim or net.config.cross_attention_dim
    return int(width[0] if isinstance(width, tuple | list) else width)


def _refuse(config: Mapping[str, Any]) -> str | None:
    used = [key for key in _UNUSED if config.get(key) is not None]
    if config.get("encoder_hid_dim_type") not in (None, "text_proj"):
        used.append("encoder_hid_dim_type")
    if config.get("dual_cross_attention"):
        return "dual_cross_attention is not supported: diffusers itself no longer runs it"
    return f"{', '.join(used)} (conditions beside text embeddings) are not supported yet" if used else None


FAMILY = common.unet(
    name="UNet2DConditionModel",
    build=lambda config: UNet2DConditionModel.from_config(dict(config)),
    refuse=_refuse,
    conditions=_conditions,
    positional=lambda net: common.Positional(net, _conditions(net, 1)),
)

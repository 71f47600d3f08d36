"""diffusers' `UNet2DConditionModel`: conditioned on text embeddings."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from compress.families.family import Condition
from compress.families.unet import common

_UNUSED = ("addition_embed_type", "time_cond_proj_dim")


class TextConditional(nn.Module):
    """f(sample, timestep, encoder_hidden_states [b,tokens,width], *scalars) -> output, in the sample's type."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        first: torch.Tensor | None = None,
        second: torch.Tensor | None = None,
    ) -> torch.Tensor:
        dtype = self.net.dtype
        given = (sample.to(dtype), timestep, encoder_hidden_states.to(dtype), common.labels(None, first, second))
        output = self.net(*given, return_dict=False)[0]
        return output.to(sample.dtype)


class TextAndClassConditional(TextConditional):
    """f(sample, timestep, encoder_hidden_states, class_labels, *scalars) -> output, in the sample's type."""

    def forward(  # type: ignore[override]
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        class_labels: torch.Tensor,
        first: torch.Tensor | None = None,
        second: torch.Tensor | None = None,
    ) -> torch.Tensor:
        dtype = self.net.dtype
        if class_labels.is_floating_point():
            class_labels = class_labels.to(dtype)
        labels = common.labels(class_labels, first, second)
        given = (sample.to(dtype), timestep, encoder_hidden_states.to(dtype), labels)
        output: torch.Tensor = self.net(*given, return_dict=False)[0]
        return output.to(sample.dtype)


def _positional(net: Any) -> nn.Module:
    return TextAndClassConditional(net) if common.class_condition(net) else TextConditional(net)


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
    positional=_positional,
)

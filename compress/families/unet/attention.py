"""Attention blocks of a U-Net in fewer kernels: the same function as diffusers' processor, without a transpose."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from compress.families import attention as lean
from compress.families.replacements import Convolution


class ChannelsFirst:
    """Self-attention on [b, channels, height × width], as images lie in memory.

    Queries, keys and values come from one convolution with stacked weights, into which the group norm's affine part and
    the scores' scale are folded. A convolution adds its bias in the same kernel, as a product does not; one on images,
    the residual too.
    """

    def __call__(
        self,
        attention: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        temb: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Output [b, channels, height, width] for an input of the same shape. temb is not used."""
        batch, channels, height, width = hidden_states.shape
        norm, out = attention.group_norm, attention.to_out[0]
        weight, bias, out_weight = lean.stack(attention, {"weight": norm.weight, "bias": norm.bias})
        groups = hidden_states.reshape(batch, norm.num_groups, -1)
        x = functional.instance_norm(groups, eps=norm.eps).reshape(batch, channels, -1)
        stacked = attention.stacked(x, weight[:, :, None], bias).unflatten(1, (3 * attention.heads, -1))
        x = lean.attend(attention, stacked).reshape(batch, -1, height, width)
        x = attention.out(x, out_weight[:, :, None, None], out.bias)
        if attention.residual_connection:
            x = x + hidden_states
        return x if attention.rescale_output_factor == 1 else x / attention.rescale_output_factor


def channels_first(net: nn.Module) -> AbstractContextManager[None]:
    """Within it, the self-attention blocks of `net` that read feature maps compute by `ChannelsFirst`."""
    return lean.computing_by(net, ChannelsFirst(), Convolution, _reads_maps)


def folded(net: nn.Module) -> set[str]:
    """Paths of the layers whose weights `channels_first` computes with and does not read as they are."""
    return lean.layers_of(net, _reads_maps)


def _reads_maps(attention: Any) -> bool:
    """Whether an attention block is plain self-attention on [b, channels, height, width] after a group norm."""
    return attention.group_norm is not None and lean.plain(attention)

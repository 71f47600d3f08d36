"""Attention in fewer kernels, for export: the same function as diffusers' processor, without a transpose."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.nn import functional


class ChannelsFirst:
    """Self-attention on [b, channels, height × width], as images lie in memory.

    Queries, keys and values come from one convolution with stacked weights, into which the group norm's affine part and
    the scores' scale are folded: W (γ x + β) + b = (W γ) x + (W β + b). Softmax(q^T k / √d): Vaswani et al. 2017, eq.
    (1). A convolution adds its bias in the same kernel, as a product does not; one on images, the residual too.
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
        norm, heads = attention.group_norm, attention.heads
        scale = (attention.to_q.out_features // heads) ** -0.5
        layers = (attention.to_q, attention.to_k, attention.to_v)
        weight = torch.cat([layers[0].weight * scale, *(layer.weight for layer in layers[1:])])
        bias = torch.cat([_bias(layers[0]) * scale, *map(_bias, layers[1:])])
        bias, weight = bias + weight @ norm.bias, weight * norm.weight
        groups = hidden_states.reshape(batch, norm.num_groups, -1)
        x = functional.instance_norm(groups, eps=norm.eps).reshape(batch, channels, -1)
        stacked = functional.conv1d(x, weight[:, :, None], bias).unflatten(1, (3 * heads, -1))
        query, key, value = stacked.chunk(3, dim=1)  # [b, heads, dimension, positions]
        scores = (query.transpose(2, 3) @ key).softmax(dim=-1)
        x = (value @ scores.transpose(2, 3)).reshape(batch, -1, height, width)
        out = attention.to_out[0]
        x = functional.conv2d(x, out.weight[:, :, None, None], out.bias)
        if attention.residual_connection:
            x = x + hidden_states
        return x if attention.rescale_output_factor == 1 else x / attention.rescale_output_factor


def _bias(layer: nn.Linear) -> torch.Tensor:
    return layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias


@contextmanager
def channels_first(net: nn.Module, wanted: Callable[[str], bool] = lambda path: True) -> Iterator[None]:
    """Within it, the self-attention blocks of `net` that read feature maps compute by `ChannelsFirst`.

    wanted: of a block's path, whether it is meant.
    """
    found = [m for path, m in net.named_modules() if isinstance(m, Attention) and _reads_maps(m) and wanted(path)]
    before = [attention.processor for attention in found]
    for attention in found:
        attention.processor = ChannelsFirst()
    try:
        yield
    finally:
        for attention, processor in zip(found, before, strict=True):
            attention.processor = processor


def _reads_maps(attention: Any) -> bool:
    """Whether an attention block is plain self-attention on [b, channels, height, width] after a group norm."""
    extras = ("spatial_norm", "norm_q", "norm_k", "norm_cross", "added_kv_proj_dim")
    layers = (attention.to_q, attention.to_k, attention.to_v)
    widths = {layer.out_features for layer in layers if layer is not None}
    return (
        attention.group_norm is not None
        and attention.to_k is not None
        and not attention.is_cross_attention
        and not any(getattr(attention, name, None) for name in extras)
        and len(widths) == 1
        and all(isinstance(layer, nn.Linear) for layer in (*layers, attention.to_out[0]))
    )

"""Attention blocks of a U-Net; in fewer kernels: the same function as diffusers' processor, without a transpose."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import nn
from torch.nn import functional

from compress.families.family import Projections
from compress.families.replacements import Convolution

_INPUTS, _OUTPUT = ("to_q", "to_k", "to_v"), ("to_out.0",)
# Of `ChannelsFirst`; keys: what is made of the second of three.
PARTS = {
    "stacked": _INPUTS,
    "keys": _INPUTS,
    "out": _OUTPUT,
    "probabilities": ("stacked", *_INPUTS, "out", *_OUTPUT),
}


def projections(net: nn.Module) -> dict[str, Projections]:
    """Every attention block by its path."""
    found = {}
    for path, module in net.named_modules():
        if isinstance(module, Attention):
            others = [f"{path}.{name}" if getattr(module, name) is not None else None for name in ("to_k", "to_v")]
            found[path] = Projections(module.heads, f"{path}.to_q", *others)
    return found


class ChannelsFirst:
    """Self-attention on [b, channels, height × width], as images lie in memory.

    Queries, keys and values come from one convolution with stacked weights, into which the group norm's affine part and
    the scores' scale are folded: W (γ x + β) + b = (W γ) x + (W β + b). Softmax(q^T k / √d): Vaswani et al. 2017, eq.
    (1). A convolution adds its bias in the same kernel, as a product does not; one on images, the residual too.

    The three are of one size, so that in int8 they can share a range (cross-layer equalisation, Nagel et al. 2019): the
    input has unit variance, so the size of each channel follows from its weights. A channel of the queries and that of
    the keys take factors whose product is the scale, values one that is taken back by the weights of the output.
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
        norm, heads, out = attention.group_norm, attention.heads, attention.to_out[0]
        weights, biases = [], []
        for layer in (attention.to_q, attention.to_k, attention.to_v):
            weights.append(layer.weight * norm.weight)
            biases.append(_bias(layer) + layer.weight @ norm.bias)
        query, key, value = (_sizes(*both) for both in zip(weights, biases, strict=True))
        scale = (attention.to_q.out_features // heads) ** -0.25
        size = scale * (query * key).mean().sqrt()
        factors = (scale * (key / query).sqrt(), scale * (query / key).sqrt(), size / value)
        weight = torch.cat([factor[:, None] * one for factor, one in zip(factors, weights, strict=True)])
        bias = torch.cat([factor * one for factor, one in zip(factors, biases, strict=True)])
        groups = hidden_states.reshape(batch, norm.num_groups, -1)
        x = functional.instance_norm(groups, eps=norm.eps).reshape(batch, channels, -1)
        stacked = attention.stacked(x, weight[:, :, None], bias).unflatten(1, (3 * heads, -1))
        query, key, value = stacked.chunk(3, dim=1)  # [b, heads, dimension, positions]
        probabilities = attention.probabilities(query.transpose(2, 3) @ key)
        x = (value @ probabilities.transpose(2, 3)).reshape(batch, -1, height, width)
        x = attention.out(x, (out.weight / factors[2])[:, :, None, None], out.bias)
        if attention.residual_connection:
            x = x + hidden_states
        return x if attention.rescale_output_factor == 1 else x / attention.rescale_output_factor


def _sizes(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Root mean square [out] of W x + b where x has mean 0 and variance 1."""
    return (weight.square().sum(1) + bias.square()).sqrt().clamp_min(1e-3)  # zeros keep finite factors


def _bias(layer: nn.Linear) -> torch.Tensor:
    return layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias


@contextmanager
def channels_first(net: nn.Module) -> Iterator[None]:
    """Within it, the self-attention blocks of `net` that read feature maps compute by `ChannelsFirst`."""
    found = [module for module in net.modules() if isinstance(module, Attention) and _reads_maps(module)]
    before = [attention.processor for attention in found]
    try:
        for attention in found:
            attention.stacked, attention.probabilities, attention.out = Convolution(), nn.Softmax(dim=-1), Convolution()
            attention.processor = ChannelsFirst()
        yield
    finally:
        for attention, processor in zip(found, before, strict=True):
            attention.processor = processor
            for name in ("stacked", "probabilities", "out"):
                attention._modules.pop(name, None)


def folded(net: nn.Module) -> set[str]:
    """Paths of the layers whose weights `channels_first` computes with and does not read as they are."""
    lean = [path for path, module in net.named_modules() if isinstance(module, Attention) and _reads_maps(module)]
    return {f"{path}.{part}" for path in lean for part in (*_INPUTS, *_OUTPUT)}


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

"""What lean forms of self-attention have in common, whatever lies around them in a net of diffusers."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from compress.families.family import Projections

INPUTS, OUTPUT = ("to_q", "to_k", "to_v"), ("to_out.0",)
# Modules of an attention block in lean form; keys: what is made of the second of three.
PARTS = {
    "stacked": INPUTS,
    "keys": INPUTS,
    "out": OUTPUT,
    "probabilities": ("stacked", *INPUTS, "out", *OUTPUT),
}


def projections(net: nn.Module) -> dict[str, Projections]:
    """Every attention block by its path."""
    found = {}
    for path, module in net.named_modules():
        if isinstance(module, Attention):
            others = [f"{path}.{name}" if getattr(module, name) is not None else None for name in ("to_k", "to_v")]
            found[path] = Projections(module.heads, f"{path}.to_q", *others)
    return found


def repair(attention: Any) -> None:
    """Set the widths that an attention block stores to those of its layers."""
    attention.inner_dim = attention.to_q.out_features
    attention.inner_kv_dim = attention.to_k.out_features if attention.to_k is not None else attention.inner_dim
    attention.query_dim = attention.to_q.in_features
    attention.out_dim = attention.to_out[0].out_features


def plain(attention: Any) -> bool:
    """Whether a block is self-attention by three linear layers of one width, with nothing besides."""
    extras = ("spatial_norm", "norm_q", "norm_k", "norm_cross", "added_kv_proj_dim")
    layers = (attention.to_q, attention.to_k, attention.to_v)
    widths = {layer.out_features for layer in layers if layer is not None}
    return (
        attention.to_k is not None
        and not attention.is_cross_attention
        and not any(getattr(attention, name, None) for name in extras)
        and len(widths) == 1
        and all(isinstance(layer, nn.Linear) for layer in (*layers, attention.to_out[0]))
    )


def layers_of(net: nn.Module, suits: Callable[[Any], bool]) -> set[str]:
    """Paths of the layers of the attention blocks that a lean form suits: it computes with their weights, as `stack`
    makes them."""
    lean = [path for path, module in net.named_modules() if isinstance(module, Attention) and suits(module)]
    return {f"{path}.{part}" for path in lean for part in (*INPUTS, *OUTPUT)}


@contextmanager
def computing_by(
    net: nn.Module, processor: Any, layer: Callable[[], nn.Module], suits: Callable[[Any], bool]
) -> Iterator[None]:
    """Within it, the attention blocks that it suits compute by `processor`. layer: of the parts `stacked` and `out`."""
    found = [module for module in net.modules() if isinstance(module, Attention) and suits(module)]
    before = [attention.processor for attention in found]
    try:
        for attention in found:
            attention.stacked, attention.probabilities, attention.out = layer(), nn.Softmax(dim=-1), layer()
            attention.processor = processor
        yield
    finally:
        for attention, own in zip(found, before, strict=True):
            attention.processor = own
            for name in ("stacked", "probabilities", "out"):
                attention._modules.pop(name, None)


def stack(attention: Any, affine: Mapping[str, torch.Tensor] | None = None) -> tuple[torch.Tensor, ...]:
    """(weight [3 × inner,width] and bias [3 × inner] of queries, keys and values together, weight of the output).

    affine: scale γ and shift β [width] of the norm before, folded in: W (γ x + β) + b = (W γ) x + (W β + b).

    The three are of one size, so that in int8 they can share a range (cross-layer equalisation, Nagel et al. 2019): the
    input has unit variance, so the size of each channel follows from its weights. A channel of the queries and that of
    the keys take factors whose product is the scores' scale 1/√d (Vaswani et al. 2017, eq. 1), values one that is taken
    back by the weights of the output.
    """
    weights, biases = [], []
    for layer in (attention.to_q, attention.to_k, attention.to_v):
        weight, bias = layer.weight, _bias(layer)
        weights.append(weight * affine["weight"] if affine else weight)
        biases.append(bias + weight @ affine["bias"] if affine else bias)
    query, key, value = (_sizes(*both) for both in zip(weights, biases, strict=True))
    scale = (attention.to_q.out_features // attention.heads) ** -0.25
    size = scale * (query * key).mean().sqrt()
    factors = (scale * (key / query).sqrt(), scale * (query / key).sqrt(), size / value)
    weight = torch.cat([factor[:, None] * one for factor, one in zip(factors, weights, strict=True)])
    bias = torch.cat([factor * one for factor, one in zip(factors, biases, strict=True)])
    return weight, bias, attention.to_out[0].weight / factors[2]


def attend(attention: Any, stacked: torch.Tensor) -> torch.Tensor:
    """Softmax(qᵀk) v [b,heads,dimension,positions] of queries, keys and values [b,3 × heads,dimension,positions]."""
    query, key, value = stacked.chunk(3, dim=1)
    probabilities = attention.probabilities(query.transpose(2, 3) @ key)
    result: torch.Tensor = value @ probabilities.transpose(2, 3)
    return result


def _sizes(weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Root mean square [out] of W x + b where x has mean 0 and variance 1."""
    return (weight.square().sum(1) + bias.square()).sqrt().clamp_min(1e-3)  # zeros keep finite factors


def _bias(layer: nn.Linear) -> torch.Tensor:
    return layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias

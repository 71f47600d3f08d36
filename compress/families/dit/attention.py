"""Attention blocks of a transformer on tokens, in fewer kernels: the same function as diffusers' processor."""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from compress.families import attention as lean
from compress.families.replacements import Product


class Stacked:
    """Self-attention on [b, tokens, width] whose queries, keys and values come from one layer with stacked weights."""

    def __call__(
        self,
        attention: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: None = None,
        attention_mask: None = None,
        temb: None = None,
    ) -> torch.Tensor:
        """Output [b, tokens, width] for an input of the same shape."""
        weight, bias, out_weight = lean.stack(attention)
        stacked = attention.stacked(hidden_states, weight, bias).unflatten(2, (3 * attention.heads, -1))
        x = lean.attend(attention, stacked.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).flatten(2)
        result: torch.Tensor = attention.out(x, out_weight, attention.to_out[0].bias)
        return result


def stacked(net: nn.Module) -> AbstractContextManager[None]:
    """Within it, the attention blocks of `net` compute by `Stacked`."""
    return lean.computing_by(net, Stacked(), Product, lean.plain)


def folded(net: nn.Module) -> set[str]:
    """Paths of the layers whose weights `stacked` computes with and does not read as they are."""
    return lean.layers_of(net, lean.plain)

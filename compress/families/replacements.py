"""Modules that stand in for others in the net of any family, and the edits that say so."""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn import functional

Edit = dict[str, Any]


@runtime_checkable
class Replacement(Protocol):
    """A module in place of another. kind: of its edits."""

    kind: str

    @property
    def edit(self) -> Edit:
        """{"kind": …, settings}, as `structure.json` holds it."""


class Passthrough(nn.Module):
    """In place of a residual attention block, or of the mid block: gives back what comes in."""

    kind = "passthrough"

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.rescale_output_factor = getattr(block, "rescale_output_factor", 1.0)

    def forward(
        self, hidden_states: torch.Tensor, *_conditions: Any, return_dict: bool | None = None, **_more: Any
    ) -> Any:
        """[b,c,h,w] -> the same; as a tuple where the caller asks for no dictionary, as it does of transformers."""
        factor = self.rescale_output_factor
        x = hidden_states if factor == 1 else hidden_states / factor
        return (x,) if return_dict is False else x

    @property
    def edit(self) -> Edit:
        """As `structure.json` holds it."""
        return {"kind": self.kind}


class LowRank(nn.Module):
    """A convolution or linear layer as two: `down` to `rank` channels by the layer's own window, `up` pointwise.

    layer: may itself be of low rank.
    """

    kind = "low_rank"

    def __init__(self, layer: Any, rank: int) -> None:
        super().__init__()
        first: Any = layer.down if isinstance(layer, LowRank) else layer
        final = writer(layer)
        placed: dict[str, Any] = {"device": first.weight.device, "dtype": first.weight.dtype}
        bias = final.bias is not None
        self.down: nn.Conv2d | nn.Linear
        self.up: nn.Conv2d | nn.Linear
        if isinstance(first, nn.Conv2d):
            window: dict[str, Any] = {"stride": first.stride, "padding": first.padding, "dilation": first.dilation}
            self.down = nn.Conv2d(first.in_channels, rank, first.kernel_size, bias=False, **window, **placed)  # type: ignore[arg-type]
            self.up = nn.Conv2d(rank, final.out_channels, 1, bias=bias, **placed)
        else:
            self.down = nn.Linear(first.in_features, rank, bias=False, **placed)
            self.up = nn.Linear(rank, final.out_features, bias=bias, **placed)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """As the layer it stands for."""
        result: torch.Tensor = self.up(self.down(x))
        return result

    @property
    def edit(self) -> Edit:
        """As `structure.json` holds it."""
        return {"kind": self.kind, "rank": self.down.weight.shape[0]}

    # diffusers and the families ask layers for their widths
    in_channels = property(lambda self: self.down.weight.shape[1])
    in_features = in_channels
    out_channels = property(lambda self: self.up.weight.shape[0])
    out_features = out_channels


def writer(layer: Any) -> Any:
    """What writes the output of a layer, which may be of low rank."""
    return layer.up if isinstance(layer, LowRank) else layer


def written_by(path: str, layer: nn.Module) -> str:
    """Path of what writes the output of the layer at a path."""
    return f"{path}.up" if isinstance(layer, LowRank) else path


def channel_axis(layer: nn.Module) -> int:
    """Where the output of a layer has its channels: last of a linear one, second of a convolution."""
    return -1 if isinstance(writer(layer), nn.Linear) else 1


class Product(nn.Module):
    """A linear layer by weights that are computed; a module, so that it has a path in the net."""

    def forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """x [...,in] and weight [out,in] -> [...,out]."""
        return functional.linear(x, weight, bias)


class Convolution(nn.Module):
    """A convolution by weights that are computed, as `Product` is."""

    def forward(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """x [b,c,...] and weight [out,c,...] with one dimension of positions or two."""
        return (functional.conv1d if x.dim() == 3 else functional.conv2d)(x, weight, bias)

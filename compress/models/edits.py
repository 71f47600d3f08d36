"""What takes the place of a module that a pass took out of a net or made of lower rank.

An edit is data, {"kind": …, settings}, so that `structure.json` can hold it; `make` builds the module of an edit from
the one it replaces, and `found` reads the edits back off a net.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, UNetMidBlock2DCrossAttn
from torch import nn

from compress.models.scalars import VALUES, ScalarEmbedding

Edit = dict[str, Any]
LARGEST = 2**20  # of any width; a product of four still has a size


class Shortcut(nn.Module):
    """A residual block without its residual branch: what is left is its shortcut, a 1×1 convolution or nothing."""

    kind = "shortcut"

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.conv_shortcut: nn.Module | None = block.conv_shortcut
        self.output_scale_factor = block.output_scale_factor

    def forward(self, input_tensor: torch.Tensor, temb: torch.Tensor | None = None) -> torch.Tensor:
        """[b,in,h,w] -> [b,out,h,w]; the time embedding is not read."""
        x = input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor.contiguous())
        return x if self.output_scale_factor == 1 else x / self.output_scale_factor

    @property
    def edit(self) -> Edit:
        """As `structure.json` holds it."""
        return {"kind": self.kind}


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
        last: Any = layer.up if isinstance(layer, LowRank) else layer
        placed: dict[str, Any] = {"device": first.weight.device, "dtype": first.weight.dtype}
        bias = last.bias is not None
        self.down: nn.Conv2d | nn.Linear
        self.up: nn.Conv2d | nn.Linear
        if isinstance(first, nn.Conv2d):
            window: dict[str, Any] = {"stride": first.stride, "padding": first.padding, "dilation": first.dilation}
            self.down = nn.Conv2d(first.in_channels, rank, first.kernel_size, bias=False, **window, **placed)  # type: ignore[arg-type]
            self.up = nn.Conv2d(rank, last.out_channels, 1, bias=bias, **placed)
        else:
            self.down = nn.Linear(first.in_features, rank, bias=False, **placed)
            self.up = nn.Linear(rank, last.out_features, bias=bias, **placed)

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


def make(module: Any, edit: Mapping[str, Any]) -> nn.Module:
    """The module that an edit puts in place of `module` (or of None). Raises ValueError where it cannot."""
    kind, settings = edit.get("kind"), {key: value for key, value in edit.items() if key != "kind"}
    if kind == Shortcut.kind and isinstance(module, ResnetBlock2D) and not (module.up or module.down) and not settings:
        return Shortcut(module)
    whole = (Attention, Transformer2DModel, UNetMidBlock2D, UNetMidBlock2DCrossAttn)
    if kind == Passthrough.kind and isinstance(module, whole) and not settings:
        return Passthrough(module)
    if kind == ScalarEmbedding.kind and _are_scalars(settings):
        return ScalarEmbedding(module, settings["names"], settings["width"])
    rank = settings.get("rank")
    if (
        kind == LowRank.kind
        and can_be_low_rank(module)
        and set(settings) == {"rank"}
        and type(rank) is int
        and 0 < rank < LARGEST
    ):
        return LowRank(module, rank)
    raise ValueError(f"cannot put {dict(edit)} in place of a {type(module).__name__}")


def _are_scalars(settings: Mapping[str, Any]) -> bool:
    names, width = settings.get("names"), settings.get("width")
    return (
        set(settings) == {"names", "width"}
        and isinstance(names, list)
        and 0 < len(names) == len(set(map(str, names)))
        and set(map(str, names)) <= set(VALUES)
        and type(width) is int
        and 0 < width < LARGEST
    )


def can_be_low_rank(module: nn.Module) -> bool:
    """Whether a layer can be made of low rank, or of still lower rank."""
    return isinstance(module, nn.Linear | LowRank) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def put(net: Any, path: str, edit: Mapping[str, Any]) -> None:
    """Edit `net` in place. Raises ValueError where the edit does not fit the module at `path`."""
    owner, _, name = path.rpartition(".")
    try:
        module = getattr(net.get_submodule(owner), name)
    except AttributeError:
        raise ValueError(f"{path} does not exist") from None
    if not path or not isinstance(module, nn.Module | None):
        raise ValueError("the net itself cannot be replaced" if not path else f"{path} is no module")
    made = make(module, edit)
    if path == "mid_block" and isinstance(made, Passthrough):  # a config can say this, and diffusers then reads it
        net.mid_block = None
        net.register_to_config(mid_block_type=None)
    else:
        setattr(net.get_submodule(owner), name, made)


def found(net: nn.Module) -> dict[str, Edit]:
    """The edits of a net by path, outer ones before those within them."""
    return {
        path: module.edit
        for path, module in net.named_modules()
        if isinstance(module, (Shortcut, Passthrough, LowRank, ScalarEmbedding))
    }

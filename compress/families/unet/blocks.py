"""Blocks of a U-Net that can be taken out whole, what is left of them, and the layouts of BK-SDM."""

import re
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D, UNetMidBlock2DCrossAttn
from torch import nn

from compress.families.replacements import Edit, Passthrough

_LAYER = re.compile(r"(down_blocks|up_blocks)\.(\d+)\.(?:resnets|attentions)\.(\d+)")


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


def blocks(net: nn.Module) -> dict[str, Edit]:
    """What can be taken out and leaves every width as it is: path → the edit that does it, in the order of the net.

    Residual blocks that do not resample, attention blocks that add to their input, and the mid block.
    """
    found: dict[str, Edit] = {}
    for path, module in net.named_modules():
        if isinstance(module, ResnetBlock2D) and not (module.up or module.down):
            found[path] = {"kind": Shortcut.kind}
        attention = isinstance(module, Attention) and module.residual_connection
        mid = path == "mid_block" and isinstance(module, UNetMidBlock2D | UNetMidBlock2DCrossAttn)
        if attention or mid or isinstance(module, Transformer2DModel):
            found[path] = {"kind": Passthrough.kind}
    return found


def layout(name: str, net: Any) -> list[str]:
    """The blocks that a BK-SDM layout leaves out: Kim et al. 2023, arXiv:2305.15798.

    bk-base keeps the first residual + attention pair of every down stage, and the first and the last of every up
    stage; bk-small takes the mid block too; bk-tiny also all of the innermost stage, where the paper takes the
    resampling and the convolutions of shortcuts too: here they stay, and so does every width.
    """
    chosen = []
    for path in blocks(net):
        match = _LAYER.fullmatch(path)
        if match is None:
            taken = path == "mid_block" and name != "bk-base"
        else:
            kind, stage, layer = match[1], int(match[2]), int(match[3])
            down = kind == "down_blocks"
            last = len(getattr(net, kind)[stage].resnets) - 1
            innermost = stage == (len(net.down_blocks) - 1 if down else 0)
            taken = (layer > 0 and (down or layer < last)) or (name == "bk-tiny" and innermost)
        if taken:
            chosen.append(path)
    return chosen

"""diffusers' `UNet1DModel` on sound: samples [b,c,t], unconditional, as Dance Diffusion has it.

It downsamples by a fixed kernel, adds the time as channels of its input, and attends by layers of its own.
"""

from collections.abc import Mapping
from typing import Any

from diffusers import UNet1DModel
from diffusers.models.unets.unet_1d_blocks import ResConvBlock, SelfAttention1d
from torch import nn

from compress.families.family import Family, Layers
from compress.families.replacements import Edit, Passthrough, writer, written_by
from compress.families.unet.common import counterpart

_BLOCKS = ("DownBlock1DNoSkip", "DownBlock1D", "AttnDownBlock1D", "AttnUpBlock1D", "UpBlock1D", "UpBlock1DNoSkip")


def _refuse(config: Mapping[str, Any]) -> str | None:
    if config.get("time_embedding_type", "fourier") == "fourier":
        return "time_embedding_type 'fourier' (a model with continuous noise levels) is not supported"
    for key in ("down_block_types", "up_block_types"):
        unknown = [kind for kind in config.get(key, ()) if kind not in _BLOCKS]
        if unknown:
            return f"{key}: {unknown[0]} is not supported; supported: {', '.join(_BLOCKS)}"
    if config.get("mid_block_type", "UNetMidBlock1D") != "UNetMidBlock1D" or config.get("out_block_type") is not None:
        return "mid_block_type and out_block_type of planning models are not supported"
    return None


def _scalars(_net: nn.Module) -> dict[str, int]:
    raise ValueError("a UNet1DModel has no embedding of time to add another to")


def _stages(net: Any) -> dict[str, tuple[str, str]]:
    """Blocks whose last residual block is there: it writes their channels."""
    named = {f"{kind}.{i}": b for kind in ("down_blocks", "up_blocks") for i, b in enumerate(getattr(net, kind))}
    named["mid_block"] = net.mid_block
    found = {}
    for path, block in named.items():
        last = len(block.resnets) - 1
        if isinstance(block.resnets[last], ResConvBlock):
            found[path] = (path, written_by(f"{path}.resnets.{last}.conv_2", block.resnets[last].conv_2))
    return found


def _protected(net: nn.Module) -> list[nn.Module]:
    """What writes the streams, which skips and fixed kernels tie together, and attention, which stores its width."""
    kept: list[Any] = []
    for module in net.modules():
        if isinstance(module, ResConvBlock):
            kept += [module.conv_2, *([module.conv_skip] if module.has_conv_skip else [])]
        elif isinstance(module, SelfAttention1d):
            kept += [module.query, module.key, module.value, module.proj_attn]
    return [writer(layer) for layer in kept]


def _blocks(net: nn.Module) -> dict[str, Edit]:
    """Attention, and residual blocks that keep their width."""
    return {
        path: {"kind": Passthrough.kind}
        for path, module in net.named_modules()
        if isinstance(module, SelfAttention1d) or (isinstance(module, ResConvBlock) and not module.has_conv_skip)
    }


FAMILY = Family(
    name="UNet1DModel",
    folder="unet",
    dimensions=1,
    build=lambda config: UNet1DModel.from_config(dict(config)),
    refuse=_refuse,
    classes=lambda net: None,
    multiple=lambda config: config["sample_size"],  # the reflections at the ends take some length at every level
    conditions=lambda net, tokens: {},
    call=lambda net, sample, timestep, conditions, scalars: net(sample, timestep, return_dict=False)[0],
    scalars=_scalars,
    stages=_stages,
    channel_axis=1,
    attention=lambda net: {},
    protected=_protected,
    blocks=_blocks,
    left={Passthrough.kind: Passthrough},
    repair=lambda net: None,
    counterpart=counterpart,
    layers=Layers(ends=("down_blocks.0.resnets.0.conv_1",)),
)

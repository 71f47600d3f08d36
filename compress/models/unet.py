"""What diffusers' `UNet2DModel` and `UNet2DConditionModel` have in common."""

from typing import Any

from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn


def stages(net: nn.Module) -> dict[str, tuple[str, str]]:
    """Every down, mid and up block: tap name → (module path, path of the layer that writes its output)."""
    taps = {}
    for kind in ("down_blocks", "up_blocks"):
        for i, block in enumerate(getattr(net, kind)):
            path = f"{kind}.{i}"
            taps[path] = (path, f"{path}.{_writer(block)}")
    if getattr(net, "mid_block", None) is not None:
        taps["mid_block"] = ("mid_block", f"mid_block.{_writer(net.mid_block)}")
    return taps


def _writer(block: Any) -> str:
    """Path inside a block of the last convolution on its output stream."""
    for kind in ("downsamplers", "upsamplers"):
        samplers = getattr(block, kind, None)
        if samplers:
            last = samplers[-1]
            name = f"{kind}.{len(samplers) - 1}"
            if isinstance(getattr(last, "conv", None), nn.Conv2d):
                return f"{name}.conv"
            if hasattr(last, "conv2"):
                return f"{name}.conv2"
    return f"resnets.{len(block.resnets) - 1}.conv2"


def heads(net: nn.Module) -> dict[nn.Module, int]:
    """Query, key and value projections with their number of heads."""
    found: dict[nn.Module, int] = {}
    for module in net.modules():
        if isinstance(module, Attention):
            for projection in (module.to_q, module.to_k, module.to_v):
                if projection is not None:
                    found[projection] = module.heads
    return found


def protected(net: nn.Module) -> list[nn.Module]:
    """The layer that writes the model's output, and layers whose widths the dependency graph gets wrong.

    Where a time embedding scales and shifts, its projection is split in two halves whose channels must go
    in pairs; the inner width of such a block is left as it is.
    """
    kept: list[nn.Module] = [net.conv_out]  # type: ignore[list-item]
    for module in net.modules():
        if isinstance(module, ResnetBlock2D) and module.time_embedding_norm == "scale_shift":
            kept += [module.conv1, module.time_emb_proj]
    return kept


def repair(net: Any) -> None:
    """Set the widths that resampling and attention modules store and check to those of their layers."""
    for module in net.modules():
        if isinstance(module, Downsample2D | Upsample2D) and isinstance(module.conv, nn.Conv2d | nn.ConvTranspose2d):
            module.channels = module.conv.in_channels
            module.out_channels = module.conv.out_channels
        elif isinstance(module, Attention):
            module.inner_dim = module.to_q.out_features
            module.inner_kv_dim = module.to_k.out_features if module.to_k is not None else module.inner_dim
            module.query_dim = module.to_q.in_features
            module.out_dim = module.to_out[0].out_features
        elif hasattr(module, "conv1") and hasattr(module, "conv2") and hasattr(module, "conv_shortcut"):
            module.in_channels = module.conv1.in_channels
            module.out_channels = module.conv2.out_channels
            for resample in (module.downsample, module.upsample):  # inside such a block they have no weights
                if isinstance(resample, Downsample2D | Upsample2D):
                    resample.channels = resample.out_channels = module.in_channels

"""What diffusers' `UNet2DModel` and `UNet2DConditionModel` have in common."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

from compress.families import attention as shared
from compress.families.family import Condition, Family, Layers, Lean, sides
from compress.families.replacements import LowRank, Passthrough, writer, written_by
from compress.families.unet import attention, blocks, widths
from compress.families.unet.blocks import Shortcut


def classes(net: Any) -> int | None:
    """Number of labels, where the net has an embedding for each."""
    return None if net.config.class_embed_type is not None else net.config.num_class_embeds


def class_condition(net: Any, dropped: bool) -> dict[str, Condition]:
    """`class_labels`, a label for which the net has an embedding; or `class_embedding`, a number or a vector.

    diffusers calls both class_labels; only the former name a class. dropped: whether guidance leaves the latter out.
    """
    kind, config = net.config.class_embed_type, net.config
    if kind is None:
        return {} if config.num_class_embeds is None else {"class_labels": Condition(torch.int64)}
    shape: tuple[int, ...] = ()
    if kind == "identity":
        shape = (net.time_embedding.linear_2.out_features,)
    elif kind != "timestep":
        shape = (config.projection_class_embeddings_input_dim,)
    return {"class_embedding": Condition(torch.float32, shape, dropped)}


def class_given(conditions: Mapping[str, torch.Tensor], scalars: tuple[torch.Tensor, ...]) -> Any:
    """What diffusers takes as class_labels: a `class_condition`, with scalars [b] what `ScalarEmbedding` takes."""
    given = conditions.get("class_labels", conditions.get("class_embedding"))
    return (given, scalars) if scalars else given


# Channels beside a sample's, by those that a net takes and gives: in the names and the order of diffusers' pipelines.
_BESIDE = {(9, 4): {"mask": 1, "masked_image_latents": 4}, (8, 4): {"image_latents": 4}}


def concatenated(net: Any) -> dict[str, Condition]:
    """Conditions that are channels beside the sample's: of inpainting, editing and, for all others, an `image`."""
    taken, given = net.config.in_channels, net.config.out_channels
    named = _BESIDE.get((taken, given), {"image": taken - given} if taken > given else {})
    shape = sides(net.config)
    return {name: Condition(torch.float32, (count, *shape), concatenated=True) for name, count in named.items()}


def scalars(net: Any) -> dict[str, int]:
    """The class embedding, which is added to that of time; ValueError where it is computed from time's."""
    if net.config.class_embed_type == "timestep":
        raise ValueError("class_embed_type 'timestep' leaves no place for an embedding of a scalar")
    return {"class_embedding": net.time_embedding.linear_2.out_features}


def stages(net: nn.Module) -> dict[str, tuple[str, str]]:
    """Every down, mid and up block: tap name → (module path, path of the layer that writes its output)."""
    taps = {}
    for kind in ("down_blocks", "up_blocks"):
        for i, block in enumerate(getattr(net, kind)):
            writer = _writer(block)
            if writer:
                taps[f"{kind}.{i}"] = (f"{kind}.{i}", f"{kind}.{i}.{writer}")
    if isinstance(getattr(net, "mid_block", None), nn.Module) and not isinstance(net.mid_block, Passthrough):
        writer = _writer(net.mid_block)
        if writer:
            taps["mid_block"] = ("mid_block", f"mid_block.{writer}")
    return taps


def _writer(block: Any) -> str | None:
    """Path inside a block of the last convolution on its output stream; None: it adds to what comes in."""
    for kind in ("downsamplers", "upsamplers"):
        samplers = getattr(block, kind, None)
        if samplers:
            last = samplers[-1]
            name = f"{kind}.{len(samplers) - 1}"
            if isinstance(getattr(last, "conv", None), nn.Conv2d | LowRank):
                return written_by(f"{name}.conv", last.conv)
            if hasattr(last, "conv2"):
                return written_by(f"{name}.conv2", last.conv2)
    for i, resnet in reversed(list(enumerate(block.resnets))):
        if not isinstance(resnet, Shortcut):
            return written_by(f"resnets.{i}.conv2", resnet.conv2)
        if resnet.conv_shortcut is not None:
            return written_by(f"resnets.{i}.conv_shortcut", resnet.conv_shortcut)
    return None


def protected(net: nn.Module) -> list[nn.Module]:
    """The layer that writes the model's output, and layers whose widths the dependency graph gets wrong.

    Where a time embedding scales and shifts, its projection is split in two halves whose channels must go
    in pairs; the inner width of such a block is left as it is. Attention with added keys is as wide inside as the
    stream it adds to, because diffusers reshapes one by the other. A class embedding that is given is as wide as the
    time embedding that it is added to, and what is added to the sines of time as wide as they are.
    """
    kept: list[nn.Module] = [net.conv_out]  # type: ignore[list-item]
    if getattr(net.time_embedding, "cond_proj", None) is not None:
        kept.append(net.time_embedding.cond_proj)  # type: ignore[union-attr, arg-type]
    if net.config.class_embed_type == "identity":  # type: ignore[union-attr]
        kept.append(net.time_embedding.linear_2)  # type: ignore[union-attr, arg-type]
    for module in net.modules():
        if isinstance(module, ResnetBlock2D) and module.time_embedding_norm == "scale_shift":
            kept += [module.conv1, module.time_emb_proj]
        elif isinstance(module, Attention) and module.added_kv_proj_dim is not None:
            layers = (module.to_q, module.to_k, module.to_v, module.add_k_proj, module.add_v_proj, module.to_out[0])
            kept += [layer for layer in layers if layer is not None]
    return [writer(layer) for layer in kept]


def repair(net: Any) -> None:
    """Set the widths that resampling and attention modules store and check to those of their layers.

    What a config can say about the mid block is said there, for diffusers to read.
    """
    if isinstance(net.mid_block, Passthrough):
        net.mid_block = None
        net.register_to_config(mid_block_type=None)
    for module in net.modules():
        if isinstance(module, Downsample2D | Upsample2D) and isinstance(
            module.conv, nn.Conv2d | nn.ConvTranspose2d | LowRank
        ):
            module.channels = module.conv.in_channels
            module.out_channels = module.conv.out_channels
        elif isinstance(module, Attention):
            shared.repair(module)
        elif hasattr(module, "conv1") and hasattr(module, "conv2") and hasattr(module, "conv_shortcut"):
            module.in_channels = module.conv1.in_channels
            module.out_channels = module.conv2.out_channels
            for resample in (module.downsample, module.upsample):  # inside such a block they have no weights
                if isinstance(resample, Downsample2D | Upsample2D):
                    resample.channels = resample.out_channels = module.in_channels


def counterpart(name: str, student: Any, teacher: Any) -> str:
    """Outer levels stay: down blocks are numbered from the outside, up blocks from the inside."""
    part, _, rest = name.partition(".")
    if part != "up_blocks":
        return name
    index, _, rest = rest.partition(".")
    return f"up_blocks.{int(index) + len(teacher.up_blocks) - len(student.up_blocks)}.{rest}"


unet = partial(
    Family,
    folder="unet",
    classes=classes,
    multiple=lambda config: 2 ** (len(config["block_out_channels"]) - 1),
    any_size=True,
    scalars=scalars,
    stages=stages,
    channel_axis=1,
    attention=shared.projections,
    protected=protected,
    blocks=blocks.blocks,
    left={kind.kind: kind for kind in (Shortcut, Passthrough)},
    layouts={name: partial(blocks.layout, name) for name in ("bk-base", "bk-small", "bk-tiny")},
    repair=repair,
    counterpart=counterpart,
    narrower=widths.narrower,
    sinusoids=("time_embedding.linear_1.weight", "class_embedding.linear_1.weight"),
    layers=Layers(
        ends=("conv_in", "conv_out"),
        small_inputs=("time_embedding.*", "add_embedding.*"),
        merged=("*.time_emb_proj",),
        large=("*.transformer_blocks.*", "*.proj_in", "*.proj_out"),
    ),
    lean=Lean(attention.channels_first, attention.folded, shared.PARTS),
    # Attention weights of checkpoints written before diffusers 0.15.
    renamed={".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."},
)

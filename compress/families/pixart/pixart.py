"""Chen et al. 2023, "PixArt-α", and 2024, "PixArt-Σ", as diffusers has them.

Blocks attend to themselves and to the text; one layer makes the scales and shifts of all of them from the time. A net
of learned variance gives it as a second half of the channels.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import PixArtTransformer2DModel
from diffusers.models.attention import BasicTransformerBlock
from torch import nn

from compress.families import attention as shared
from compress.families import transformer
from compress.families.dit import attention
from compress.families.family import Condition, Family, Layers, Lean
from compress.families.replacements import Edit, Passthrough, writer, written_by
from compress.families.texts import T5, Encoder, Texts

_SIZES = {"resolution": (2,), "aspect_ratio": (1,)}  # that a net for 1024 pixels is told


def _refuse(config: Mapping[str, Any]) -> str | None:
    norm = config.get("norm_type", "ada_norm_single")
    return None if norm == "ada_norm_single" else f"norm_type {norm!r} is not supported: it is no PixArt"


def _conditions(net: Any, tokens: int) -> dict[str, Condition]:
    """The mask is positive where the text is read."""
    width = net.config.caption_channels or net.config.cross_attention_dim
    return {
        "encoder_hidden_states": Condition(torch.float32, (tokens, width), dropped=True),
        "encoder_attention_mask": Condition(torch.float32, (tokens,), dropped=True),
        **{name: Condition(torch.float32, size) for name, size in _SIZES.items() if net.use_additional_conditions},
    }


def _texts(config: Mapping[str, Any], index: Mapping[str, Any]) -> Texts:
    """T5's, told where a text ends."""
    large = config.get("use_additional_conditions")
    large = config.get("sample_size") == 128 if large is None else large
    tokens = 300 if index.get("_class_name") == "PixArtSigmaPipeline" else 120
    return Texts(
        {"text_encoder": Encoder(T5, "tokenizer", tokens, masked=True, lowered=True)},
        {"encoder_hidden_states": (("text_encoder.last",),), "encoder_attention_mask": (("text_encoder.mask",),)},
        told={"resolution": ("height", "width"), "aspect_ratio": ("aspect",)} if large else {},
    )


def _call(
    net: Any,
    sample: torch.Tensor,
    timestep: torch.Tensor,
    conditions: Mapping[str, torch.Tensor],
    _scalars: tuple[torch.Tensor, ...],
) -> torch.Tensor:
    for value in conditions.values():  # diffusers views them by the sample's number, which an exporter is to know
        torch._check(value.shape[0] == sample.shape[0])
    output: torch.Tensor = net(
        sample,
        conditions["encoder_hidden_states"],
        timestep,
        {name: conditions.get(name) for name in _SIZES},
        encoder_attention_mask=(conditions["encoder_attention_mask"] > 0).to(sample.dtype),
        return_dict=False,
    )[0]
    return output


def _blocks(net: Any) -> dict[str, Any]:
    return transformer.blocks(net, BasicTransformerBlock)


def _scalars(_net: nn.Module) -> dict[str, int]:
    raise ValueError("a PixArtTransformer2DModel has no embedding of a condition to add another to")


def _stages(net: Any) -> dict[str, tuple[str, str]]:
    return {path: (path, written_by(f"{path}.ff.net.2", block.ff.net[2])) for path, block in _blocks(net).items()}


def _protected(net: Any) -> list[nn.Module]:
    """What writes the stream or scales it, and the text, which is viewed in the stream's width."""
    embed = net.adaln_single.emb
    kept = [net.pos_embed.proj, net.proj_out, net.adaln_single.linear, embed.timestep_embedder.linear_2]
    if net.use_additional_conditions:
        kept += [embed.resolution_embedder.linear_2, embed.aspect_ratio_embedder.linear_2]
    if net.caption_projection is not None:
        kept.append(net.caption_projection.linear_2)
    for block in _blocks(net).values():
        kept += [block.attn1.to_out[0], block.attn2.to_out[0], block.ff.net[2]]
    return [writer(layer) for layer in kept]


def _removable(net: Any) -> dict[str, Edit]:
    return {path: {"kind": Passthrough.kind} for path in _blocks(net)}


def _repair(net: nn.Module) -> None:
    for block in _blocks(net).values():
        for one in (block.attn1, block.attn2):
            shared.repair(one)


FAMILY = Family(
    name="PixArtTransformer2DModel",
    folder="transformer",
    build=lambda config: PixArtTransformer2DModel.from_config(dict(config)),
    once=("Transformer2DModel",),
    refuse=_refuse,
    classes=lambda net: None,
    multiple=lambda config: config["patch_size"],
    conditions=_conditions,
    call=_call,
    texts=_texts,
    scalars=_scalars,
    stages=_stages,
    channel_axis=2,
    attention=shared.projections,
    protected=_protected,
    blocks=_removable,
    left={Passthrough.kind: Passthrough},
    repair=_repair,
    tables=transformer.fill_table,
    counterpart=transformer.counterpart,
    layers=Layers(
        ends=("pos_embed.proj", "proj_out"),
        small_inputs=("adaln_single.*",),
        large=("transformer_blocks.*", "caption_projection.*"),
    ),
    lean=Lean(attention.stacked, attention.folded, shared.PARTS),
)

"""Esser et al. 2024, "Scaling Rectified Flow Transformers", as diffusers has it: MMDiT, of Stable Diffusion 3 and 3.5.

A block has two streams, of patches and of text, that attend together; the last gives patches alone.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from diffusers import SD3Transformer2DModel
from diffusers.models.attention import JointTransformerBlock
from diffusers.models.embeddings import CombinedTimestepTextProjEmbeddings
from torch import nn

from compress.families import attention, transformer
from compress.families.family import Condition, Family, Layers
from compress.families.replacements import Edit, Passthrough, writer, written_by
from compress.families.texts import CLIP_PROJECTED, T5, Encoder, Texts

_PROJECTIONS = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")


class _BothPass(Passthrough):
    """In place of a block: gives back both streams."""

    def forward(self, hidden_states: torch.Tensor, *_conditions: Any, **more: Any) -> Any:
        """[b,patches,width] -> (text [b,tokens,width], the same)."""
        return more["encoder_hidden_states"], hidden_states


class _TimeAndText(CombinedTimestepTextProjEmbeddings):
    """diffusers' own, which also takes for the text what `ScalarEmbedding` does."""

    def forward(self, timestep: torch.Tensor, pooled_projection: Any) -> torch.Tensor:
        text = pooled_projection[0] if isinstance(pooled_projection, tuple) else pooled_projection
        time = self.timestep_embedder(self.time_proj(timestep).to(text.dtype))
        embedded: torch.Tensor = time + self.text_embedder(pooled_projection)
        return embedded


def _build(config: Mapping[str, Any]) -> nn.Module:
    net: Any = SD3Transformer2DModel.from_config(dict(config))
    net.time_text_embed.__class__ = _TimeAndText
    return cast(nn.Module, net)


def _conditions(net: Any, tokens: int) -> dict[str, Condition]:
    return {
        "encoder_hidden_states": Condition(torch.float32, (tokens, net.config.joint_attention_dim), dropped=True),
        "pooled_projections": Condition(torch.float32, (net.config.pooled_projection_dim,), dropped=True),
    }


def _texts(config: Mapping[str, Any], _index: Mapping[str, Any]) -> Texts:
    """The states of two CLIPs side by side, and those of T5, or zeros, behind them."""
    first, second, third = "text_encoder", "text_encoder_2", "text_encoder_3"
    return Texts(
        {
            first: Encoder(CLIP_PROJECTED, "tokenizer"),
            second: Encoder(CLIP_PROJECTED, "tokenizer_2"),
            third: Encoder(T5, "tokenizer_3", 256, optional=True),
        },
        {
            "encoder_hidden_states": ((f"{first}.penultimate", f"{second}.penultimate"), (f"{third}.last",)),
            "pooled_projections": ((f"{first}.pooled", f"{second}.pooled"),),
        },
        width=config.get("joint_attention_dim", 4096),
    )


def _call(
    net: Any,
    sample: torch.Tensor,
    timestep: torch.Tensor,
    conditions: Mapping[str, torch.Tensor],
    scalars: tuple[torch.Tensor, ...],
) -> torch.Tensor:
    """With scalars, the pooled text is what `ScalarEmbedding` takes."""
    pooled: Any = conditions["pooled_projections"]
    pooled = (pooled, scalars) if scalars else pooled
    output: torch.Tensor = net(sample, conditions["encoder_hidden_states"], pooled, timestep, return_dict=False)[0]
    return output


def _blocks(net: Any) -> dict[str, Any]:
    return transformer.blocks(net, JointTransformerBlock)


def _scalars(net: Any) -> dict[str, int]:
    return {"time_text_embed.text_embedder": net.time_text_embed.timestep_embedder.linear_2.out_features}


def _stages(net: Any) -> dict[str, tuple[str, str]]:
    return {path: (path, written_by(f"{path}.ff.net.2", block.ff.net[2])) for path, block in _blocks(net).items()}


def _protected(net: Any) -> list[nn.Module]:
    """What writes a stream or scales it, and attention, whose two streams have one width of heads."""
    embed = net.time_text_embed
    kept = [net.pos_embed.proj, net.context_embedder, net.norm_out.linear, net.proj_out]
    kept += [embed.timestep_embedder.linear_2, getattr(embed.text_embedder, "given", embed.text_embedder).linear_2]
    for block in _blocks(net).values():
        kept += [block.norm1.linear, block.norm1_context.linear]
        kept += [feed.net[2] for feed in (block.ff, block.ff_context) if feed is not None]
        for one in (block.attn, block.attn2):
            layers = [] if one is None else [one.to_out[0], *(getattr(one, name, None) for name in _PROJECTIONS)]
            kept += [layer for layer in layers if layer is not None]
    return [writer(layer) for layer in kept]


def _removable(net: Any) -> dict[str, Edit]:
    """All but the last, which has no stream of text to give."""
    return {path: {"kind": Passthrough.kind} for path, block in _blocks(net).items() if not block.context_pre_only}


def _lora(tensors: dict[str, torch.Tensor], _config: Any) -> dict[str, torch.Tensor]:
    from diffusers.loaders import SD3LoraLoaderMixin  # brings transformers and peft

    return cast(dict[str, torch.Tensor], SD3LoraLoaderMixin.lora_state_dict(tensors))


FAMILY = Family(
    name="SD3Transformer2DModel",
    folder="transformer",
    build=_build,
    refuse=lambda config: None,
    classes=lambda net: None,
    multiple=lambda config: config["patch_size"],
    conditions=_conditions,
    call=_call,
    texts=_texts,
    scalars=_scalars,
    stages=_stages,
    feature=lambda output: output[1],
    channel_axis=2,
    attention=attention.projections,
    protected=_protected,
    blocks=_removable,
    left={Passthrough.kind: _BothPass},
    repair=lambda net: None,
    counterpart=transformer.counterpart,
    layers=Layers(
        ends=("pos_embed.proj", "proj_out"),
        small_inputs=("*.norm1.*", "*.norm1_context.*", "norm_out.*", "time_text_embed.*"),
        large=("transformer_blocks.*", "context_embedder"),
    ),
    lora=_lora,
)

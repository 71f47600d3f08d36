"""Peebles and Xie 2022, "Scalable diffusion models with transformers", as diffusers has it.

Every block has its own embedding of time and class; the first block's is read at the end of the net too. A net of
learned variance gives it as a second half of the channels, which drawing and distilling do not read.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import DiTTransformer2DModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import LabelEmbedding
from torch import nn

from compress.families import attention as shared
from compress.families import transformer
from compress.families.dit import attention
from compress.families.family import Condition, Family, Layers, Lean
from compress.families.replacements import Edit, Passthrough, writer, written_by


def _build(config: Mapping[str, Any]) -> nn.Module:
    net: nn.Module = DiTTransformer2DModel.from_config(dict(config))
    for module in net.modules():
        if isinstance(module, LabelEmbedding):
            module.dropout_prob = 0.0  # which labels are left out in training, passes say, from their own seeds
    return net


def _refuse(config: Mapping[str, Any]) -> str | None:
    norm = config.get("norm_type", "ada_norm_zero")
    return None if norm == "ada_norm_zero" else f"norm_type {norm!r} is not supported: it is no class-conditional DiT"


def _classes(net: Any) -> int:
    """The last is the null class."""
    return int(net.config.num_embeds_ada_norm) + 1


def _call(
    net: Any,
    sample: torch.Tensor,
    timestep: torch.Tensor,
    conditions: Mapping[str, torch.Tensor],
    scalars: tuple[torch.Tensor, ...],
) -> torch.Tensor:
    """With scalars, labels are what `ScalarEmbedding` takes."""
    labels: Any = conditions["class_labels"]
    output: torch.Tensor = net(sample, timestep, (labels, scalars) if scalars else labels, return_dict=False)[0]
    return output


def _blocks(net: Any) -> dict[str, Any]:
    return transformer.blocks(net, BasicTransformerBlock)


def _scalars(net: nn.Module) -> dict[str, int]:
    return {
        f"{path}.norm1.emb.class_embedder": writer(block.norm1.emb.timestep_embedder.linear_2).out_features
        for path, block in _blocks(net).items()
    }


def _stages(net: nn.Module) -> dict[str, tuple[str, str]]:
    return {path: (path, written_by(f"{path}.ff.net.2", block.ff.net[2])) for path, block in _blocks(net).items()}


def _protected(net: Any) -> list[nn.Module]:
    """What writes the stream or scales it: its width is that of the table of positions, which no layer writes."""
    kept = [net.pos_embed.proj, net.proj_out_1, net.proj_out_2]
    for block in _blocks(net).values():
        embedding = block.norm1.emb.timestep_embedder
        kept += [embedding.linear_2, block.norm1.linear, block.attn1.to_out[0], block.ff.net[2]]
    return [writer(layer) for layer in kept]


def _removable(net: Any) -> dict[str, Edit]:
    """All but the first, whose embedding is read elsewhere."""
    return {path: {"kind": Passthrough.kind} for path in _blocks(net) if path != "transformer_blocks.0"}


def _repair(net: nn.Module) -> None:
    for block in _blocks(net).values():
        shared.repair(block.attn1)


FAMILY = Family(
    name="DiTTransformer2DModel",
    folder="transformer",
    build=_build,
    once=("Transformer2DModel",),
    refuse=_refuse,
    classes=_classes,
    multiple=lambda config: config["patch_size"],
    conditions=lambda net, tokens: {"class_labels": Condition(torch.int64)},
    call=_call,
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
        ends=("pos_embed.proj", "proj_out_2"),
        small_inputs=("*.norm1.*", "proj_out_1"),
        large=("transformer_blocks.*",),
        tables=("*.class_embedder.*",),  # one for each block
    ),
    lean=Lean(attention.stacked, attention.folded, shared.PARTS),
)

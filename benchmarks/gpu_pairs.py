"""Teachers of the sizes that people distill, with random weights, and their students."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from compress.diffusion.sampling import Guidance
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.families import FAMILIES
from compress.model.blocks import without
from compress.model.denoiser import Denoiser

SCHEDULER = {"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_schedule": "scaled_linear",
             "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False}  # fmt: skip
UNET = {"_class_name": "UNet2DConditionModel", "in_channels": 4, "out_channels": 4, "layers_per_block": 2}
SD15: dict[str, Any] = {
    **UNET,
    "sample_size": 64,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
# without the embeddings of sizes and pooled texts, a thousandth of its weights
SDXL: dict[str, Any] = {
    **UNET,
    "sample_size": 128,
    "block_out_channels": [320, 640, 1280],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2, 10],
    "attention_head_dim": [5, 10, 20],
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
}
DIT: dict[str, Any] = {
    "_class_name": "DiTTransformer2DModel",
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 28,
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "sample_size": 32,
    "patch_size": 2,
    "num_embeds_ada_norm": 1000,
}


@dataclasses.dataclass(frozen=True)
class Pair:
    """A teacher's config, what its student is without, and images a step. small: changes of the config for --small."""

    title: str
    config: Mapping[str, Any]
    layout: str | None
    batch_size: int
    small: Mapping[str, Any]


PAIRS = {
    "sd15": Pair("SD 1.5, bk-small", SD15, "bk-small", 8,
                 {"sample_size": 16, "block_out_channels": [32, 32, 64, 64], "cross_attention_dim": 32}),
    "dit": Pair("DiT-XL/2, half its depth", DIT, None, 64,
                {"sample_size": 8, "num_layers": 4, "num_attention_heads": 2, "attention_head_dim": 16}),
    "sdxl": Pair("SDXL, bk-small", SDXL, "bk-small", 4,
                 {"sample_size": 16, "block_out_channels": [32, 32, 64], "cross_attention_dim": 32,
                  "transformer_layers_per_block": [1, 1, 2], "attention_head_dim": [2, 2, 4]}),
}  # fmt: skip


def built(pair: Pair, small: bool, device: torch.device) -> tuple[Denoiser, Denoiser]:
    """(teacher, student)."""
    config = {**pair.config, **(pair.small if small else {})}
    family = FAMILIES[config["_class_name"]]
    torch.manual_seed(0)
    with device:
        net = family.build(config).eval().requires_grad_(False)
    sampling = from_scheduler_config(SCHEDULER, SamplingOptions(steps=50))
    text = "cross_attention_dim" in config
    null = {"encoder_hidden_states": torch.zeros(77, config["cross_attention_dim"])} if text else {}
    label = None if text else config["num_embeds_ada_norm"]
    guidance = Guidance(kind="cfg", scale=7.5, null_class=label)
    teacher = Denoiser(net, family, sampling.model_copy(update={"guidance": guidance}), SCHEDULER, null)
    chosen = family.layouts[pair.layout](net) if pair.layout else list(family.blocks(net))[1::2]
    return teacher, without(teacher, chosen)

"""A tiny transformer of learned variance with its sampling."""

import torch

from compress.diffusion.sampling import Guidance
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.families import FAMILIES
from compress.model.denoiser import Denoiser

CONFIG = {
    "_class_name": "DiTTransformer2DModel",
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 2,
    "num_layers": 3,
    "num_attention_heads": 4,
    "attention_head_dim": 8,
    "patch_size": 2,
    "num_embeds_ada_norm": 10,
}
# as facebook/DiT-XL-2-256 has it
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    "set_alpha_to_one": True,
    "clip_sample": False,
}


def transformer(scale: float | None = 2.0, steps: int = 4, **changes: object) -> Denoiser:
    """Random weights: diffusers draws those of the gates too, so that every block counts. scale None: unguided."""
    torch.manual_seed(0)
    family = FAMILIES["DiTTransformer2DModel"]
    net = family.build(CONFIG | changes).eval().requires_grad_(False)
    net.proj_out_2.weight.mul_(2)  # an output of about unit size
    sampling = from_scheduler_config(SCHEDULER, SamplingOptions(steps=steps))
    if scale is not None:
        sampling = sampling.model_copy(update={"guidance": Guidance(kind="cfg", scale=scale, null_class=10)})
    return Denoiser(net, family, sampling, SCHEDULER)

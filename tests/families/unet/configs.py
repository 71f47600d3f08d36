"""Tiny nets with the config keys of those that people have, and their schedulers."""

from typing import Any

TINY: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [16],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "mid_block_type": None,
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "act_fn": "silu",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
PNDM = {
    "_class_name": "PNDMScheduler",
    **BETAS,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
DDIM_V = {
    **PNDM,
    "_class_name": "DDIMScheduler",
    "prediction_type": "v_prediction",
}
EULER = {
    "_class_name": "EulerDiscreteScheduler",
    **BETAS,
    "interpolation_type": "linear",
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}
KARRAS = {**EULER, "use_karras_sigmas": True}
LEARNED = {
    "_class_name": "DDPMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "variance_type": "learned_range",
    "clip_sample": False,
}
SD_1 = {**TINY, "center_input_sample": False, "downsample_padding": 1, "mid_block_scale_factor": 1}
SD_2 = {
    **TINY,
    "attention_head_dim": [2],
    "use_linear_projection": True,
    "only_cross_attention": False,
    "dual_cross_attention": False,
    "upcast_attention": True,
}
SDXL = {
    **TINY,
    "attention_head_dim": [2],
    "use_linear_projection": True,
    "transformer_layers_per_block": [1],
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 + 6 * 4,
}
REFINER = {**SDXL, "projection_class_embeddings_input_dim": 12 + 5 * 4}
INPAINTING = {**TINY, "in_channels": 9}
UPSCALER = {**TINY, "in_channels": 7, "num_class_embeds": 1000, "only_cross_attention": [True]}
EDITING = {**TINY, "in_channels": 8}
LCM = {**TINY, "time_cond_proj_dim": 16}
ADM = {
    "_class_name": "UNet2DModel",
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 6,
    "block_out_channels": [16],
    "layers_per_block": 1,
    "down_block_types": ["AttnDownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "attention_head_dim": 8,
    "norm_num_groups": 4,
    "num_class_embeds": 10,
    "resnet_time_scale_shift": "scale_shift",
}
SUPER_RESOLUTION = {**ADM, "in_channels": 6, "out_channels": 3, "num_class_embeds": None}

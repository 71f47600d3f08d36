"""diffusers' `UNet2DConditionModel`: conditioned on text embeddings, and on what its kin take beside them."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from compress.families.family import Condition
from compress.families.texts import CLIP, CLIP_PROJECTED, Encoder, Texts
from compress.families.unet import common

_DEFAULTS = {"encoder_hid_dim": None, "cross_attention_dim": 1280}  # diffusers' own
_SIZES = (5, 6)  # numbers of sizes that SDXL takes: its refiner (height, width, crop, score) and itself


def _conditions(net: Any, tokens: int) -> dict[str, Condition]:
    return {
        "encoder_hidden_states": Condition(torch.float32, (tokens, _width(net.config)), dropped=True),
        **common.class_condition(net, dropped=False),
        **_added(net.config),
        **common.concatenated(net),
    }


def _width(config: Any) -> int:
    width = config["encoder_hid_dim"] or config["cross_attention_dim"]
    return int(width[0] if isinstance(width, tuple | list) else width)


def _added(config: Mapping[str, Any]) -> dict[str, Condition]:
    """SDXL's: pooled text and sizes, of whose numbers the config tells the sum.

    The refiner has one encoder, whose pooled text is as wide as its tokens.
    """
    if config["addition_embed_type"] is None:
        return {}
    whole, each = config["projection_class_embeddings_input_dim"], config["addition_time_embed_dim"]
    refiner, base = (whole - count * each for count in _SIZES)
    width, count = (refiner, _SIZES[0]) if refiner == _width(config) else (base, _SIZES[1])
    return {
        "text_embeds": Condition(torch.float32, (width,), dropped=True),
        "time_ids": Condition(torch.float32, (count,)),
    }


def _texts(config: Mapping[str, Any], index: Mapping[str, Any]) -> Texts | None:
    """Stable Diffusion's, or SDXL's two encoders. Its refiner is told how a picture is liked, which no text says."""
    first = Encoder(CLIP, "tokenizer")
    if config.get("addition_embed_type") is None:
        return Texts({"text_encoder": first}, {"encoder_hidden_states": (("text_encoder.last",),)})
    if _added({**_DEFAULTS, **config})["time_ids"].shape != (_SIZES[1],):
        return None
    return Texts(
        {"text_encoder": first, "text_encoder_2": Encoder(CLIP_PROJECTED, "tokenizer_2")},
        {
            "encoder_hidden_states": (("text_encoder.penultimate", "text_encoder_2.penultimate"),),
            "text_embeds": (("text_encoder_2.pooled",),),
        },
        told={"time_ids": ("height", "width", 0, 0, "height", "width")},
        zeros=bool(index.get("force_zeros_for_empty_prompt", True)),
    )


def _refuse(config: Mapping[str, Any]) -> str | None:
    used = [] if config.get("addition_embed_type") in (None, "text_time") else ["addition_embed_type"]
    if config.get("encoder_hid_dim_type") not in (None, "text_proj"):
        used.append("encoder_hid_dim_type")
    if used:
        return f"{', '.join(f'{key} {config[key]!r}' for key in used)} is not supported"
    if config.get("dual_cross_attention"):
        return "dual_cross_attention is not supported: diffusers itself no longer runs it"
    whole, each = (config.get(key) for key in ("projection_class_embeddings_input_dim", "addition_time_embed_dim"))
    fits = type(whole) is int and type(each) is int and 0 < each * _SIZES[1] < whole
    if config.get("addition_embed_type") and not fits:
        return (
            "addition_embed_type text_time: projection_class_embeddings_input_dim should be the width of the pooled "
            f"text and {_SIZES[1]} times addition_time_embed_dim; got {whole} and {each}"
        )
    return None


def _call(
    net: Any,
    sample: torch.Tensor,
    timestep: torch.Tensor,
    conditions: Mapping[str, torch.Tensor],
    scalars: tuple[torch.Tensor, ...],
) -> torch.Tensor:
    named: dict[str, Any] = {}
    if _told(net):
        scale, *others = scalars
        scalars = tuple(others)
        named["timestep_cond"] = _guidance(scale, net.config.time_cond_proj_dim).to(sample.dtype)
    if "text_embeds" in conditions:
        named["added_cond_kwargs"] = {name: conditions[name] for name in ("text_embeds", "time_ids")}
    labels = common.class_given(conditions, scalars)
    text = conditions["encoder_hidden_states"]
    output: torch.Tensor = net(sample, timestep, text, class_labels=labels, return_dict=False, **named)[0]
    return output


def _told(net: Any) -> tuple[str, ...]:
    return () if net.config.time_cond_proj_dim is None else ("guidance_scale",)


def _guidance(scale: torch.Tensor, width: int) -> torch.Tensor:
    """sin and cos [b,width] of 1000·w, w = scale − 1: Luo et al. 2023, "Latent Consistency Models", as in diffusers."""
    half = width // 2
    step = torch.log(torch.tensor(10000.0, device=scale.device)) / (half - 1)
    frequency = torch.exp(torch.arange(half, dtype=torch.float32, device=scale.device) * -step)
    angle = ((scale.float() - 1) * 1000.0)[:, None] * frequency[None]
    return torch.nn.functional.pad(torch.cat([angle.sin(), angle.cos()], dim=1), (0, width % 2))


def _lora(tensors: dict[str, torch.Tensor], config: Any) -> dict[str, torch.Tensor]:
    from diffusers.loaders import StableDiffusionLoraLoaderMixin  # brings transformers and peft

    found: dict[str, torch.Tensor] = StableDiffusionLoraLoaderMixin.lora_state_dict(tensors, unet_config=config)[0]
    return found


FAMILY = common.unet(
    name="UNet2DConditionModel",
    build=lambda config: UNet2DConditionModel.from_config(dict(config)),
    refuse=_refuse,
    conditions=_conditions,
    call=_call,
    told=_told,
    lora=_lora,
    texts=_texts,
)

"""LoRA files: what diffusers reads of them, added to the weights of the parts that they are of.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1: W + scale · alpha / rank · B A.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from pydantic import Field
from safetensors import safe_open
from torch import nn

from compress.errors import CheckpointError
from compress.families import FAMILIES
from compress.families.family import Family
from compress.pipeline import weights
from compress.settings import File, Frozen

Tensors = Mapping[str, torch.Tensor]
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_SETTINGS = "lora_adapter_metadata"  # in a file's header: settings of peft's LoraConfig, by part
_OTHERS = ("dora_scale", "lora_magnitude_vector", "hada_", "lokr_")


class Lora(Frozen):
    """One LoRA file."""

    path: File = Field(description=".safetensors, of kohya's or diffusers' names")
    scale: float = Field(1.0, ge=-10, le=10, description="how much of it is added")


@dataclass(frozen=True)
class Change:
    """What is added to the weight [out,in,…] of one layer: factor · up [out,rank] · down [rank,in,…]."""

    down: torch.Tensor
    up: torch.Tensor
    factor: float

    def fits(self, weight: torch.Tensor) -> bool:
        """Whether it is of a weight of this shape."""
        rank, *rest = self.down.shape
        kernel = [1] * (weight.ndim - 2)
        return rest == list(weight.shape[1:]) and list(self.up.shape) == [weight.shape[0], rank, *kernel]

    def added(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight with it, in float32."""
        product = self.up.float().flatten(1) @ self.down.float().flatten(1)
        return weight.float() + self.factor * product.view(weight.shape)


def read(lora: Lora, family: Family, net: nn.Module) -> dict[str, dict[str, Change]]:
    """The changes of a file: name of a pipeline's part → path of the layer → change. Raises CheckpointError."""
    if family.lora is None:
        known = ", ".join(one.name for one in FAMILIES.values() if one.lora is not None)
        raise CheckpointError(f"{lora.path}: diffusers reads no LoRA of {family.name}; it does of {known}")
    tensors = weights.open_safetensors(lora.path)
    others = sorted(name for name in tensors if any(mark in name for mark in _OTHERS))
    if others:
        raise CheckpointError(f"{lora.path}: holds {others[0]}: no DoRA, LoHa or LoKr is fused, plain LoRAs alone")
    try:
        found = family.lora(_without_alphas(tensors), net.config)
        parts = {name.partition(".")[0] for name in found}
        renamed = {part: _renamed(found, part, net=part == family.folder) for part in sorted(parts)}
    except Exception as error:  # diffusers raises many kinds
        raise CheckpointError(f"{lora.path}: diffusers does not read it as a LoRA: {_first(error)}") from None
    return {part: _changes(lora, part, one) for part, one in renamed.items()}


def _without_alphas(tensors: Tensors) -> dict[str, torch.Tensor]:
    """kohya's alphas are taken into what they scale: diffusers loses those of some layers where they differ."""
    found = {name: tensor for name, tensor in tensors.items() if not name.endswith(".alpha")}
    for name in tensors.keys() - found.keys():
        layer = name.removesuffix(".alpha")
        up, rank = f"{layer}.lora_up.weight", len(tensors[f"{layer}.lora_down.weight"])
        found[up] = tensors[up].float() * (tensors[name].item() / rank)
    return found


def _renamed(found: Tensors, part: str, net: bool) -> dict[str, torch.Tensor]:
    """Tensors of one part by peft's names. net: the denoiser; otherwise a text encoder."""
    own = {name.removeprefix(f"{part}."): one for name, one in found.items() if name.startswith(f"{part}.")}
    if net:
        return convert_unet_state_dict_to_peft(own)
    return convert_state_dict_to_peft(convert_state_dict_to_diffusers(own))


def _changes(lora: Lora, part: str, tensors: Tensors) -> dict[str, Change]:
    layers = {name.removesuffix(_DOWN) for name in tensors if name.endswith(_DOWN)}
    known = {layer + end for layer in layers for end in (_DOWN, _UP)}
    odd = sorted(known ^ set(tensors))
    if odd:
        what = "lacks" if odd[0] in known else "holds"
        raise CheckpointError(f"{lora.path}: {what} {part}.{odd[0]}; should hold pairs: lora_A and lora_B, up and down")
    bad = next((name for name, one in tensors.items() if not torch.isfinite(one).all()), None)
    if bad is not None:
        raise CheckpointError(f"{lora.path}: {part}.{bad} holds NaN or infinity")
    with safe_open(lora.path, framework="pt") as opened:
        settings = json.loads((opened.metadata() or {}).get(_SETTINGS, "{}"))
    own = {key.removeprefix(f"{part}."): value for key, value in settings.items() if key.startswith(f"{part}.")}
    if own.get("use_rslora") or own.get("use_dora"):
        raise CheckpointError(f"{lora.path}: is a variant of LoRA (use_rslora, use_dora), of which none is fused")
    found = {}
    for layer in sorted(layers):
        down, up = tensors[layer + _DOWN], tensors[layer + _UP]
        found[layer] = Change(down, up, lora.scale * _alpha(own, layer, len(down)) / len(down))
    return found


def _alpha(settings: Mapping[str, Any], layer: str, rank: int) -> float:
    """Of peft's LoraConfig, which may give some layers their own; without one, the rank."""
    for pattern, alpha in (settings.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", layer):
            return float(alpha)
    return float(settings.get("lora_alpha") or rank)


def placed(lora: Lora, part: str, changes: Mapping[str, Change], weights_of_part: Tensors) -> dict[str, Change]:
    """Changes by the names that a part's tensors have in its files. Raises CheckpointError where one does not fit.

    Reads no more than shapes.
    """
    found = {}
    faults = []
    for layer, change in changes.items():
        # text encoders are saved with a prefix that their modules have lost
        names = (f"{layer}.weight", f"text_model.{layer}.weight", f"{layer.removeprefix('text_model.')}.weight")
        name = next((name for name in names if name in weights_of_part), None)
        if name is None:
            faults.append(f"{part} has no {layer}")
        elif not change.fits(weights_of_part[name]):
            shapes = f"{list(change.up.shape)} · {list(change.down.shape)}"
            faults.append(f"{part}.{layer} is {list(weights_of_part[name].shape)} and the LoRA's {shapes}")
        else:
            found[name] = change
    if faults:
        more = f" and {len(faults) - 2} more" if len(faults) > 2 else ""
        fits = "nothing" if len(faults) == len(changes) else "only a part"
        raise CheckpointError(f"{lora.path}: fits {fits} of this model: {'; '.join(faults[:2])}{more}")
    return found


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]

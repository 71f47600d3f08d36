"""Checkpoints in a single file, in the layout of the code that first trained them, as diffusers takes them apart."""

from functools import reduce
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from compress.errors import CheckpointError
from compress.files import link
from compress.pipeline import weights
from compress.pipeline.quiet import quiet
from compress.pipeline.source import INDEX, NETS, build, read_object

_NET = "model.diffusion_model."  # how names of the net's tensors begin; without it a file holds a net alone


@quiet()
def convert(file: Path, config: Path, whole: bool, folder: Path) -> None:
    """Write the model folder of a .safetensors file. Nothing is downloaded, and weights keep their type.

    config: folder of a pipeline, or of a net, of the same architecture. whole: the pipeline, not the net alone. Raises
    CheckpointError.
    """
    own = next((config / name for name in NETS if (config / name / "config.json").is_file()), config)
    if not (own / "config.json").is_file():
        raise CheckpointError(
            f"{file}: is a single file, and {config} has no configs for it; give under `config` the folder of a "
            "pipeline or of a net of the same architecture (its weights are not read)"
        )
    family, _ = build(read_object(own / "config.json"), str(own))
    whole = whole and (config / INDEX).is_file()
    name = str(read_object(config / INDEX).get("_class_name")) if whole else family.name
    kind: Any = getattr(diffusers, name, None)
    if not hasattr(kind, "from_single_file"):
        raise CheckpointError(f"{file}: diffusers reads no single file as a {name[:100]}; give a folder or a hub id")
    tensors = weights.open_safetensors(file)
    kinds = [one.dtype for one in tensors.values() if one.is_floating_point() and one.ndim > 1]
    where = str(config if whole else own)
    if not kinds:
        raise CheckpointError(f"{file}: holds no weights of a net")
    try:
        made = kind.from_single_file(
            str(file), config=where, local_files_only=True, torch_dtype=reduce(torch.promote_types, kinds)
        )
    except Exception as error:  # diffusers raises many kinds
        lacks = isinstance(error, NotImplementedError)  # to move tensors that were not given
        reason = "it lacks weights" if lacks else (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{file}: cannot be read with the configs in {where}: {reason}") from None
    _check(file, where, tensors, getattr(made, family.folder) if whole else made)
    made.save_pretrained(folder)
    scheduler = config / "scheduler" / "scheduler_config.json"
    if not whole and scheduler.is_file():
        link(scheduler, folder / "scheduler" / scheduler.name)


def _check(file: Path, where: str, tensors: dict[str, torch.Tensor], net: nn.Module) -> None:
    """Every weight of the net is used: diffusers passes over others."""
    own = [one for name, one in tensors.items() if name.startswith(_NET)] or tensors.values()
    given, taken = (sum(one.numel() for one in weights) for weights in (own, net.state_dict().values()))
    if given != taken:
        raise CheckpointError(
            f"{file}: is not what the configs in {where} say: its net has {given:,} weights and should have {taken:,}; "
            "give its own under `config`"
        )

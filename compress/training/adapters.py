"""Low-rank additions to weights as all that is trained of a net (Hu et al. 2021, arXiv:2106.09685), by peft."""

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from compress.contract import Context
from compress.errors import PassError
from compress.files import write_atomically
from compress.model.denoiser import Denoiser

LAYERS = (nn.Linear, nn.Conv2d)


@contextmanager
def adapted(model: Denoiser, rank: int, context: Context, file: Path | None) -> Iterator[None]:
    """While open, the layers of a net compute with W + B·A, of which A [rank,in] and B [out,rank] alone are trained;
    afterwards the weights are W + B·A.

    file: where A and B are written too, by the names that diffusers reads.
    """
    peft, net = _peft(context), model.net
    own = [(weight, weight.requires_grad) for weight in net.parameters()]
    paths = [re.escape(path) for path, layer in net.named_modules() if _takes_one(layer)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        settings = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules="|".join(paths))
        peft.inject_adapter_in_model(settings, net)
    yield
    layers = {path: layer for path, layer in net.named_modules() if hasattr(layer, "lora_A")}
    if file and context.processes.main:
        found = {}
        for path, layer in layers.items():
            for name in ("lora_A", "lora_B"):
                weight = getattr(layer, name)["default"].weight
                found[f"{model.family.folder}.{path}.{name}.weight"] = weight.detach().cpu().contiguous()
        write_atomically(file, lambda part: save_file(found, part))
    for path, layer in layers.items():
        layer.merge()
        net.set_submodule(path, layer.get_base_layer())
    for weight, trained in own:
        weight.requires_grad_(trained)
    del net.peft_config


def _takes_one(layer: nn.Module) -> bool:
    return isinstance(layer, LAYERS) and getattr(layer, "groups", 1) == 1


def _peft(context: Context) -> Any:
    try:
        return importlib.import_module("peft")
    except ImportError:
        raise PassError(f"{context.name}: lora needs a library: pip install 'compress-diffusion[lora]'") from None

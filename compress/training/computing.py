"""How nets compute while they are trained: in which arithmetic, in fused kernels, remembering how much."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compress.contract import Context
from compress.errors import PassError
from compress.model.denoiser import Denoiser
from compress.training.adapters import adapted
from compress.training.config import TrainingConfig

PRODUCTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)  # what autocast computes in them
VARIANTS = 64  # shapes and modes in which stages of one class are compiled


def autocast(config: TrainingConfig, device: torch.device) -> torch.autocast:
    """Products in the precision that is asked for; weights stay float32."""
    dtype = config.arithmetic(device)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


@contextmanager
def computing(
    models: Sequence[Denoiser],
    config: TrainingConfig,
    context: Context,
    split: bool = False,
    lora: Path | None = None,
) -> Iterator[None]:
    """While open, the nets compute as the settings say; afterwards they are as they were but for what was trained.

    models: the student first; none of an objective that is not made of denoisers. split: among processes, where weights
    are cast as they are gathered. lora: the file for what is added to the student's weights. Raises PassError for
    settings that want their stages.
    """
    if not models and (config.compile or config.recompute or config.lora):
        raise PassError(
            f"{context.name}: compile, recompute and lora are for passes that train a denoiser; leave them away"
        )
    compiled, dtype = config.compiled(context.device), config.arithmetic(context.device)
    with ExitStack() as stack:
        if compiled:
            stack.enter_context(torch._dynamo.config.patch(recompile_limit=VARIANTS))
        for model in models:
            if config.lora and _learns(model):
                stack.enter_context(adapted(model, config.lora, context, lora if model is models[0] else None))
            if dtype and not split:
                stack.enter_context(_cast_once(model.net, dtype))
            if config.recompute and _learns(model):
                stack.enter_context(_recomputed(model, context))
            if compiled:
                stack.enter_context(_compiled(model))
        yield


def _learns(model: Denoiser) -> bool:
    return any(weight.requires_grad for weight in model.net.parameters())


@contextmanager
def _cast_once(net: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """While open, weights that are not trained are in the type that autocast would cast them to at every call.

    The float32 ones wait in the host's memory.
    """
    layers = [layer for layer in net.modules() if isinstance(layer, PRODUCTS)]
    weights = dict.fromkeys(weight for layer in layers for weight in layer.parameters() if not weight.requires_grad)
    kept = {weight: (weight.data.cpu(), weight.device) for weight in weights}
    for weight in kept:
        weight.data = weight.data.to(dtype)
    try:
        yield
    finally:
        for weight, (own, device) in kept.items():
            weight.data = own.to(device)


@contextmanager
def _recomputed(model: Denoiser, context: Context) -> Iterator[None]:
    """While open, a net's blocks keep their inputs alone for the backward pass (Chen et al. 2016, arXiv:1604.06174)."""
    net: Any = model.net
    try:
        net.enable_gradient_checkpointing()
    except ValueError:
        raise PassError(f"{context.name}: recompute: a {model.family.name} cannot; set it to false") from None
    try:
        yield
    finally:
        net.disable_gradient_checkpointing()


@contextmanager
def _compiled(model: Denoiser) -> Iterator[None]:
    """While open, each of a net's stages is compiled on its own: those that are alike once, and hooks stay outside.

    Channels lie last, as compiled convolutions want them.
    """
    stages: list[Any] = [model.net.get_submodule(path) for path, _ in model.family.stages(model.net).values()]
    model.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for stage in stages:
        stage.forward = torch.compile(stage.forward, dynamic=False)
    try:
        yield
    finally:
        model.net.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        for stage in stages:
            del stage.forward

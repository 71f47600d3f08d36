"""Reading the feature maps of a net's stages, and its attention maps, while it runs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from compress.models.denoiser import Denoiser


@contextmanager
def tapped(model: Denoiser, taps: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
    """While open, every evaluation of `model` leaves the outputs [b,c,h,w] of its stages in the dictionary."""
    features: dict[str, torch.Tensor] = {}
    stages = model.family.stages(model.net)
    handles = []
    for tap in taps:
        module = model.net.get_submodule(stages[tap][0])

        def keep(
            _module: object, _inputs: object, output: torch.Tensor | tuple[torch.Tensor, ...], tap: str = tap
        ) -> None:
            features[tap] = output[0] if isinstance(output, tuple) else output

        handles.append(module.register_forward_hook(keep))
    try:
        yield features
    finally:
        for handle in handles:
            handle.remove()


def attending(model: Denoiser) -> dict[str, int]:
    """Attention blocks with queries and keys: path → number of heads."""
    heads = model.family.heads(model.net)
    paths = {path: module for path, module in model.net.named_modules()}
    return {
        path.removesuffix(".to_q"): heads[module]
        for path, module in paths.items()
        if path.endswith(".to_q") and module in heads and f"{path.removesuffix('to_q')}to_k" in paths
    }


@contextmanager
def attention_maps(model: Denoiser, paths: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
    """While open, every evaluation leaves softmax(q·kᵀ/√d) [b,queries,keys], the mean over heads, by block.

    Vaswani et al. 2017, eq. 1; computed beside the block's own attention, whose kernel keeps no map.
    """
    maps: dict[str, torch.Tensor] = {}
    handles = []
    heads = attending(model)
    for path in paths:
        block = model.net.get_submodule(path)
        queries: dict[str, torch.Tensor] = {}

        def query(
            _module: nn.Module, _inputs: object, output: torch.Tensor, queries: dict[str, torch.Tensor] = queries
        ) -> None:
            queries["q"] = output

        def key(
            _module: nn.Module,
            _inputs: object,
            output: torch.Tensor,
            queries: dict[str, torch.Tensor] = queries,
            path: str = path,
        ) -> None:
            q, k = (x.unflatten(-1, (heads[path], -1)).transpose(1, 2) for x in (queries.pop("q"), output))
            maps[path] = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=1)

        handles.append(block.to_q.register_forward_hook(query))  # type: ignore[union-attr]
        handles.append(block.to_k.register_forward_hook(key))  # type: ignore[union-attr]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()

"""Reading the feature maps of a net's stages, and its attention maps, while it runs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from compress.families.family import Projections
from compress.model.denoiser import Denoiser


@contextmanager
def tapped(model: Denoiser, taps: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
    """While open, every evaluation of `model` leaves the outputs of its stages in the dictionary."""
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


def attending(model: Denoiser) -> dict[str, Projections]:
    """Attention blocks with queries and keys, by path."""
    return {path: block for path, block in model.family.attention(model.net).items() if block.key is not None}


@contextmanager
def attention_maps(model: Denoiser, paths: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
    """While open, every evaluation leaves softmax(q·kᵀ/√d) [b,queries,keys], the mean over heads, by block.

    Vaswani et al. 2017, eq. 1; computed beside the block's own attention, whose kernel keeps no map.
    """
    maps: dict[str, torch.Tensor] = {}
    handles = []
    blocks = attending(model)
    for path in paths:
        heads, queries = blocks[path].heads, dict[str, torch.Tensor]()

        def query(
            _module: nn.Module, _inputs: object, output: torch.Tensor, queries: dict[str, torch.Tensor] = queries
        ) -> None:
            queries["q"] = output

        def key(
            _module: nn.Module,
            _inputs: object,
            output: torch.Tensor,
            queries: dict[str, torch.Tensor] = queries,
            heads: int = heads,
            path: str = path,
        ) -> None:
            q, k = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (queries.pop("q"), output))
            maps[path] = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=1)

        for layer, hook in ((blocks[path].query, query), (blocks[path].key, key)):
            handles.append(model.net.get_submodule(str(layer)).register_forward_hook(hook))
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()

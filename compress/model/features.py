"""Reading the feature maps of a net's stages, and its attention maps, while it runs."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from compress.families.family import Projections
from compress.model.denoiser import Denoiser
from compress.model.paths import watched


@contextmanager
def tapped(model: Denoiser, taps: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
    """While open, every evaluation of `model` leaves the outputs of its stages in the dictionary."""
    features: dict[str, torch.Tensor] = {}
    stages = model.family.stages(model.net)
    names = {stages[tap][0]: tap for tap in taps}

    def keep(path: str, _module: object, _inputs: object, _named: object, output: Any) -> None:
        features[names[path]] = output[0] if isinstance(output, tuple) else output

    with watched(model.net, names, keep):
        yield features


def attending(model: Denoiser) -> dict[str, Projections]:
    """Attention blocks with queries and keys, by path."""
    return {path: block for path, block in model.family.attention(model.net).items() if block.key is not None}


@contextmanager
def attention_maps(model: Denoiser, paths: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
    """While open, every evaluation leaves softmax(q·kᵀ/√d) [b,queries,keys], the mean over heads, by block.

    Vaswani et al. 2017, eq. 1; computed beside the block's own attention, whose kernel keeps no map.
    """
    maps: dict[str, torch.Tensor] = {}
    queries: dict[str, torch.Tensor] = {}
    blocks = attending(model)
    layers = {str(layer): path for path in paths for layer in (blocks[path].query, blocks[path].key)}

    def look(layer: str, _module: object, _inputs: object, _named: object, output: torch.Tensor) -> None:
        path = layers[layer]
        if layer == blocks[path].query:
            queries[path] = output
            return
        q, k = (x.unflatten(-1, (blocks[path].heads, -1)).transpose(1, 2) for x in (queries.pop(path), output))
        maps[path] = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=1)

    with watched(model.net, layers, look):
        yield maps

"""Reading the feature maps of a net's stages, and its attention maps, while it runs."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from compress.families.family import Projections
from compress.model.denoiser import Denoiser, example_inputs
from compress.model.paths import watched


@contextmanager
def tapped(model: Denoiser, taps: Iterable[str]) -> Iterator[dict[str, torch.Tensor]]:
    """While open, every evaluation of `model` leaves the outputs of its stages in the dictionary."""
    features: dict[str, torch.Tensor] = {}
    stages = model.family.stages(model.net)
    names = {stages[tap][0]: tap for tap in taps}

    def keep(path: str, _module: object, _inputs: object, _named: object, output: Any) -> None:
        features[names[path]] = model.family.feature(output)

    with watched(model.net, names, keep):
        yield features


def attending(model: Denoiser) -> dict[str, Projections]:
    """Attention blocks with queries and keys, by path."""
    return {path: block for path, block in model.family.attention(model.net).items() if block.key is not None}


@contextmanager
def attention_maps(model: Denoiser, paths: Collection[str]) -> Iterator[dict[str, torch.Tensor]]:
    """While open, every evaluation leaves softmax(q·kᵀ/√d) [b,queries,keys], the mean over heads, by block.

    Vaswani et al. 2017, eq. 1; computed beside the block's own attention, whose kernel keeps no map.
    """
    maps: dict[str, torch.Tensor] = {}
    queries: dict[str, torch.Tensor] = {}
    blocks = attending(model) if paths else {}
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


class CommonStages(nn.Module):
    """The stages of a student whose feature maps are as large as the teacher's, and what makes them as wide.

    taps: their names. Where the student's are narrower, a linear map of channels is trained with it; it starts by
    putting each surviving channel in its place, see `Denoiser.kept`.
    """

    def __init__(self, student: Denoiser, teacher: Denoiser) -> None:
        super().__init__()
        ours, theirs = _stages(student), _stages(teacher)
        self.taps = [tap for tap, (_, size) in ours.items() if tap in theirs and theirs[tap][1] == size]
        self.axis = student.family.channel_axis
        self.projections = nn.ModuleDict()
        for tap in self.taps:
            narrow, wide = ours[tap][0], theirs[tap][0]
            if narrow != wide:
                places = student.kept.get(tap, range(narrow))
                self.projections[tap.replace(".", "_")] = _projection(narrow, wide, places).to(student.device)

    def forward(self, tap: str, feature: torch.Tensor) -> torch.Tensor:
        """A feature map of the student, as wide as the teacher's."""
        name = tap.replace(".", "_")
        if name not in self.projections:
            return feature
        projected: torch.Tensor = self.projections[name](feature.movedim(self.axis, -1)).movedim(-1, self.axis)
        return projected


def _projection(narrow: int, wide: int, places: Iterable[int]) -> nn.Linear:
    """The map from the channels of a student's stage to the teacher's. places: of the teacher's that survive."""
    projection = nn.Linear(narrow, wide)
    nn.init.zeros_(projection.weight)
    nn.init.zeros_(projection.bias)
    with torch.no_grad():
        for ours, theirs in enumerate(places):
            if theirs < wide:  # a new student may be wider than its teacher
                projection.weight[theirs, ours] = 1
    return projection


@torch.no_grad()
def _stages(model: Denoiser) -> dict[str, tuple[int, torch.Size]]:
    """Of every stage's feature map the channels, and the rest of its shape: height and width, or tokens."""
    axis = model.family.channel_axis
    with tapped(model, model.family.stages(model.net)) as features:
        model.module(*example_inputs(model, batch=1))
    shapes = {tap: feature.shape for tap, feature in features.items()}
    return {tap: (shape[axis], shape[1:axis] + shape[axis:][1:]) for tap, shape in shapes.items()}

"""Channels that can only go together, how much they matter, and taking them out.

Which layers must keep equal widths is read off the net by torch-pruning's dependency graph (Fang et al. 2023,
"DepGraph"). Widths stay legal: every group of a group norm, and every attention head, loses as many channels as the
others of its layer; which ones it loses is its own affair.
"""

import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from compress.families.family import Family
from compress.families.replacements import writer, written_by
from compress.model.copies import shadow, sharing
from compress.model.denoiser import Denoiser, example_inputs

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
WEIGHED = (*CONVOLUTIONS, nn.ConvTranspose2d, nn.Linear, nn.GroupNorm, nn.LayerNorm, nn.Embedding)
# What layers call the channels that they write and those that they read.
WIDTHS: dict[Any, tuple[str, str]] = {
    nn.modules.conv._ConvNd: ("out_channels", "in_channels"),
    nn.Linear: ("out_features", "in_features"),
    nn.GroupNorm: ("num_channels", "num_channels"),
    nn.Embedding: ("embedding_dim", "embedding_dim"),
}


@dataclass(frozen=True)
class Member:
    """A layer of a coupled set. dim: of its weight. places: in that dimension, of the set's channels `channels`."""

    path: str
    dim: int
    places: torch.Tensor
    channels: torch.Tensor

    def weight(self, net: nn.Module) -> nn.Parameter:
        """The layer's weight in a net of these paths."""
        return net.get_submodule(self.path).get_parameter("weight")


@dataclass(frozen=True)
class Coupled:
    """Channels 0 … count − 1 of one width of the net. parts: equal runs of them that must lose equally many.

    heads: 0, or the number of attention heads that the channels are divided into.
    """

    name: str
    count: int
    parts: int
    heads: int
    members: tuple[Member, ...]


def couplings(model: Denoiser) -> list[Coupled]:
    """The coupled sets of a model but of its family's protected layers."""
    read = dataclasses.replace(model, net=shadow(model.net).requires_grad_(True))  # off autograd's graph
    family, net = model.family, read.net
    with torch.enable_grad():
        graph = tp.DependencyGraph().build_dependency(read.module, example_inputs(read, batch=2))
    groups = graph.get_all_groups(family.protected(net), (nn.modules.conv._ConvNd, nn.Linear))
    paths, heads = {module: path for path, module in net.named_modules()}, family.heads(net)
    return [_coupled(group, graph, paths, heads) for group in groups]


def _coupled(group: Any, graph: Any, paths: Mapping[nn.Module, str], heads: Mapping[nn.Module, int]) -> Coupled:
    def reads(item: Any) -> bool:
        return bool(graph.is_in_channel_pruning_fn(item.dep.handler))

    layers = [item for item in group if isinstance(item.dep.target.module, (*CONVOLUTIONS, nn.Linear))]
    readers = [item for item in layers if reads(item)]
    narrow = min((len(item.idxs) for item in readers), default=len(group[0].idxs))
    attending = max((heads.get(item.dep.target.module, 0) for item in layers if item not in readers), default=0)
    if narrow < len(group[0].idxs) or attending:
        # a gated feed-forward layer has two channels for every one that is read: the reader numbers the set
        reader = next(item.dep for item in readers if len(item.idxs) == narrow)
        group = graph.get_pruning_group(reader.target.module, reader.handler, list(range(narrow)))
    members, parts = [], [attending or 1]
    for item in group:
        module = item.dep.target.module
        if not isinstance(module, WEIGHED) or module not in paths:
            continue
        if isinstance(module, nn.GroupNorm):
            parts.append(module.num_groups)
        dim = 1 if isinstance(module, nn.Embedding) else 0
        if isinstance(module, (*CONVOLUTIONS, nn.Linear, nn.ConvTranspose2d)):
            dim = int(reads(item) != isinstance(module, nn.ConvTranspose2d))
        places, channels = (torch.tensor(list(found)) for found in (item.idxs, item.root_idxs))
        members.append(Member(paths[module], dim, places, channels))
    writers = (item.dep.target.module for item in layers if item not in readers)
    name = paths[next(writers, group[0].dep.target.module)]
    return Coupled(name, len(group[0].idxs), math.lcm(*parts), attending, tuple(members))


def remove(
    model: Denoiser, sets: Iterable[Coupled], chosen: Mapping[str, Sequence[int]], heads: bool = False
) -> Denoiser:
    """A copy, frozen, without the channels that are chosen, by name, from its coupled sets.

    heads: those of attention are whole heads. Weights that lose nothing are the model's own.
    """
    net, family = sharing(model.net).requires_grad_(False).eval(), model.family
    gone: dict[tuple[str, int], list[torch.Tensor]] = defaultdict(list)
    narrowed = [one for one in sets if chosen.get(one.name)]
    for one in narrowed:
        for member in one.members:
            taken = torch.isin(member.channels, torch.tensor(chosen[one.name]))
            gone[member.path, member.dim].append(member.places[taken])
    for (path, dim), places in gone.items():
        _narrow(net.get_submodule(path), dim, torch.cat(places))
    for one in narrowed:
        if one.heads:
            _attend(net, family, one, len(chosen[one.name]), heads)
    family.repair(net)
    kept = {}
    for tap, (_, name) in family.stages(net).items():
        before = model.kept.get(tap, range(len(model.net.get_submodule(name).get_parameter("weight"))))
        lost = {place for places in gone.get((name, 0), ()) for place in places.tolist()}
        kept[tap] = tuple(channel for place, channel in enumerate(before) if place not in lost)
    return dataclasses.replace(model, net=net, kept=kept)


def _narrow(layer: Any, dim: int, places: torch.Tensor) -> None:
    """Take out what stands at `places` in a dimension of a layer's weight, and of its bias if the layer writes it."""
    left = torch.ones(layer.weight.shape[dim], dtype=torch.bool).index_fill_(0, places, value=False)
    index = left.nonzero().flatten().to(layer.weight.device)
    writes = dim == int(isinstance(layer, nn.ConvTranspose2d | nn.Embedding))
    narrowed = [("weight", dim)] + [("bias", 0)] * (writes and getattr(layer, "bias", None) is not None)
    for name, axis in narrowed:
        setattr(layer, name, nn.Parameter(getattr(layer, name).index_select(axis, index), requires_grad=False))
    for kind, (written, read) in WIDTHS.items():
        if isinstance(layer, kind):
            setattr(layer, written if writes else read, len(index))
    if isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = (len(index),)


def _attend(net: nn.Module, family: Family, one: Coupled, gone: int, whole: bool) -> None:
    """Attention over fewer heads; or over narrower ones, with queries scaled so that the scores keep their size.

    Scores are divided by √d of the width d of a head (Vaswani et al. 2017, eq. 1), which has become smaller.
    """
    written = {member.path for member in one.members if member.dim == 0}
    for path, block in family.attention(net).items():
        query = net.get_submodule(block.query)
        if written_by(block.query, query) not in written:
            continue
        if whole:
            net.get_submodule(path).heads = block.heads - gone * one.heads // one.count  # type: ignore[assignment]
        else:
            for tensor in writer(query).parameters():
                tensor.data.mul_(math.sqrt((one.count - gone) / one.count))  # narrowed, so no longer the model's


def importance(one: Coupled, net: nn.Module, score: Callable[[nn.Parameter], torch.Tensor]) -> torch.Tensor:
    """Importance [count] of a set's channels: `score` of every weight that is theirs, summed over all layers."""
    total = torch.zeros(one.count, dtype=torch.float64)
    for member in one.members:
        values = score(member.weight(net)).detach().double().cpu()
        other = [dim for dim in range(values.ndim) if dim != member.dim]
        summed = values.sum(dim=other) if other else values
        total.index_add_(0, member.channels, summed[member.places])
    return total


def units(scores: torch.Tensor, parts: int) -> tuple[list[list[int]], torch.Tensor]:
    """(the least sets of channels that may go, each one of every part, least important first; their importance)."""
    runs = scores.view(parts, -1)
    order = runs.argsort(dim=1)
    offset = torch.arange(parts)[:, None] * runs.shape[1]
    return (order + offset).T.tolist(), runs.gather(1, order).sum(dim=0)


def whole_heads(scores: torch.Tensor, heads: int) -> tuple[list[list[int]], torch.Tensor]:
    """As `units`, where an attention head goes as a whole."""
    summed = scores.view(heads, -1).sum(dim=1)
    order = summed.argsort()
    channels = torch.arange(len(scores)).view(heads, -1)
    return channels[order].tolist(), summed[order]


def saved(one: Coupled, net: nn.Module, applied: Mapping[str, int] | None) -> float:
    """Parameters that one channel of a set takes; multiply-accumulates where `applied` comes from `counts.places`."""
    total = 0.0
    for member in one.members:
        weight = member.weight(net)
        share = weight.numel() / weight.shape[member.dim] * len(member.places) / one.count
        total += share * (1 if applied is None else applied.get(member.path, 0))
    return total

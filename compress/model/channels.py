"""Channels that can only go together, how much they matter, and taking them out.

Which layers must keep equal widths is read off the net by torch-pruning's dependency graph (Fang et al. 2023,
"DepGraph"). Widths stay legal: every group of a group norm, and every attention head, loses as many channels as the
others of its layer; which ones it loses is its own affair.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import nn

from compress.families.replacements import writer
from compress.model.denoiser import Denoiser, example_inputs

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
WEIGHED = (*CONVOLUTIONS, nn.ConvTranspose2d, nn.Linear, nn.GroupNorm, nn.LayerNorm, nn.Embedding)


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

    heads: 0, or the number of attention heads that the channels are divided into. root, handler: for torch-pruning.
    """

    name: str
    count: int
    parts: int
    heads: int
    members: tuple[Member, ...]
    root: nn.Module
    handler: Any


class Couplings:
    """The coupled sets of a model but of its family's protected layers, found once, and taken out in place."""

    def __init__(self, model: Denoiser) -> None:
        self.model = model
        self._paths = {module: path for path, module in model.net.named_modules()}
        self._heads = model.family.heads(model.net)
        model.net.requires_grad_(True)  # the graph is read off autograd's
        with torch.enable_grad():
            self._graph = tp.DependencyGraph().build_dependency(model.module, example_inputs(model, batch=2))
        protected = model.family.protected(model.net)
        groups = self._graph.get_all_groups(protected, (nn.modules.conv._ConvNd, nn.Linear))
        self.sets = [self._coupled(group) for group in groups]

    def _coupled(self, group: Any) -> Coupled:
        layers = [item for item in group if isinstance(item.dep.target.module, (*CONVOLUTIONS, nn.Linear))]
        readers = [item for item in layers if self._reads(item.dep.handler)]
        narrow = min((len(item.idxs) for item in readers), default=len(group[0].idxs))
        heads = max((self._heads.get(item.dep.target.module, 0) for item in layers if item not in readers), default=0)
        if narrow < len(group[0].idxs) or heads:
            # a gated feed-forward layer has two channels for every one that is read: the reader numbers the set
            reader = next(item.dep for item in readers if len(item.idxs) == narrow)
            group = self._graph.get_pruning_group(reader.target.module, reader.handler, list(range(narrow)))
        root, handler, width = group[0].dep.target.module, group[0].dep.handler, len(group[0].idxs)
        members, parts = [], [heads or 1]
        for item in group:
            module = item.dep.target.module
            if not isinstance(module, WEIGHED) or module not in self._paths:
                continue
            reads = self._reads(item.dep.handler)
            if isinstance(module, nn.GroupNorm):
                parts.append(module.num_groups)
            dim = 1 if isinstance(module, nn.Embedding) else 0
            if isinstance(module, (*CONVOLUTIONS, nn.Linear, nn.ConvTranspose2d)):
                dim = int(reads != isinstance(module, nn.ConvTranspose2d))
            places, channels = (torch.tensor(list(found)) for found in (item.idxs, item.root_idxs))
            members.append(Member(self._paths[module], dim, places, channels))
        writers = (item.dep.target.module for item in layers if item not in readers)
        return Coupled(self._paths[next(writers, root)], width, math.lcm(*parts), heads, tuple(members), root, handler)

    def _reads(self, handler: Any) -> bool:
        return bool(self._graph.is_in_channel_pruning_fn(handler))

    def remove(self, chosen: Mapping[str, Sequence[int]], heads: bool = False) -> dict[str, tuple[int, ...]]:
        """Take channels out of the sets they are named for, in place; what survives at every stage of the net.

        heads: those of attention are whole heads.
        """
        net, family = self.model.net, self.model.family
        writers = {tap: name for tap, (_, name) in family.stages(net).items()}
        widths = {tap: len(net.get_submodule(name).get_parameter("weight")) for tap, name in writers.items()}
        lost: dict[str, set[int]] = {name: set() for name in writers.values()}
        for one in self.sets:
            gone = sorted(chosen.get(one.name, ()))
            if not gone:
                continue
            self._graph.get_pruning_group(one.root, one.handler, gone).prune()
            for member in one.members:
                if member.dim == 0 and member.path in lost:
                    lost[member.path].update(member.places[torch.isin(member.channels, torch.tensor(gone))].tolist())
            if one.heads:
                self._attend(one, len(gone), heads)
        family.repair(net)
        before = {tap: self.model.kept.get(tap, range(width)) for tap, width in widths.items()}
        return {
            tap: tuple(channel for i, channel in enumerate(before[tap]) if i not in lost[name])
            for tap, name in writers.items()
        }

    def _attend(self, one: Coupled, gone: int, whole: bool) -> None:
        """Attention over fewer heads; or over narrower ones, with queries scaled so that the scores keep their size.

        Scores are divided by √d of the width d of a head (Vaswani et al. 2017, eq. 1), which has become smaller.
        """
        net = self.model.net
        written = {member.path for member in one.members if member.dim == 0}
        for path, block in self.model.family.attention(net).items():
            query = writer(net.get_submodule(block.query))
            if self._paths[query] not in written:
                continue
            if whole:
                net.get_submodule(path).heads = block.heads - gone * one.heads // one.count  # type: ignore[assignment]
            else:
                for tensor in query.parameters():
                    tensor.data.mul_(math.sqrt((one.count - gone) / one.count))


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

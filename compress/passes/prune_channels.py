"""Remove whole channels from convolutions, linear layers and attention, by importance.

Layers that must keep equal widths are found by torch-pruning's dependency graph. Widths stay legal:
every group of a group norm, and every attention head, loses the same number of channels. The share of
channels to remove is searched so that the target is just met. The surviving channels of every stage
are noted, so that `distill` can compare the student's features with the teacher's.
"""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch_pruning as tp
from pydantic import Field, model_validator
from torch import nn

from compress.contract import Context, PassConfig, PassResult
from compress.data import Dataset, generator
from compress.diffusion.prediction import target as prediction_target
from compress.errors import PassError
from compress.models import counts
from compress.models.denoiser import Denoiser, example_inputs, predict
from compress.models.noising import noised, null_share, with_null

SEARCH_STEPS = 12


class Target(PassConfig):
    """How much is to be left, as a fraction of the model so far. Exactly one is given."""

    macs: float | None = Field(None, gt=0, le=1, description="multiply-accumulates of one evaluation")
    params: float | None = Field(None, gt=0, le=1, description="parameters")
    channels: float | None = Field(None, gt=0, le=1, description="channels of every layer")

    @model_validator(mode="after")
    def _one(self) -> "Target":
        if sum(value is not None for value in (self.macs, self.params, self.channels)) != 1:
            raise ValueError("give exactly one of macs, params, channels")
        return self


class Config(PassConfig):
    """Settings of `prune_channels`."""

    target: Target = Field(description="what is to be left, e.g. {macs: 0.5}")
    importance: Literal["taylor", "l1", "l2"] = Field(
        "taylor", description="taylor: |weight × gradient| of the denoising loss; l1, l2: magnitude"
    )
    ranking: Literal["per_layer", "global"] = Field(
        "per_layer",
        description="per_layer: the same share of each layer; global: the least important channels of the whole net, "
        "which comes nearer to the target, but leaves a layer whole if all of its channels are among them",
    )
    max_ratio: float = Field(0.75, gt=0, lt=1, description="no layer loses a larger share of its channels")
    batches: int = Field(8, ge=1, description="batches of 64 images over which taylor importance is averaged")


def run(model: Denoiser, config: Config, context: Context) -> PassResult[Denoiser]:
    """Prune to the target and report the surviving widths."""
    wanted = _wanted(config.target)
    if wanted[1] == 1:
        return PassResult(model, changed=False, notes={"reason": "the target is what the model has"})
    source = copy.deepcopy(model.net).requires_grad_(True)
    if config.importance == "taylor":
        _accumulate_gradients(dataclasses.replace(model, net=source), context.training_data(), config.batches, context)
    best = _search(dataclasses.replace(model, net=source), config, wanted, context)
    pruned, kept = best
    pruned.net.requires_grad_(False)
    pruned.net.zero_grad(set_to_none=True)
    before = {"macs": counts.macs(model), "params": counts.parameters(model)}
    after = {"macs": counts.macs(pruned), "params": counts.parameters(pruned)}
    notes = {
        "before": before,
        "after": after,
        "ratios": {key: round(after[key] / before[key], 4) for key in after},
        "widths": {tap: len(channels) for tap, channels in kept.items()},
    }
    return PassResult(pruned, changed=True, notes=notes)


def _wanted(target: Target) -> tuple[str, float]:
    return next((name, value) for name, value in target.model_dump().items() if value is not None)


def _accumulate_gradients(model: Denoiser, dataset: Dataset, batches: int, context: Context) -> None:
    """Leave the gradient of the denoising loss, at the model's own timesteps and guidance, in its parameters."""
    own = torch.tensor(model.sampling.timesteps)
    scale = model.sampling.guidance.scale
    with context.progress(f"{context.name}: importance", batches) as task:
        for step in range(batches):
            random = generator(context.seed, step)
            batch = dataset.batch(64, context.seed, step).to(context.device)
            count = len(batch.images)
            timestep = own[torch.randint(len(own), (count,), generator=random)]
            sample, noise, alpha, sigma = noised(model, batch, timestep, random)
            null = torch.rand(count, generator=random) < null_share(scale)
            output = predict(model, sample, timestep.to(context.device), with_null(model, batch.conditions, null))
            wanted = prediction_target(model.sampling.prediction_type, batch.images, noise, alpha, sigma)
            nn.functional.mse_loss(output, wanted).backward()
            task.advance()


def _search(
    model: Denoiser, config: Config, wanted: tuple[str, float], context: Context
) -> tuple[Denoiser, dict[str, tuple[int, ...]]]:
    """The least pruning that meets the target: bisection over the share of channels to remove."""
    kind, fraction = wanted
    measure: dict[str, Callable[[Denoiser], int]] = {"macs": counts.macs, "params": counts.parameters}
    if kind == "channels":
        return prune(model, config, 1 - fraction)
    limit = fraction * measure[kind](model)
    low, high = 0, 2**SEARCH_STEPS

    def pick(i: int) -> float:
        return config.max_ratio * i / 2**SEARCH_STEPS

    best = prune(model, config, pick(high))
    if measure[kind](best[0]) > limit:
        least = measure[kind](best[0]) / measure[kind](model)
        raise PassError(
            f"{context.name}: {kind}: {fraction} is out of reach; removing {config.max_ratio:.0%} of every layer's "
            f"channels with legal widths leaves {least:.3f}; raise the target or max_ratio, or try the other ranking"
        )
    with context.progress(f"{context.name}: search", SEARCH_STEPS) as task:
        while high - low > 1:
            middle = (low + high) // 2
            candidate = prune(model, config, pick(middle))
            if measure[kind](candidate[0]) <= limit:
                best, high = candidate, middle
            else:
                low = middle
            task.advance()
    return best


def prune(model: Denoiser, config: Config, ratio: float) -> tuple[Denoiser, dict[str, tuple[int, ...]]]:
    """A pruned copy, and the teacher's channels that survive at each stage. ratio: share to remove."""
    net = copy.deepcopy(model.net)
    for mine, theirs in zip(net.parameters(), model.net.parameters(), strict=True):
        mine.grad = None if theirs.grad is None else theirs.grad.clone()
    pruned = dataclasses.replace(model, net=net)
    pruner = tp.pruner.BasePruner(
        pruned.module,
        example_inputs(pruned, batch=2),
        importance=_importance(config),
        global_pruning=config.ranking == "global",
        pruning_ratio=ratio,
        max_pruning_ratio=config.max_ratio,
        ignored_layers=model.family.protected(net),
        num_heads=dict(model.family.heads(net)),
        in_channel_groups={},  # torch-pruning's defaults are shared between calls
        out_channel_groups={},
    )
    stages: dict[str, Any] = {tap: net.get_submodule(name) for tap, (_, name) in model.family.stages(net).items()}
    alive = {tap: list(range(writer.weight.shape[0])) for tap, writer in stages.items()}
    for group in pruner.step(interactive=True):
        for dependency, removed in group:
            if pruner.DG.is_out_channel_pruning_fn(dependency.handler):
                for tap, writer in stages.items():
                    if dependency.target.module is writer:
                        gone = set(removed)
                        alive[tap] = [channel for i, channel in enumerate(alive[tap]) if i not in gone]
        group.prune()
    model.family.repair(net)
    kept = {
        tap: tuple(model.kept[tap][channel] for channel in channels) if tap in model.kept else tuple(channels)
        for tap, channels in alive.items()
    }
    return dataclasses.replace(pruned, kept=kept), kept


def _importance(config: Config) -> Callable:
    if config.importance == "taylor":
        return tp.importance.GroupTaylorImportance()
    return tp.importance.GroupMagnitudeImportance(p=1 if config.importance == "l1" else 2)

"""Remove whole channels from convolutions, linear layers and attention, by importance.

Widths stay legal: every group of a group norm, and every attention head, loses the same number of channels. How many
go is searched so that the target is just met. The surviving channels of every stage are noted, so that `distill` can
compare the student's features with the teacher's. For several rounds, write the pass several times with a `distill`
after each: a target is a fraction of the model so far.
"""

import copy
import dataclasses
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from compress.contract import Context, PassConfig, PassResult
from compress.data import Dataset
from compress.errors import PassError, suggest
from compress.measure import blocks as timing
from compress.measure import counts
from compress.model import channels, plain_widths
from compress.model.channels import Coupled, Couplings
from compress.model.denoiser import Denoiser, predict
from compress.model.noising import noised, with_null
from compress.model.reference import silent
from compress.randomness import Draw, generator
from compress.settings import Many

GRAIN = 2**12  # steps that the share of channels to remove is searched in
BATCH = 64


class Target(PassConfig):
    """How much is to be left, as a fraction of the model so far. Exactly one is given."""

    macs: float | None = Field(None, gt=0, le=1, description="multiply-accumulates of one evaluation")
    params: float | None = Field(None, gt=0, le=1, description="parameters")
    bytes: float | None = Field(None, gt=0, le=1, description="bytes of the weights")
    latency: float | None = Field(None, gt=0, le=1, description="measured time of one evaluation in PyTorch, here")
    channels: float | None = Field(None, gt=0, le=1, description="channels of every layer")

    @model_validator(mode="after")
    def _one(self) -> "Target":
        if sum(value is not None for value in self.model_dump().values()) != 1:
            raise ValueError("give exactly one of macs, params, bytes, latency, channels")
        return self


class Config(PassConfig):
    """Settings of `prune_channels`."""

    target: Target = Field(description="what is to be left, e.g. {macs: 0.5}")
    importance: Literal["taylor", "diffusion_taylor", "l1", "l2", "random"] = Field(
        "taylor",
        description="taylor: |weight × gradient| of the denoising loss at the model's own timesteps; diffusion_taylor: "
        "the same over the schedule from t = 0 until the loss falls under 5% of its maximum (Diff-Pruning); l1, l2: "
        "magnitude; random: a baseline",
    )
    ranking: Literal["per_layer", "global", "per_cost"] = Field(
        "global",
        description="per_layer: the same share of each layer; global: the least important channels of the whole net, "
        "in units of the mean of their layer; per_cost: those whose importance is least for what they cost; default "
        "for a target of channels and for widths: stock, which are shares of every layer: per_layer",
    )
    widths: Literal["free", "stock"] = Field(
        "free",
        description="free: each layer gets a width of its own; stock: every level loses the same share, so that the "
        "student is a plain diffusers model",
    )
    heads: Literal["narrow", "remove"] = Field(
        "narrow", description="narrow: attention heads lose channels; remove: whole heads go"
    )
    max_ratio: float = Field(0.75, gt=0, lt=1, description="no layer loses a larger share of its channels")
    multiple_of: int = Field(
        1, ge=1, description="widths are multiples of this where they were, e.g. 8 for int8 kernels"
    )
    protect: Many[str] = Field((), description="patterns of layers that keep their width, e.g. mid_block.*")
    batches: int = Field(8, ge=1, description="batches of 64 images over which taylor importance is averaged")

    @model_validator(mode="before")
    @classmethod
    def _same_share(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        target = given.get("target")
        same = given.get("widths") == "stock" or (isinstance(target, dict) and target.get("channels") is not None)
        return {"ranking": "per_layer"} | given if same else given

    @model_validator(mode="after")
    def _stock(self) -> "Config":
        if self.widths == "stock" and (self.ranking != "per_layer" or self.protect):
            raise ValueError("widths: stock takes the same share of every level; leave ranking and protect away")
        return self


@dataclasses.dataclass(frozen=True)
class Ranked:
    """A coupled set with what may go from it, least important first. scores: by which sets are compared."""

    coupled: Coupled
    units: list[list[int]]
    scores: torch.Tensor

    def allowed(self, count: int, config: Config) -> int:
        """How many units may go of `count`: no more than max_ratio, down to a legal multiple."""
        each = len(self.units[0])
        count = min(count, int(config.max_ratio * self.coupled.count / each), len(self.units) - 1)
        multiple = config.multiple_of if self.coupled.count % config.multiple_of == 0 else 1
        while count and (self.coupled.count - count * each) % multiple:
            count -= 1
        return count

    def first(self, count: int) -> list[int]:
        """The channels of the `count` least important units."""
        return [channel for unit in self.units[:count] for channel in unit]


def run(model: Denoiser, config: Config, context: Context) -> PassResult[Denoiser]:
    """Prune to the target and report the surviving widths."""
    wanted = next((name, value) for name, value in config.target.model_dump().items() if value is not None)
    if wanted[1] == 1:
        return PassResult(model, changed=False, notes={"reason": "the target is what the model has"})
    source = dataclasses.replace(model, net=copy.deepcopy(model.net).requires_grad_(True))
    if "taylor" in config.importance:
        _accumulate_gradients(source, context.training_data(), config, context)
    pruned = _search(source, config, wanted, context)
    notes = {
        **counts.compared(model, pruned),
        "widths": {tap: len(left) for tap, left in pruned.kept.items()},
    }
    return PassResult(pruned, changed=True, notes=notes)


def _accumulate_gradients(model: Denoiser, dataset: Dataset, config: Config, context: Context) -> None:
    """Leave the gradient of the denoising loss in the model's parameters.

    taylor: at the model's own timesteps, a new batch each time. diffusion_taylor: one batch and noise at t = 0, d, 2d,
    … until the loss is under 5% of its maximum (Fang et al. 2023, "Structural Pruning for Diffusion Models", eq. 8).
    """
    along = config.importance == "diffusion_taylor"
    known = model.sampling.training
    largest = 0.0
    with context.progress(f"{context.name}: importance", config.batches) as task:
        for step in range(config.batches):
            key = (context.seed, Draw.IMPORTANCE, 0 if along else step)
            random = generator(*key)
            batch = dataset.batch(BATCH, *key).to(context.device)
            at = known[step * len(known) // config.batches].expand(len(batch.images)) if along else None
            question = with_null(model, noised(model, batch, random, at=at), random)
            assert question.answer is not None
            loss = nn.functional.mse_loss(predict(model, *question.asked), question.answer)
            largest = max(largest, float(loss.detach()))
            if along and float(loss.detach()) < 0.05 * largest:
                break
            loss.backward()
            task.advance()


def rank(model: Denoiser, config: Config, seed: int, where: str) -> list[Ranked]:
    """What may go from every coupled set. model: with gradients, where importance needs them."""
    net = model.net
    sets = Couplings(model, model.family.protected(net)).sets
    layers = sorted({member.path for one in sets for member in one.members})
    for pattern in config.protect:
        if not any(fnmatchcase(path, pattern) for path in layers):
            raise PassError(f"{where}: protect: {pattern!r} matches no layer{suggest(pattern, layers)}")
    applied = counts.places(model) if config.target.params is None and config.target.bytes is None else None
    found = []
    for place, one in enumerate(sets):
        writers = [member.path for member in one.members if member.dim == 0]
        kept = any(fnmatchcase(path, pattern) for pattern in config.protect for path in writers)
        if kept or one.count % one.parts:
            continue
        if config.importance == "random":
            random = generator(seed, Draw.RANDOM_IMPORTANCE, place)
            scores = torch.rand(one.count, generator=random, dtype=torch.float64)
        else:
            scores = channels.importance(one, net, SCORES[config.importance])
        remove = one.heads and config.heads == "remove"
        units, sums = channels.whole_heads(scores, one.heads) if remove else channels.units(scores, one.parts)
        if config.ranking == "per_cost":
            sums = sums / max(channels.saved(one, net, applied) * len(units[0]), 1e-30)
        else:
            sums = sums / sums.mean().clamp_min(1e-30)
        found.append(Ranked(one, units, sums))
    return found


SCORES: dict[str, Callable[[nn.Parameter], torch.Tensor]] = {
    "taylor": lambda weight: (weight * _gradient(weight)).abs(),
    "diffusion_taylor": lambda weight: (weight * _gradient(weight)).abs(),
    "l1": lambda weight: weight.abs(),
    "l2": lambda weight: weight.square(),
}


def _gradient(weight: nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad


def choose(ranked: list[Ranked], config: Config, share: float) -> dict[str, list[int]]:
    """Channels to remove by coupled set; share: of max_ratio, in 0 … 1."""
    if config.ranking == "per_layer":
        return {
            one.coupled.name: one.first(one.allowed(int(share * config.max_ratio * len(one.units)), config))
            for one in ranked
        }
    every = torch.cat([one.scores for one in ranked]).sort().values
    count = int(share * len(every))
    limit = every[count - 1] if count else -torch.inf
    return {one.coupled.name: one.first(one.allowed(int((one.scores <= limit).sum()), config)) for one in ranked}


def prune(model: Denoiser, ranked: list[Ranked], config: Config, share: float) -> Denoiser:
    """A pruned copy without gradients. share: of max_ratio, in 0 … 1."""
    copied = dataclasses.replace(model, net=copy.deepcopy(model.net).requires_grad_(True))
    couplings = Couplings(copied, copied.family.protected(copied.net))
    if config.widths == "stock":
        stock = plain_widths.narrower(model, share * config.max_ratio, config.multiple_of, config.heads)
        counts_left = plain_widths.counts(couplings.sets, stock)
        chosen = {
            one.coupled.name: one.first((one.coupled.count - counts_left[one.coupled.name]) // len(one.units[0]))
            for one in ranked
        }
    else:
        chosen = choose(ranked, config, share)
    kept = couplings.remove(chosen, config.heads == "remove")
    copied.net.requires_grad_(False).zero_grad(set_to_none=True)
    pruned = dataclasses.replace(copied, kept=kept)
    return plain_widths.conform(pruned, stock) if config.widths == "stock" else pruned


def _search(model: Denoiser, config: Config, wanted: tuple[str, float], context: Context) -> Denoiser:
    """The least pruning that meets the target: bisection over the share of channels to remove."""
    kind, fraction = wanted
    ranked = rank(model, config, context.seed, context.name)
    if kind == "channels":
        return prune(model, ranked, config, min(1.0, (1 - fraction) / config.max_ratio))
    measure = MEASURES[kind]
    best, low, high = prune(model, ranked, config, 1.0), 0, GRAIN
    least = measure(best, model)
    if least > fraction:
        raise PassError(
            f"{context.name}: {kind}: {fraction} is out of reach; removing {config.max_ratio:.0%} of every layer's "
            f"channels with legal widths leaves {least:.3f}; raise the target or max_ratio"
        )
    with context.progress(f"{context.name}: search", GRAIN.bit_length() - 1) as task:
        while high - low > 1:
            middle = (low + high) // 2
            candidate = prune(model, ranked, config, middle / GRAIN)
            if measure(candidate, model) <= fraction:
                best, high = candidate, middle
            else:
                low = middle
            task.advance()
    return best


MEASURES: dict[str, Callable[[Denoiser, Denoiser], float]] = {
    "macs": lambda student, whole: counts.macs(student) / counts.macs(whole),
    "params": lambda student, whole: counts.parameters(student) / counts.parameters(whole),
    "bytes": lambda student, whole: counts.weight_bytes(student) / counts.weight_bytes(whole),
    "latency": lambda student, whole: timing.share(whole, student, silent, ""),
}

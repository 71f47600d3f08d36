"""Remove whole channels from convolutions, linear layers and attention, by importance.

Widths stay legal: every group of a group norm, and every attention head, loses the same number of channels. How many
go is searched so that the target is just met. The surviving channels of every stage are noted, so that `distill` can
compare the student's features with the teacher's. For several rounds, write the pass several times with a `distill`
after each: a target is a fraction of the model so far.
"""

import dataclasses
import math
import time
from bisect import bisect_left
from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from compress.contract import Context, Forecast, PassConfig, PassResult
from compress.data import FromTeacher
from compress.measure import counts, target
from compress.measure.latency import taken
from compress.model import channels, plain_widths, taylor
from compress.model.channels import Coupled
from compress.model.copies import shadow, sharing
from compress.model.denoiser import Denoiser, example_inputs
from compress.model.noising import noised, with_null
from compress.model.paths import meant
from compress.randomness import Draw, generator
from compress.settings import Many

GRAIN = 2**12  # steps that the share of channels to remove is searched in
BATCH = 64
PART = 4 * 10**11  # multiply-accumulates that are differentiated at once
LONG = 5 * 10**12  # of all gradients, from which a plan does without them


class Target(target.Target):
    """How much is to be left, as a fraction of the model so far. Exactly one is given."""

    bytes: float | None = Field(None, gt=0, le=1, description="bytes of the weights")
    latency: float | None = Field(None, gt=0, le=1, description="measured time of one evaluation in PyTorch, here")
    channels: float | None = Field(None, gt=0, le=1, description="channels of every layer")


class Config(PassConfig):
    """Settings of `prune_channels`."""

    target: Target = Field(description="what is to be left, e.g. {macs: 0.5}")
    importance: Literal["taylor", "diffusion_taylor", "l1", "l2", "random"] = Field(
        "taylor",
        description="taylor: |weight × gradient| of the denoising loss at the model's own timesteps; diffusion_taylor: "
        "the same over the schedule from t = 0 until the loss falls under 5% of its maximum (Diff-Pruning); l1, l2: "
        "magnitude; random: a baseline",
    )
    ranking: Literal["per_layer", "global", "per_cost"] | None = Field(
        None,
        description="per_layer: the same share of each layer; global: the least important channels of the whole net, "
        "in units of the mean of their layer; per_cost: those whose importance is least for what they cost; default: "
        "global, and per_layer for a target of channels and for widths: stock, which are shares of every layer",
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

    @model_validator(mode="after")
    def _stock(self) -> Self:
        if self.widths == "stock" and (self.order != "per_layer" or self.protect):
            raise ValueError("widths: stock takes the same share of every level; leave ranking and protect away")
        return self

    @property
    def order(self) -> str:
        """The ranking, as asked for or by default."""
        shares = self.widths == "stock" or self.target.channels is not None
        return self.ranking or ("per_layer" if shares else "global")


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

    def down_to(self, width: int) -> list[int]:
        """The channels that go for `width` to be left."""
        return self.first((self.coupled.count - width) // len(self.units[0]))


def run(model: Denoiser, config: Config, context: Context) -> PassResult[Denoiser]:
    """Prune to the target and report the surviving widths."""
    if config.target.fraction == 1:
        return PassResult(model, changed=False, notes=target.REACHED)
    source = dataclasses.replace(model, net=sharing(model.net).requires_grad_(True))
    if "taylor" in config.importance:
        _accumulate_gradients(source, config, context)
    pruned = _search(source, config, context)
    widths = {tap: len(left) for tap, left in pruned.kept.items()}
    return PassResult(pruned, changed=True, notes={**counts.compared(model, pruned), "widths": widths})


def _accumulate_gradients(model: Denoiser, config: Config, context: Context) -> None:
    """Leave the gradient of the denoising loss in the model's parameters.

    taylor: at the model's own timesteps, a new batch each time. diffusion_taylor: one batch and noise at t = 0, d, 2d,
    … until the loss is under 5% of its maximum (Fang et al. 2023, "Structural Pruning for Diffusion Models", eq. 8).
    """
    dataset, known = context.training_data(), model.sampling.training
    along, parts = config.importance == "diffusion_taylor", math.ceil(BATCH * counts.macs(model) / PART)
    largest = 0.0
    with context.progress(f"{context.name}: importance", config.batches) as task:
        for step in range(config.batches):
            key = (context.seed, Draw.IMPORTANCE, 0 if along else step)
            random = generator(*key)
            batch = dataset.batch(BATCH, *key).to(context.device)
            at = known[step * len(known) // config.batches].expand(BATCH) if along else None
            question = with_null(model, noised(model, batch, random, at=at), random)
            if along:
                found = taylor.loss(model, question, parts)
                largest = max(largest, found)
                if found < 0.05 * largest:
                    break
            taylor.add_gradients(model, question, parts)
            task.advance()


def forecast(model: Denoiser, config: Config, context: Context) -> Forecast:
    """A model is really pruned; where gradients would take long, by magnitude, which leaves as much."""
    began, evaluations = time.monotonic(), BATCH * config.batches
    differentiates = "taylor" in config.importance and config.target.fraction < 1
    if not differentiates or 3 * evaluations * counts.macs(model) < LONG:
        return Forecast(run(model, config, context).model, time.monotonic() - began)
    if context.data is None or not isinstance(context.data, FromTeacher):  # which would be drawn
        context.training_data()
    result = run(model, config.model_copy(update={"importance": "l1"}), context)
    with torch.no_grad():
        each = taken(lambda: model.module(*example_inputs(model, 1)), times=1)
    seconds = time.monotonic() - began + 3 * evaluations * each  # backward takes twice as long
    return Forecast(result.model, seconds, counts.weight_bytes(model))


def rank(model: Denoiser, config: Config, seed: int, where: str) -> list[Ranked]:
    """What may go from every coupled set. model: with gradients, where importance needs them."""
    net = model.net
    sets = channels.couplings(model)
    layers = sorted({member.path for one in sets for member in one.members})
    protected = meant(config.protect, layers, f"{where}: protect", "layer")
    applied = None if config.target.kind in ("params", "bytes") else counts.places(model)
    found = []
    for place, one in enumerate(sets):
        if one.count % one.parts or any(member.dim == 0 and member.path in protected for member in one.members):
            continue
        if config.importance == "random":
            random = generator(seed, Draw.RANDOM_IMPORTANCE, place)
            scores = torch.rand(one.count, generator=random, dtype=torch.float64)
        else:
            scores = channels.importance(one, net, taylor.SCORES[config.importance])
        remove = one.heads and config.heads == "remove"
        units, sums = channels.whole_heads(scores, one.heads) if remove else channels.units(scores, one.parts)
        if config.order == "per_cost":
            sums = sums / max(channels.saved(one, net, applied) * len(units[0]), 1e-30)
        else:
            sums = sums / sums.mean().clamp_min(1e-30)
        found.append(Ranked(one, units, sums))
    return found


def choose(ranked: list[Ranked], config: Config, share: float) -> dict[str, list[int]]:
    """Channels to remove by coupled set; share: of max_ratio, in 0 … 1."""
    if config.order == "per_layer":
        wanted = [int(share * config.max_ratio * len(one.units)) for one in ranked]
    else:
        every = torch.cat([one.scores for one in ranked]).sort().values
        count = int(share * len(every))
        limit = every[count - 1] if count else -torch.inf
        wanted = [int((one.scores <= limit).sum()) for one in ranked]
    return {one.coupled.name: one.first(one.allowed(count, config)) for one, count in zip(ranked, wanted, strict=True)}


def prune(model: Denoiser, ranked: list[Ranked], config: Config, share: float) -> Denoiser:
    """A pruned copy without gradients. share: of max_ratio, in 0 … 1."""
    stock = None
    if config.widths == "stock":
        stock = plain_widths.narrower(model, share * config.max_ratio, config.multiple_of, config.heads)
        chosen = {one.coupled.name: one.down_to(plain_widths.width(one.coupled, stock)) for one in ranked}
    else:
        chosen = choose(ranked, config, share)
    pruned = channels.remove(model, [one.coupled for one in ranked], chosen, config.heads == "remove")
    return plain_widths.conform(pruned, stock) if stock else pruned


def _search(model: Denoiser, config: Config, context: Context) -> Denoiser:
    """The least pruning that meets the target: bisection over the share of channels to remove.

    On the way models are pruned without their weights, unless they are to be timed.
    """
    wanted = config.target
    ranked = rank(model, config, context.seed, context.name)
    model.net.zero_grad(set_to_none=True)  # gradients have been counted
    if wanted.channels is not None:
        return prune(model, ranked, config, min(1.0, (1 - wanted.channels) / config.max_ratio))

    tried = model if wanted.kind == "latency" else dataclasses.replace(model, net=shadow(model.net))

    def left(step: int) -> float:
        return target.LEFT[wanted.kind](prune(tried, ranked, config, step / GRAIN), model)

    least = left(GRAIN)
    if least > wanted.fraction:
        most = f"removing {config.max_ratio:.0%} of every layer's channels with legal widths"
        raise target.out_of_reach(context.name, wanted, most, least, "raise the target or max_ratio")
    with context.progress(f"{context.name}: search", GRAIN.bit_length() - 1) as task:

        def met(step: int) -> bool:
            task.advance()
            return left(step) <= wanted.fraction

        step = 1 + bisect_left(range(1, GRAIN), True, key=met)
    return prune(model, ranked, config, step / GRAIN)

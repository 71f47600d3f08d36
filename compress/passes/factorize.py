"""Replace convolutions and linear layers by two of lower rank, by singular value decomposition.

A k×k convolution becomes one of k×k to `rank` channels and a pointwise one; a linear layer becomes two. The factors
are those of least error on what the layer is fed: at the model's own timesteps and share of null conditions, unless
`activation_aware` is false (`model/low_rank.py` holds the mathematics). For a target in multiply-accumulates or
parameters, the ranks of all layers are chosen together, by the error of the model's output (without data: by the share
of the layer's energy) that each costs for what it saves. No width changes, so the feature maps still pair with the
teacher's.
"""

import copy
import dataclasses
import math
import time
from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import nn

from compress.contract import Context, Forecast, PassConfig, PassResult
from compress.errors import PassError, suggest
from compress.families.replacements import writer
from compress.measure import counts
from compress.model import edits, low_rank
from compress.model.denoiser import Denoiser, predict
from compress.model.low_rank import Choice, Spectrum
from compress.model.moments import Readings, reading
from compress.model.noising import noised, with_null
from compress.randomness import Draw, generator
from compress.settings import Many

BATCH = 64


class Target(PassConfig):
    """How much is to be left. Exactly one is given."""

    macs: float | None = Field(
        None, gt=0, le=1, description="multiply-accumulates of one evaluation, as a fraction of the model so far"
    )
    params: float | None = Field(None, gt=0, le=1, description="parameters, as a fraction of the model so far")
    energy: float | None = Field(None, gt=0, le=1, description="share of every layer's squared singular values")
    rank: float | None = Field(None, gt=0, le=1, description="share of every layer's full rank")

    @model_validator(mode="after")
    def _one(self) -> "Target":
        if sum(value is not None for value in (self.macs, self.params, self.energy, self.rank)) != 1:
            raise ValueError("give exactly one of macs, params, energy, rank")
        return self


class Config(PassConfig):
    """Settings of `factorize`."""

    target: Target = Field(description="what is to be left, e.g. {macs: 0.7}")
    layers: Many[str] | None = Field(
        None, description="layers to consider, as globs; default: all but the first, the last and protected ones"
    )
    keep: Many[str] = Field((), description="layers to leave alone, as globs")
    activation_aware: bool = Field(
        True,
        description="least error of what layers compute from the data, and of the model's output over all layers; "
        "false: of their weights, without data",
    )
    batches: int = Field(8, ge=1, description="batches of 64 images on which the layers are read")


def run(model: Denoiser, config: Config, context: Context) -> PassResult[Denoiser]:
    """Factorize to the target and report the ranks."""
    layers = _considered(model, config, context.name)
    kind, value = _wanted(config.target)
    if value == 1:
        return PassResult(model, changed=False, notes={"reason": "the target is what the model has"})
    readings = _read(model, layers, config, context) if config.activation_aware else None
    spectra: dict[str, Spectrum] = {}
    with context.progress(f"{context.name}: decomposition", len(layers)) as task:
        for path, layer in layers.items():
            spectra[path] = low_rank.spectrum(layer, readings.moments(path) if readings else None)
            task.advance()
    if kind in ("macs", "params"):
        losses = _losses(spectra, readings)
        ranks = _allocated(model, layers, losses, kind, value, context.name)
    elif kind == "energy":
        ranks = _cheaper(layers, {path: low_rank.least_rank(spectra[path].energies, value) for path in layers})
    else:
        ranks = _shares(layers, value)
    if not ranks:
        return PassResult(model, changed=False, notes={"reason": "no layer is cheaper as two of the rank asked for"})
    result = _factorized(model, ranks, spectra)
    notes = {
        **counts.compared(model, result),
        "layers": {
            path: {
                "rank": rank,
                "full_rank": len(spectra[path].energies),
                "energy": round(spectra[path].kept(rank), 6),
            }
            for path, rank in ranks.items()
        },
        "left_alone": [path for path in layers if path not in ranks],
    }
    return PassResult(result, changed=True, notes=notes)


def _wanted(target: Target) -> tuple[str, float]:
    return next((name, value) for name, value in target.model_dump().items() if value is not None)


def _considered(model: Denoiser, config: Config, where: str) -> dict[str, nn.Module]:
    """Path → layer, in the order of the net. Raises PassError for a pattern that matches nothing."""
    able = {path: module for path, module in model.net.named_modules() if edits.can_be_low_rank(module)}
    factors = {f"{path}.{part}" for path, layer in able.items() for part, _ in layer.named_children()}
    found = {path: layer for path, layer in able.items() if path not in factors}
    for name, patterns in (("layers", config.layers or ()), ("keep", config.keep)):
        for pattern in patterns:
            if not any(fnmatch(path, pattern) for path in found):
                raise PassError(f"{where}: {name}: {pattern!r} matches no layer{suggest(pattern, list(found))}")
    if config.layers is None:
        protected, ends = model.family.protected(model.net), model.family.layers.ends
        inner = {path: layer for path, layer in found.items() if not any(fnmatch(path, end) for end in ends)}
        wanted = [path for path, layer in inner.items() if not any(writer(layer) is one for one in protected)]
    else:
        wanted = [path for path in found if any(fnmatch(path, pattern) for pattern in config.layers)]
    return {path: found[path] for path in wanted if not any(fnmatch(path, pattern) for pattern in config.keep)}


def _read(model: Denoiser, layers: Mapping[str, nn.Module], config: Config, context: Context) -> Readings:
    """What the layers compute from noisy training images, at the model's own timesteps and guidance.

    For a budget of all layers together, also how the model's output responds to each.
    """
    dataset = context.training_data()
    together = _wanted(config.target)[0] in ("macs", "params")
    with context.progress(f"{context.name}: reading layers", config.batches) as task, reading(layers) as found:
        for step in range(config.batches):
            random = generator(context.seed, Draw.FACTORIZE, step)
            batch = dataset.batch(BATCH, context.seed, Draw.FACTORIZE, step).to(context.device)
            question = with_null(model, noised(model, batch, random), random)
            with torch.set_grad_enabled(together):
                output = predict(model, *question.asked)
            if together:
                signs = torch.randint(2, output.shape, generator=random).to(output) * 2 - 1
                output.backward(signs)
            found.items += len(batch.images)
            task.advance()
    return found


def _losses(spectra: Mapping[str, Spectrum], readings: Readings | None) -> dict[str, np.ndarray]:
    """What each direction [full rank] of a layer is worth.

    readings: the error of the model's output without it, to first order; None: its share of the layer's energy.
    """
    energies = {path: found.energies.numpy() for path, found in spectra.items()}
    if readings is not None:
        return {path: values * readings.response(path) for path, values in energies.items()}
    return {path: values / (values.sum() or 1) for path, values in energies.items()}


def _allocated(
    model: Denoiser,
    layers: Mapping[str, nn.Module],
    losses: Mapping[str, np.ndarray],
    kind: str,
    fraction: float,
    where: str,
) -> dict[str, int]:
    """Ranks that leave `fraction` of the multiply-accumulates or parameters, at the least loss in all."""
    places = counts.places(model) if kind == "macs" else dict.fromkeys(layers, 1)
    choices = {}
    for path in layers:
        if path not in places:
            continue  # never called
        count = places[path]
        whole, each = (count * weights(layers[path]) for weights in (low_rank.size, low_rank.rank_size))
        choices[path] = Choice(whole, each, losses[path])
    size = counts.macs(model) if kind == "macs" else counts.parameters(model)
    try:
        return low_rank.allocate(choices, size - math.floor(fraction * size))
    except ValueError:
        saved = sum(choice.whole - choice.each for choice in choices.values() if choice.most)
        raise PassError(
            f"{where}: {kind}: {fraction} is out of reach; rank 1 for all {len(choices)} layers leaves "
            f"{1 - saved / size:.3f}; raise the target, or consider more layers"
        ) from None


def _cheaper(layers: Mapping[str, nn.Module], ranks: Mapping[str, int]) -> dict[str, int]:
    """The ranks whose factors have fewer weights, and so fewer multiply-accumulates, than the layer."""
    size, each = low_rank.size, low_rank.rank_size
    return {path: rank for path, rank in ranks.items() if rank * each(layers[path]) < size(layers[path])}


def _shares(layers: Mapping[str, nn.Module], share: float) -> dict[str, int]:
    """`share` of every layer's full rank, at least 1."""
    full = {path: low_rank.full_rank(layer) for path, layer in layers.items()}
    return _cheaper(layers, {path: max(1, math.ceil(share * rank - 1e-9)) for path, rank in full.items()})


def _factorized(model: Denoiser, ranks: Mapping[str, int], spectra: Mapping[str, Spectrum] | None) -> Denoiser:
    """A copy with layers of these ranks; spectra: where their weights come from, None: they do not matter."""
    net = copy.deepcopy(model.net)
    with torch.random.fork_rng(devices=[]):  # new layers draw weights
        for path, rank in ranks.items():
            layer = model.net.get_submodule(path)
            edits.put(net, model.family, path, {"kind": "low_rank", "rank": rank})
            if spectra is not None:
                low: Any = net.get_submodule(path)
                low_rank.fill(low, layer, spectra[path])
    return dataclasses.replace(model, net=net.eval().requires_grad_(False))


def forecast(model: Denoiser, config: Config, context: Context) -> Forecast:
    """The outcome itself, which takes no training; for a share of the rank its shape alone."""
    layers = _considered(model, config, context.name)
    kind, value = _wanted(config.target)
    memory = 8 * sum(low_rank.full_rank(layer) ** 2 for layer in layers.values()) if config.activation_aware else 0
    if kind == "rank":
        ranks = _shares(layers, value) if value < 1 else {}
        return Forecast(_factorized(model, ranks, None), memory_bytes=memory)
    began = time.monotonic()
    result = run(model, config, context)
    return Forecast(result.model, time.monotonic() - began, memory)

"""Replace convolutions and linear layers by two of lower rank, by singular value decomposition.

A k×k convolution becomes one of k×k to `rank` channels and a pointwise one; a linear layer becomes two. The factors
are those of least error on what the layer is fed at the model's own timesteps and share of null conditions
(`model/low_rank.py` holds the mathematics). For a target in multiply-accumulates or parameters, the ranks of all layers
are chosen together, by the error of the model's output that each costs for what it saves. No width changes, so the
feature maps still pair with the teacher's.
"""

import copy
import dataclasses
import math
from typing import Any

import torch
from pydantic import Field
from torch import nn

from compress.contract import Context, PassConfig, PassResult
from compress.families.replacements import writer
from compress.measure import counts, target
from compress.model import edits, low_rank, ranks
from compress.model.denoiser import Denoiser, predict
from compress.model.low_rank import Readings, Spectrum
from compress.model.noising import noised, with_null
from compress.model.paths import matches, meant, outermost, watched
from compress.randomness import Draw, generator
from compress.settings import Many

BATCH = 64


class Target(target.Target):
    """How much is to be left, in multiply-accumulates or parameters of the model so far. Exactly one is given."""

    energy: float | None = Field(None, gt=0, le=1, description="share of every layer's squared singular values")
    rank: float | None = Field(None, gt=0, le=1, description="share of every layer's full rank")


class Config(PassConfig):
    """Settings of `factorize`."""

    target: Target = Field(description="what is to be left, e.g. {macs: 0.7}")
    layers: Many[str] | None = Field(
        None, description="layers to consider, as globs; default: all but the first, the last and protected ones"
    )
    keep: Many[str] = Field((), description="layers to leave alone, as globs")
    batches: int = Field(8, ge=1, description="batches of 64 images on which the layers are read")


def run(model: Denoiser, config: Config, context: Context) -> PassResult[Denoiser]:
    """Factorize to the target and report the ranks."""
    layers = _considered(model, config, context.name)
    if config.target.fraction == 1:
        return PassResult(model, changed=False, notes=target.REACHED)
    readings = _read(model, layers, config, context)
    spectra: dict[str, Spectrum] = {}
    with context.progress(f"{context.name}: decomposition", len(layers)) as task:
        for path, layer in layers.items():
            spectra[path] = low_rank.spectrum(layer, readings.correlation(path))
            task.advance()
    chosen = _ranks(model, layers, spectra, readings, config.target, context.name)
    if not chosen:
        return PassResult(model, changed=False, notes={"reason": "no layer is cheaper as two of the rank asked for"})
    net = copy.deepcopy(model.net)
    with torch.random.fork_rng(devices=[]):  # new layers draw weights
        for path, rank in chosen.items():
            edits.put(net, model.family, path, {"kind": "low_rank", "rank": rank})
            low: Any = net.get_submodule(path)
            low_rank.fill(low, layers[path], spectra[path])
    result = dataclasses.replace(model, net=net.eval().requires_grad_(False))
    rows = {
        path: {"rank": rank, "full_rank": len(spectra[path].energies), "energy": round(spectra[path].kept(rank), 6)}
        for path, rank in chosen.items()
    }
    left_alone = [path for path in layers if path not in chosen]
    notes = {**counts.compared(model, result), "layers": rows, "left_alone": left_alone}
    return PassResult(result, changed=True, notes=notes)


def _considered(model: Denoiser, config: Config, where: str) -> dict[str, nn.Module]:
    """Path → layer, in the order of the net. Raises PassError for a pattern that matches nothing."""
    able = {path: module for path, module in model.net.named_modules() if edits.can_be_low_rank(module)}
    paths = outermost(able)  # not the factors of what is of low rank already
    kept = meant(config.keep, paths, f"{where}: keep", "layer")
    if config.layers is None:
        protected, ends = model.family.protected(model.net), model.family.layers.ends
        kept += [path for path in paths if matches(path, ends) or any(writer(able[path]) is one for one in protected)]
    else:
        paths = meant(config.layers, paths, f"{where}: layers", "layer")
    return {path: able[path] for path in paths if path not in kept}


def _read(model: Denoiser, layers: dict[str, nn.Module], config: Config, context: Context) -> Readings:
    """What the layers compute from noisy training images, at the model's own timesteps and guidance.

    For a budget of all layers together, also how the model's output responds to each.
    """
    dataset, found = context.training_data(), Readings(layers)
    together = config.target.kind in ("macs", "params")
    with (
        context.progress(f"{context.name}: reading layers", config.batches) as task,
        watched(model.net, layers, found.read),
    ):
        for step in range(config.batches):
            key = (context.seed, Draw.FACTORIZE, step)
            random = generator(*key)
            batch = dataset.batch(BATCH, *key).to(context.device)
            question = with_null(model, noised(model, batch, random), random)
            with torch.set_grad_enabled(together):
                output = predict(model, *question.asked)
            if together:
                signs = torch.randint(2, output.shape, generator=random).to(output) * 2 - 1
                output.backward(signs)
            found.items += len(output)
            task.advance()
    return found


def _ranks(
    model: Denoiser,
    layers: dict[str, nn.Module],
    spectra: dict[str, Spectrum],
    readings: Readings,
    wanted: Target,
    where: str,
) -> dict[str, int]:
    """The ranks of the target, of layers that are cheaper so.

    For a target of all layers together, a direction of a layer is worth the error of the model's output without it, to
    first order.
    """
    places = counts.places(model) if wanted.kind == "macs" else dict.fromkeys(layers, 1)
    choices: dict[str, ranks.Choice] = {}
    for path in (path for path in layers if path in places):  # others are never called
        energies = spectra[path].energies.numpy()
        worth = energies * readings.response(path)
        whole, each = (places[path] * weights(layers[path]) for weights in (low_rank.size, low_rank.rank_size))
        choices[path] = ranks.Choice(whole, each, worth)
    if wanted.energy is not None:
        found = {path: spectra[path].least_rank(wanted.energy) for path in choices}
    elif wanted.rank is not None:
        found = {path: max(1, math.ceil(wanted.rank * len(choice.energies) - 1e-9)) for path, choice in choices.items()}
    else:
        size = counts.macs(model) if wanted.kind == "macs" else counts.parameters(model)
        saving, most = size - math.floor(wanted.fraction * size), ranks.most_saved(choices)
        if most < saving:
            done, advice = f"rank 1 for all {len(choices)} layers", "raise the target, or consider more layers"
            raise target.out_of_reach(where, wanted, done, 1 - most / size, advice)
        found = ranks.allocate(choices, saving)
    return {path: rank for path, rank in found.items() if rank <= choices[path].most}

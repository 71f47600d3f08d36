"""Quantize weights and arithmetic: int8 by static calibration, or fp16.

int8 is calibrated on what the model will see: samples on their way from noise to image, at the model's
own timesteps and guidance, every label as often as any other, with and without the condition.
Weights are int8 per output channel and symmetric, of 7 bits so that sums are exact on every processor; activations
uint8 per tensor.
"""

import dataclasses
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from compress.contract import Context, PassConfig, PassResult
from compress.data import generator
from compress.models import quantized
from compress.models.denoiser import Denoiser, QuantizedDenoiser, null_conditions, predict, walk
from compress.models.edits import LowRank
from compress.models.reference import conditions_for, noise_like
from compress.models.scalars import GUIDANCE_SCALE, STEPS

BATCH = 50


class Config(PassConfig):
    """Settings of `quantize`."""

    scheme: Literal["int8", "fp16"] = Field("int8", description="int8: weights and activations; fp16: half precision")
    samples: int = Field(40, ge=1, description="images drawn for calibration")
    evaluations: int = Field(400, ge=1, description="points on their trajectories from which ranges are read")
    observer: Literal["histogram", "minmax"] = Field(
        "histogram", description="histogram: ranges of least squared error; minmax: no value is clipped"
    )
    float_layers: tuple[str, ...] = Field(quantized.FLOAT_LAYERS, description="layers that stay float, as globs")
    least_attention_width: int = Field(
        128,
        ge=0,
        description="attention with fewer input channels stays float: there int8 costs more time than it saves",
    )


def run(model: Denoiser, config: Config, context: Context) -> PassResult[QuantizedDenoiser]:
    """Calibrate if need be, and quantize."""
    if config.scheme == "fp16":
        return PassResult(quantized.rebuild(model, "fp16", {}), changed=True, notes={"scheme": "fp16"})
    return calibrated(model, config, context, trajectory_points(model, config, context))


def calibrated(
    model: Denoiser, config: Config, context: Context, points: list[torch.Tensor]
) -> PassResult[QuantizedDenoiser]:
    """Quantize to int8 with the ranges met at `points`: (sample, timestep, *inputs), each [evaluations, ...]."""
    float_layers = (*config.float_layers, *_narrow_attention(model, config.least_attention_width))
    with context.progress(f"{context.name}: preparing", 1) as task:
        observed = quantized.observed(model, float_layers, config.observer == "histogram")
        task.advance()
    with context.progress(f"{context.name}: calibration", len(points[0])) as task, torch.no_grad():
        for start in range(0, len(points[0]), BATCH):
            sample, timestep, *conditions = (value[start : start + BATCH] for value in points)
            predict(observed, sample, timestep, dict(zip(model.inputs, conditions, strict=True)))
            task.advance(len(sample))
    with context.progress(f"{context.name}: converting", 2) as task:
        ranges = quantized.ranges(observed)
        task.advance()
        result = quantized.rebuild(model, "int8", ranges, float_layers)
        task.advance()
    notes = {"scheme": "int8", "observers": len(ranges), "float_layers": list(float_layers)}
    return PassResult(result, changed=True, notes=notes)


def _narrow_attention(model: Denoiser, least_width: int) -> list[str]:
    """Patterns of the attention modules whose projections take fewer than `least_width` channels."""
    heads = model.family.heads(model.net)
    found = set()
    for path, layer in model.net.named_modules():
        writer = layer.up if isinstance(layer, LowRank) else layer
        if path.endswith(".up") or not isinstance(layer, nn.Linear | LowRank):
            continue  # the second factor of a projection takes its rank, not the attention's width
        if writer in heads and layer.in_features < least_width:
            found.add(f"{path.rpartition('.')[0]}.*")
    return sorted(found)


def trajectory_points(model: Denoiser, config: Config, context: Context) -> list[torch.Tensor]:
    """(sample, timestep, *inputs), each [evaluations, ...]: where the model will be evaluated.

    Timesteps in equal numbers, of every number of steps that the model serves; half of them with the null condition
    where guidance takes one; guidance scales that are an input over their whole range.
    """
    device = model.device
    noise = noise_like(model, config.samples, context.seed, 1).to(device)
    given = conditions_for(model, config.samples, context.dataset, context.seed)
    if GUIDANCE_SCALE in model.inputs:
        given[GUIDANCE_SCALE] = torch.linspace(*(model.sampling.guidance.scales or (1.0, 1.0)), config.samples)
    given = {name: value.to(device) for name, value in given.items()}
    visited: list[torch.Tensor] = []
    times: list[int] = []
    counts: list[int] = []
    for path in (model.sampling.timesteps, *model.sampling.others):
        sampling = model.sampling.at(len(path))
        states = walk(dataclasses.replace(model, sampling=sampling), noise, given)[:-1]
        visited += list(states)
        times += path
        counts += [len(path)] * len(path)
    steps = len(visited)
    random = generator(context.seed, 2)
    step = torch.arange(config.evaluations) % steps
    item = torch.randint(config.samples, (config.evaluations,), generator=random)
    order = torch.randperm(config.evaluations, generator=random)
    step, item = step[order], item[order]
    sample = torch.stack(visited)[step, item]
    timestep = torch.tensor(times)[step].to(device)
    chosen = {name: value[item.to(device)] for name, value in given.items()}
    if STEPS in model.inputs:
        chosen[STEPS] = torch.tensor(counts)[step].float().to(device)
    if model.sampling.guidance.kind == "cfg":
        null = null_conditions(model, chosen)
        chosen = {name: torch.cat([value[::2], null[name][1::2]]) for name, value in chosen.items()}
        sample, timestep = torch.cat([sample[::2], sample[1::2]]), torch.cat([timestep[::2], timestep[1::2]])
    return [sample, timestep, *(chosen[name] for name in model.inputs)]

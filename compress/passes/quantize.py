"""Quantize weights and arithmetic: int8 by static calibration, or fp16.

int8 is calibrated on what the model will see: samples on their way from noise to image, at the model's
own timesteps and guidance, every label as often as any other, with and without the condition.
Weights are int8 per output channel and symmetric, of 7 bits so that sums are exact on every processor; activations
uint8 per tensor. With `qat` the float weights are trained first, under the same rounding, to answer as before.
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from compress import training
from compress.contract import Context, PassConfig, PassResult
from compress.data import HELD_OUT, Batch, generator
from compress.models import quantized
from compress.models.denoiser import Denoiser, QuantizedDenoiser, null_conditions, predict, walk
from compress.models.edits import LowRank
from compress.models.reference import conditions_for, noise_like
from compress.models.scalars import GUIDANCE_SCALE, STEPS

BATCH = 50
QAT_KEY = 14  # of the noise that weights are trained on: no other draw begins with the same


class Qat(training.TrainingConfig):
    """Settings of training under quantization."""

    steps: int = Field(200, ge=1, description="optimizer steps")
    batch_size: int = Field(32, ge=1, description="points on trajectories a step")
    learning_rate: float = Field(1e-4, gt=0, description="peak learning rate of AdamW; decays to 0 by a cosine")
    ema: float = Field(0.98, ge=0, lt=1, description="decay of the weight average, which is the result; 0: none")
    samples: int = Field(400, ge=1, description="images on whose trajectories it trains")
    evaluations: int = Field(4000, ge=10, description="points on those trajectories, drawn once")


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
    qat: Qat | None = Field(
        None, description="train the weights under int8 rounding to answer as the float model does, then calibrate"
    )

    @model_validator(mode="after")
    def _scheme(self) -> "Config":
        if self.qat is not None and self.scheme != "int8":
            raise ValueError(f"qat: trains for int8; leave it away for scheme: {self.scheme}")
        return self


class RoundedImitation(nn.Module):
    """The objective of `qat`: the float model's answers, given under int8 rounding.

    Loss: squared error ÷ the float answers' own square, at points of the float model's trajectories.
    """

    average = None

    def __init__(
        self, student: Denoiser, rounded: QuantizedDenoiser, points: list[torch.Tensor], answers: torch.Tensor
    ) -> None:
        super().__init__()
        self.net = student.module
        self.rounded = (rounded.module,)  # the same weights; an exported graph refuses to be put in training mode
        self.points, self.answers = points, answers
        self.trained = len(answers) - int(HELD_OUT * len(answers))

    def forward(self, batch: Batch, random: torch.Generator) -> Mapping[str, torch.Tensor]:
        """The loss at points drawn at random, as many as the batch has images."""
        start, end = (0, self.trained) if self.training else (self.trained, len(self.answers))
        which = torch.randint(start, end, (len(batch.images),), generator=random).to(self.answers.device)
        wanted = self.answers[which]
        parts = zip(*(value[which].split(BATCH) for value in self.points), strict=True)  # a graph takes at most 63
        found = torch.cat([self.rounded[0](*part) for part in parts])
        return {"output": (found - wanted).square().mean() / wanted.square().mean()}


def run(model: Denoiser, config: Config, context: Context) -> PassResult[QuantizedDenoiser]:
    """Calibrate if need be, and quantize."""
    if config.scheme == "fp16":
        return PassResult(quantized.rebuild(model, "fp16", {}), changed=True, notes={"scheme": "fp16"})
    points = trajectory_points(model, config.samples, config.evaluations, context)
    if config.qat is None:
        return calibrated(model, config, context, points)
    trained, notes = _trained(model, config, config.qat, context, points)
    result = calibrated(trained, config, context, points)
    return dataclasses.replace(result, notes={**result.notes, "qat": notes})


def calibrated(
    model: Denoiser, config: Config, context: Context, points: list[torch.Tensor]
) -> PassResult[QuantizedDenoiser]:
    """Quantize to int8 with the ranges met at `points`: (sample, timestep, *inputs), each [evaluations, ...]."""
    float_layers = (*config.float_layers, *_narrow_attention(model, config.least_attention_width))
    observed = _observed(model, float_layers, config, context, points)
    with context.progress(f"{context.name}: converting", 2) as task:
        ranges = quantized.ranges(observed)
        task.advance()
        result = quantized.rebuild(model, "int8", ranges, float_layers)
        task.advance()
    notes = {"scheme": "int8", "observers": len(ranges), "float_layers": list(float_layers)}
    return PassResult(result, changed=True, notes=notes)


def _observed(
    model: Denoiser, float_layers: tuple[str, ...], config: Config, context: Context, points: list[torch.Tensor]
) -> QuantizedDenoiser:
    """The model with observers that have met `points`."""
    with context.progress(f"{context.name}: preparing", 1) as task:
        observed = quantized.observed(model, float_layers, config.observer == "histogram")
        task.advance()
    with context.progress(f"{context.name}: calibration", len(points[0])) as task, torch.no_grad():
        for start in range(0, len(points[0]), BATCH):
            sample, timestep, *conditions = (value[start : start + BATCH] for value in points)
            predict(observed, sample, timestep, dict(zip(model.inputs, conditions, strict=True)))
            task.advance(len(sample))
    return observed


def _trained(
    model: Denoiser, config: Config, qat: Qat, context: Context, points: list[torch.Tensor]
) -> tuple[Denoiser, dict[str, Any]]:
    """(a copy of the model whose weights were trained under rounding, figures for the record)."""
    student = dataclasses.replace(model, net=copy.deepcopy(model.net).requires_grad_(True))
    float_layers = (*config.float_layers, *_narrow_attention(model, config.least_attention_width))
    rounded = quantized.fake_quantized(_observed(student, float_layers, config, context, points))
    others = trajectory_points(model, qat.samples, qat.evaluations, context, QAT_KEY)
    answers = []
    with context.progress(f"{context.name}: the float model's answers", len(others[0])) as task, torch.no_grad():
        for part in zip(*(value.split(BATCH) for value in others), strict=True):
            answers.append(model.module(*part))
            task.advance(len(part[0]))
    objective = RoundedImitation(student, rounded, others, torch.cat(answers))
    notes = training.train(objective, student.net, qat, context, context.training_data())
    student.net.requires_grad_(False).eval()
    return student, notes


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


def trajectory_points(
    model: Denoiser, samples: int, evaluations: int, context: Context, key: int = 1
) -> list[torch.Tensor]:
    """(sample, timestep, *inputs), each [evaluations, ...]: where the model will be evaluated. key: of the noise.

    Timesteps in equal numbers, of every number of steps that the model serves; half of them with the null condition
    where guidance takes one; guidance scales that are an input over their whole range.
    """
    device = model.device
    noise = noise_like(model, samples, context.seed, key).to(device)
    given = conditions_for(model, samples, context.dataset, context.seed)
    if GUIDANCE_SCALE in model.inputs:
        given[GUIDANCE_SCALE] = torch.linspace(*(model.sampling.guidance.scales or (1.0, 1.0)), samples)
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
    step = torch.arange(evaluations) % steps
    item = torch.randint(samples, (evaluations,), generator=random)
    order = torch.randperm(evaluations, generator=random)
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

"""Quantize weights and arithmetic: int8 by static calibration, int8 where it pays (auto), weights alone, or fp16.

int8 is calibrated on what the model will see: samples on their way from noise to image, at the model's
own timesteps and guidance, every label as often as any other, with and without the condition.
Weights are int8 per output channel and symmetric, of 7 bits so that sums are exact on every processor; activations
uint8 per tensor. With `rounding: gptq` each weight is rounded up or down so that its layer's outputs change least; with
`qat` the float weights are trained first, under rounding, to answer as before.

`auto` measures on this machine: how much longer each layer takes in float than in int8 in onnxruntime, and how much
error its rounding adds to the output. The cheapest choice of int8 layers within `least_sqnr` is kept, if the whole net
is then faster than in float; else all of it stays float. Ends of the net stay float as ever.
"""

import copy
import dataclasses
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from compress import training
from compress.contract import Context, PassConfig, PassResult
from compress.data import HELD_OUT, Batch, Dataset
from compress.errors import PassError
from compress.judge.quality import sqnr
from compress.measure import kernels, latency
from compress.model.denoiser import Denoiser, Quantized, null_conditions, predict, walk
from compress.model.reference import conditions_for, noise_like
from compress.model.scalars import GUIDANCE_SCALE, STEPS
from compress.quantization import four_bits, quantized, rounding
from compress.quantization.assignment import left_in_float
from compress.randomness import Draw, generator
from compress.runtime.schemes import SCHEMES
from compress.settings import Many

BATCH = 50
PROBE = 20  # points at which the error of one layer's rounding is measured


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

    scheme: Literal["int8", "auto", "int8_weights", "int4_weights", "fp16"] = Field(
        "int8",
        description="auto: int8 for those layers alone for which it pays, measured here; "
        + "; ".join(f"{name}: {row.purpose}" for name, row in SCHEMES.items() if name != "float"),
    )
    samples: int = Field(40, ge=1, description="images drawn for calibration")
    evaluations: int = Field(400, ge=1, description="points on their trajectories from which ranges are read")
    observer: Literal["mse", "minmax"] = Field(
        "mse", description="ranges of activations. mse: of least squared error; minmax: no value is clipped"
    )
    rounding: Literal["nearest", "gptq"] = Field(
        "nearest",
        description="of weights. nearest: each to its nearest level; gptq: up or down, so that what a layer computes "
        "on the calibration's images changes least (GPTQ); takes a minute or two more",
    )
    float_layers: Many[str] | None = Field(
        None, description="layers that stay float, as globs; default: the first and the last of the net"
    )
    least_attention_width: int = Field(0, ge=0, description="attention with fewer input channels stays float")
    least_sqnr: float = Field(
        30.0, description="for auto: signal to rounding noise of the output that is kept, in dB over the own timesteps"
    )
    batch: int = Field(1, ge=1, le=64, description="for auto: images at a time on the device; layers are timed so")
    qat: Qat | None = Field(
        None, description="train the weights under int8 rounding to answer as the float model does, then calibrate"
    )

    @model_validator(mode="after")
    def _scheme(self) -> "Config":
        if self.qat is not None and self.scheme != "int8":
            raise ValueError(f"qat: trains for int8; leave it away for scheme: {self.scheme}")
        if self.rounding != "nearest" and (self.scheme == "fp16" or self.qat is not None):
            with_what = "scheme: fp16" if self.scheme == "fp16" else "qat, which trains weights for the nearest level"
            raise ValueError(f"rounding: {self.rounding}: leave it away with {with_what}")
        for name in ("least_sqnr", "batch"):
            if name in self.model_fields_set and self.scheme != "auto":
                raise ValueError(f"{name}: only for scheme: auto")
        return self


class RoundedImitation(nn.Module):
    """The objective of `qat`: the float model's answers, given under int8 rounding.

    Loss: squared error ÷ the float answers' own square, at points of the float model's trajectories.
    """

    average = None

    def __init__(
        self, student: Denoiser, rounded: Quantized, points: list[torch.Tensor], answers: torch.Tensor
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


def run(model: Denoiser, config: Config, context: Context) -> PassResult[Quantized]:
    """Calibrate if need be, and quantize."""
    if config.scheme != "auto" and SCHEMES[config.scheme].weight_bits is None:
        return PassResult(quantized.rebuild(model, config.scheme, {}), changed=True, notes={"scheme": config.scheme})
    if config.scheme == "int4_weights" and not four_bits.layers(model, _float_layers(model, config)):
        raise PassError(
            f"{context.name}: scheme: int4_weights: the model has no transformer whose linear layers take a multiple "
            f"of {four_bits.BLOCK} inputs; use int8_weights"
        )
    calibrates = config.scheme in ("int8", "auto") or config.rounding == "gptq"
    points = trajectory_points(model, config.samples, config.evaluations, context) if calibrates else []
    if config.qat is None:
        return quantized_at(model, config, context, points)
    trained, notes = _trained(model, config, config.qat, context, points)
    result = calibrated(trained, config, context, points)
    return dataclasses.replace(result, notes={**result.notes, "qat": notes})


def quantized_at(
    model: Denoiser, config: Config, context: Context, points: list[torch.Tensor]
) -> PassResult[Quantized]:
    """Quantize as `config` says, `qat` apart, by what is met at `points`: (sample, timestep, *inputs).

    No points: for weights alone that are rounded to the nearest level.
    """
    if config.scheme == "auto":
        return assigned(model, config, context, points)
    if SCHEMES[config.scheme].activation_bits is not None:
        return calibrated(model, config, context, points)
    float_layers = _float_layers(model, config)
    ranges = quantized.weights_ranges(model, config.scheme, float_layers)
    if config.rounding == "gptq":
        model = _on_grids(model, config.scheme, float_layers, context, points)
    rounded = quantized.rebuild(model, config.scheme, ranges, float_layers)
    notes = {"scheme": config.scheme, "observers": len(ranges), "rounding": config.rounding}
    return PassResult(rounded, changed=True, notes=notes)


def calibrated(model: Denoiser, config: Config, context: Context, points: list[torch.Tensor]) -> PassResult[Quantized]:
    """Quantize to int8 with the ranges met at `points`: (sample, timestep, *inputs), each [evaluations, ...]."""
    float_layers = _float_layers(model, config)
    observed = _observed(model, float_layers, config, context, points)
    if config.rounding == "gptq":
        model = _on_grids(model, "int8", float_layers, context, points)
    with context.progress(f"{context.name}: converting", 2) as task:
        ranges = quantized.ranges(observed.module)
        task.advance()
        result = quantized.rebuild(model, "int8", ranges, float_layers)
        task.advance()
    notes = {"scheme": "int8", "observers": len(ranges), "rounding": config.rounding, "float_layers": [*float_layers]}
    return PassResult(result, changed=True, notes=notes)


def _observed(
    model: Denoiser, float_layers: tuple[str, ...], config: Config, context: Context, points: list[torch.Tensor]
) -> Quantized:
    """The model with observers that have met `points`."""
    with context.progress(f"{context.name}: preparing", 1) as task:
        observed = quantized.observed(model, float_layers, config.observer != "minmax")
        task.advance()
    with context.progress(f"{context.name}: calibration", len(points[0])) as task, torch.no_grad():
        for start in range(0, len(points[0]), BATCH):
            sample, timestep, *conditions = (value[start : start + BATCH] for value in points)
            predict(observed, sample, timestep, dict(zip(model.inputs, conditions, strict=True)))
            task.advance(len(sample))
    return observed


def _on_grids(
    model: Denoiser, scheme: str, float_layers: tuple[str, ...], context: Context, points: list[torch.Tensor]
) -> Denoiser:
    """A copy of the model with its weights on the grids of the scheme, by what its layers are fed at `points`."""
    grids = quantized.grids(model, scheme, float_layers)
    random = generator(context.seed, Draw.GPTQ)
    with context.progress(f"{context.name}: rounding weights", len(grids)) as task:
        return rounding.on_grids(model, grids, lambda: _answers(model, points), random, task.advance)


def _trained(
    model: Denoiser, config: Config, qat: Qat, context: Context, points: list[torch.Tensor]
) -> tuple[Denoiser, dict[str, Any]]:
    """(a copy of the model whose weights were trained under rounding, figures for the record)."""
    student = dataclasses.replace(model, net=copy.deepcopy(model.net).requires_grad_(True))
    float_layers = _float_layers(model, config)
    rounded = quantized.fake_quantized(_observed(student, float_layers, config, context, points))
    others = trajectory_points(model, qat.samples, qat.evaluations, context, Draw.QAT)
    with context.progress(f"{context.name}: the float model's answers", 1) as task:
        wanted = _answers(model, others)
        task.advance()
    objective = RoundedImitation(student, rounded, others, wanted)
    notes = training.train(objective, student.net, qat, context, Dataset(wanted, {}))  # no images are needed
    student.net.requires_grad_(False).eval()
    return student, notes


def assigned(model: Denoiser, config: Config, context: Context, points: list[torch.Tensor]) -> PassResult[Quantized]:
    """int8 where it is faster and within the margin, by measurement."""
    observed = _observed(model, _float_layers(model, config), config, context, points)
    layers = quantized.int8_layers(observed)
    units = _units(model, layers)
    rounded = quantized.fake_quantized(observed)
    place = torch.arange(PROBE) * len(points[0]) // PROBE
    probe = [value[place] for value in points]  # few, for the layers one by one; all points for what is chosen
    wanted = {len(given[0]): _answers(model, given) for given in (probe, points)}

    def error(chosen: Sequence[str], given: list[torch.Tensor] = points) -> float:
        """Relative squared error of the output with these units alone in int8."""
        active = {name for unit in chosen for path in units[unit] for name in layers[path]}
        for name in {name for names in layers.values() for name in names}:
            rounding = rounded.module.get_submodule(name)
            assert isinstance(rounding, quantized.FakeQuantize)
            rounding.active = name in active
        answer = wanted[len(given[0])]
        return float((_answers(rounded, given) - answer).square().sum() / answer.square().sum())

    errors = {}
    with context.progress(f"{context.name}: sensitivity of layers", len(units)) as task:
        for unit in units:
            errors[unit] = error([unit], probe)
            task.advance()
    batch = config.batch * (2 if model.sampling.guidance.kind == "cfg" else 1)
    times = kernels.layer_times(model, list(layers), batch, context.progress, f"{context.name}: layers")
    gains = {unit: sum(times[path].gain for path in paths) for unit, paths in units.items()}
    reasons = left_in_float(errors, gains, 10 ** (-config.least_sqnr / 10), error)
    mixed = config.model_copy(update={"float_layers": (*_float_layers(model, config), *reasons)})
    result = calibrated(model, mixed, context, points)
    with tempfile.TemporaryDirectory() as folder:
        both: dict[str, Denoiser] = {"float": model, "mixed": result.model}
        whole = kernels.whole_times(both, Path(folder), batch, context.progress, f"{context.name}: the whole net")
    faster, ends = latency.speedup(whole["float"], whole["mixed"])
    if faster <= 1:
        context.log(f"{context.name}: no layer is int8: the net is no faster with it here ({faster:.2f}×)")
        reasons = {unit: "the whole net is not faster with int8" for unit in units}
        result = dataclasses.replace(result, model=quantized.rebuild(model, "int8", {}, ("*",)))
    notes: dict[str, Any] = {
        "scheme": "auto",
        "int8_layers": sum(len(units[unit]) for unit in units if unit not in reasons),
        "speedup": [faster, *ends],
        "sqnr_db": _sqnr_by_timestep(model, result.model, points),
        "layers": {
            unit: {
                "arithmetic": "float" if unit in reasons else "int8",
                "reason": reasons.get(unit, "faster and within the margin"),
                "float_ms": sum(times[path].float_ms for path in paths),
                "int8_ms": sum(times[path].int8_ms for path in paths),
                "error_alone": errors[unit],
            }
            for unit, paths in units.items()
        },
    }
    return dataclasses.replace(result, notes=notes)


def _units(model: Denoiser, layers: Iterable[str]) -> dict[str, list[str]]:
    """Paths of the layers that are float or int8 together: those of an attention; every other one by itself."""
    attentions = quantized.attentions(model)
    found: dict[str, list[str]] = {}
    for path in layers:
        unit = next((pattern for pattern in attentions if quantized.matches(path, (pattern,))), path)
        found.setdefault(unit, []).append(path)
    return found


@torch.no_grad()
def _answers(model: Denoiser, points: list[torch.Tensor]) -> torch.Tensor:
    """Outputs [n,c,h,w] at points, in batches that an exported graph takes."""
    return torch.cat([model.module(*part) for part in zip(*(value.split(BATCH) for value in points), strict=True)])


def _sqnr_by_timestep(model: Denoiser, result: Quantized, points: list[torch.Tensor]) -> dict[str, float]:
    """SQNR in dB of the output at each timestep, and over all."""
    wanted, got = (_answers(each, points).cpu().numpy() for each in (model, result))
    times = points[1].cpu().numpy()
    own = sorted(set(times.tolist()), reverse=True)
    return {"all": sqnr(wanted, got), **{str(t): sqnr(wanted[times == t], got[times == t]) for t in own}}


def _float_layers(model: Denoiser, config: Config) -> tuple[str, ...]:
    """Patterns of the layers that stay float in any case: those that the recipe names, or else the family."""
    named = model.family.layers.ends if config.float_layers is None else config.float_layers
    widths = quantized.attentions(model).items()
    narrow = (pattern for pattern, width in widths if width < config.least_attention_width)
    return tuple(dict.fromkeys((*named, *narrow)))


def trajectory_points(
    model: Denoiser, samples: int, evaluations: int, context: Context, draw: Draw = Draw.CALIBRATION
) -> list[torch.Tensor]:
    """(sample, timestep, *inputs), each [evaluations, ...]: where the model will be evaluated. draw: of the noise.

    Timesteps in equal numbers, of every number of steps that the model serves; half of them with the null condition
    where guidance takes one; guidance scales that are an input over their whole range.
    """
    device = model.device
    noise = noise_like(model, samples, context.seed, draw).to(device)
    given = conditions_for(model, samples, context.dataset, context.seed)
    if GUIDANCE_SCALE in model.inputs:
        given[GUIDANCE_SCALE] = torch.linspace(*(model.sampling.guidance.scales or (1.0, 1.0)), samples)
    given = {name: value.to(device) for name, value in given.items()}
    visited: list[torch.Tensor] = []
    times: list[float] = []
    counts: list[int] = []
    for path in (model.sampling.timesteps, *model.sampling.others):
        sampling = model.sampling.at(len(path))
        states = walk(dataclasses.replace(model, sampling=sampling), noise, given)[:-1]
        visited += list(states)
        times += path
        counts += [len(path)] * len(path)
    steps = len(visited)
    random = generator(context.seed, Draw.POINTS, draw)
    step = torch.arange(evaluations) % steps
    item = torch.randint(samples, (evaluations,), generator=random)
    order = torch.randperm(evaluations, generator=random)
    step, item = step[order], item[order]
    sample = torch.stack(visited)[step, item]
    timestep = model.sampling.told(torch.tensor(times))[step].to(device)
    chosen = {name: value[item.to(device)] for name, value in given.items()}
    if STEPS in model.inputs:
        chosen[STEPS] = torch.tensor(counts)[step].float().to(device)
    if model.sampling.guidance.kind == "cfg":
        null = null_conditions(model, chosen)
        chosen = {name: torch.cat([value[::2], null[name][1::2]]) for name, value in chosen.items()}
        sample, timestep = torch.cat([sample[::2], sample[1::2]]), torch.cat([timestep[::2], timestep[1::2]])
    return [sample, timestep, *(chosen[name] for name in model.inputs)]

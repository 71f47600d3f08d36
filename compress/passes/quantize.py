"""Quantize weights and arithmetic: int8 by static calibration, int8 where it pays (auto), weights alone, or fp16.

int8 is calibrated on what the model will see: samples on their way from noise to image, at the model's
own timesteps and guidance, every label as often as any other, with and without the condition.
Weights are int8 per output channel and symmetric, of 7 bits so that sums are exact on every processor; activations
uint8 per tensor. `qat` and `rounding: gptq` change the weights first, so that less is lost.

`auto` measures on this machine: how much longer each layer takes in float than in int8 in onnxruntime, and how much
error its rounding adds to the output. The cheapest choice of int8 layers within `least_sqnr` is kept, if the whole net
is then faster than in float; else all of it stays float. Ends of the net stay float as ever.
"""

import copy
import dataclasses
import tempfile
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from compress import training
from compress.contract import Context, PassConfig, PassResult
from compress.data import Dataset
from compress.errors import PassError
from compress.judge.quality import sqnr_by_timestep
from compress.measure import kernels, latency
from compress.model.denoiser import Denoiser, Quantized, example_inputs
from compress.quantization import four_bits, half, quantized, quantizer, rounding
from compress.quantization.calibration import answers, trajectory_points
from compress.quantization.rounded_imitation import RoundedImitation
from compress.quantization.sensitivity import Sensitivity, left_in_float
from compress.randomness import Draw, generator
from compress.runtime.schemes import SCHEMES
from compress.settings import Many

AUTO = "auto"
NAMES = (AUTO, *(name for name, row in SCHEMES.items() if name != "float" and not row.whole_graph))


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

    scheme: Literal[NAMES] = Field(  # type: ignore[valid-type]
        "int8",
        description="auto: int8 for those layers alone for which it pays, measured here; "
        + "; ".join(f"{name}: {SCHEMES[name].purpose}" for name in NAMES if name != AUTO),
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
        unrounded = self.scheme != AUTO and SCHEMES[self.scheme].weight_bits is None
        if self.rounding != "nearest" and (unrounded or self.qat is not None):
            with_what = f"scheme: {self.scheme}" if unrounded else "qat, which trains weights for the nearest level"
            raise ValueError(f"rounding: {self.rounding}: leave it away with {with_what}")
        for name in ("least_sqnr", "batch"):
            if name in self.model_fields_set and self.scheme != AUTO:
                raise ValueError(f"{name}: only for scheme: auto")
        return self


def run(model: Denoiser, config: Config, context: Context) -> PassResult[Quantized]:
    """Quantize by what is met on the model's own way from noise to image."""
    known = config.scheme != AUTO and SCHEMES[config.scheme].weights_alone and config.rounding == "nearest"
    return quantized_at(model, config, context, [] if known else _points(model, config, context))


def quantized_at(
    model: Denoiser, config: Config, context: Context, points: list[torch.Tensor]
) -> PassResult[Quantized]:
    """Quantize as `config` says, by what is met at `points`: (sample, timestep, *inputs), each [evaluations, ...].

    No points: for weights alone that are rounded to the nearest level.
    """
    scheme = "int8" if config.scheme == AUTO else config.scheme
    if SCHEMES[scheme].weight_bits is None:
        return _Work(scheme, tuple(config.float_layers or ()), config, context, points).in_half(model)
    float_layers = quantizer.float_layers(model, config.float_layers, config.least_attention_width)
    if SCHEMES[scheme].four_bits and not four_bits.layers(model, float_layers):
        raise PassError(
            f"{context.name}: scheme: {scheme}: the model has no transformer whose linear layers take a multiple "
            f"of {four_bits.BLOCK} inputs; use int8_weights"
        )
    work = _Work(scheme, float_layers, config, context, points)
    ranges = work.observed(model)
    trial: Sensitivity | None = None
    if config.scheme == AUTO:
        trial, rows = work.tried(model, ranges)
        floats = (unit for unit, row in rows.items() if row["arithmetic"] == "float")
        work = dataclasses.replace(work, float_layers=(*float_layers, *floats))
        ranges = work.observed(model)
    trained = {}
    if config.qat is not None:
        model, trained["qat"] = work.trained(model, ranges, config.qat)
        ranges = work.observed(model)
    result = work.rebuilt(work.rounded(model) if config.rounding == "gptq" else model, ranges)
    if trial is not None:
        return work.if_faster(model, result, trial, rows)
    notes = {"scheme": scheme, "observers": len(ranges), "rounding": config.rounding, "float_layers": [*float_layers]}
    return PassResult(result, changed=True, notes=notes | trained)


@dataclasses.dataclass(frozen=True)
class _Work:
    """The steps of the pass, each from a model and the ranges that were met to what comes of them."""

    scheme: str
    float_layers: tuple[str, ...]
    config: Config
    context: Context
    points: list[torch.Tensor]

    def observed(self, model: Denoiser) -> dict[str, torch.Tensor]:
        """The range of every observer at the points; of weights, for which any will do."""
        with self._progress("preparing", 1) as task:
            observed = quantized.observed(model, self.scheme, self.float_layers, self.config.observer == "mse")
            task.advance()
        given = self.points if SCHEMES[self.scheme].activation_bits is not None else example_inputs(model, batch=2)
        with self._progress("calibration", len(given[0])) as task:
            answers(observed, given, task.advance)
        return quantized.ranges(observed.module)

    def in_half(self, model: Denoiser) -> PassResult[Quantized]:
        """The model in float16, but for layers that meet values beyond it."""
        with self._progress("looking for values beyond float16", len(self.points[0])) as task:
            result, found = quantized.in_half(model, self.points, self.float_layers, task.advance)
        if found:
            self.context.log(f"{self.context.name}: {half.stay_float(found)}")
        notes = {"scheme": self.scheme, "float_layers": [*self.float_layers, *found], "beyond_float16": found}
        return PassResult(result, changed=True, notes=notes)

    def rebuilt(self, model: Denoiser, ranges: quantized.Ranges) -> Quantized:
        """The model in the arithmetic of the scheme."""
        with self._progress("converting", 1):
            return quantized.rebuild(model, self.scheme, ranges, self.float_layers)

    def rounded(self, model: Denoiser) -> Denoiser:
        """A copy of the model with its weights on the grids of the scheme, by what its layers are fed at the points."""
        grids = quantized.grids(model, self.scheme, self.float_layers)
        random = generator(self.context.seed, Draw.GPTQ)
        with self._progress("rounding weights", len(grids)) as task:
            return rounding.on_grids(model, grids, lambda: answers(model, self.points), random, task.advance)

    def trained(self, model: Denoiser, ranges: quantized.Ranges, qat: Qat) -> tuple[Denoiser, dict[str, Any]]:
        """(a copy of the model whose weights were trained under rounding, figures for the record)."""
        student = dataclasses.replace(model, net=copy.deepcopy(model.net).requires_grad_(True))
        rounded = quantized.fake_quantized(student, self.scheme, ranges, self.float_layers)
        points = _points(model, qat, self.context, draw=Draw.QAT)
        with self._progress("the float model's answers", len(points[0])) as task:
            wanted = answers(model, points, task.advance)
        objective = RoundedImitation(student, rounded, points, wanted)
        notes = training.train(objective, student.net, qat, self.context, Dataset(wanted, {}))  # no images are needed
        student.net.requires_grad_(False).eval()
        return student, notes

    def tried(self, model: Denoiser, ranges: quantized.Ranges) -> tuple[Sensitivity, dict[str, dict[str, Any]]]:
        """What int8 saves and spoils, measured unit by unit: arithmetic, reason and figures of each."""
        rounded = quantized.fake_quantized(model, self.scheme, ranges, self.float_layers)
        trial, errors = Sensitivity(model, rounded, self.points), {}
        with self._progress("sensitivity of layers", len(trial.units)) as task:
            for unit in trial.units:
                errors[unit] = trial.alone(unit)
                task.advance()
        title = f"{self.context.name}: layers"
        times = kernels.layer_times(model, list(trial.layers), self._items(model), self.context.progress, title)
        pairs = {unit: [times[path] for path in paths] for unit, paths in trial.units.items()}
        gains = {unit: sum(pair.gain for pair in found) for unit, found in pairs.items()}
        reasons = left_in_float(errors, gains, 10 ** (-self.config.least_sqnr / 10), trial.together)
        rows = {
            unit: {
                "arithmetic": "float" if unit in reasons else "int8",
                "reason": reasons.get(unit, "faster and within the margin"),
                "float_ms": sum(pair.float_ms for pair in found),
                "int8_ms": sum(pair.int8_ms for pair in found),
                "error_alone": errors[unit],
            }
            for unit, found in pairs.items()
        }
        return trial, rows

    def if_faster(
        self, model: Denoiser, result: Quantized, trial: Sensitivity, rows: dict[str, dict[str, Any]]
    ) -> PassResult[Quantized]:
        """The result if the whole net is faster so; else the model in float."""
        name, both = self.context.name, {"float": model, "mixed": result}
        with tempfile.TemporaryDirectory() as folder:
            title = f"{name}: the whole net"
            whole = kernels.whole_times(both, Path(folder), self._items(model), self.context.progress, title)
        faster, ends = latency.speedup(whole["float"], whole["mixed"])
        if faster <= 1:
            self.context.log(f"{name}: no layer is int8: the net is no faster with it here ({faster:.2f}×)")
            slower = {"arithmetic": "float", "reason": "the whole net is not faster with int8"}
            rows = {unit: row | slower for unit, row in rows.items()}
            result = quantized.rebuild(model, self.scheme, {}, ("*",))
        (points, wanted), got = trial.all, answers(result, trial.all[0])
        notes = {
            "scheme": AUTO,
            "int8_layers": sum(len(trial.units[unit]) for unit, row in rows.items() if row["arithmetic"] == "int8"),
            "speedup": [faster, *ends],
            "sqnr_db": sqnr_by_timestep(points[1].cpu().numpy(), wanted.cpu().numpy(), got.cpu().numpy()),
            "layers": rows,
        }
        return PassResult(result, changed=True, notes=notes)

    def _items(self, model: Denoiser) -> int:
        """Samples in one evaluation on the device."""
        return self.config.batch * (2 if model.sampling.guidance.kind == "cfg" else 1)

    def _progress(self, title: str, total: int) -> Any:
        return self.context.progress(f"{self.context.name}: {title}", total)


def _points(model: Denoiser, config: Config | Qat, context: Context, **draw: Draw) -> list[torch.Tensor]:
    return trajectory_points(model, config.samples, config.evaluations, context.seed, context.dataset, **draw)

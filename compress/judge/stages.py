"""What every pass of a recipe cost in quality, and gained in time and bytes."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from compress.judge import probe
from compress.judge.quality import sqnr
from compress.measure import counts, latency
from compress.model.denoiser import Denoiser, example_inputs, predict
from compress.model.reference import Progress
from compress.report.figure import against
from compress.report.parts import Figure, Quantization, Stage
from compress.report.statistics import bootstrap, interval
from compress.runtime import Bundle
from compress.runtime.schemes import SCHEMES

ROUNDS = 10  # of timing: what is shown is a median


@dataclass(frozen=True)
class Measured:
    """A model on its way through the recipe. name: of the pass that gave it; kind: what pass that is.

    answer: what it says to the probe.
    """

    name: str
    kind: str
    model: Denoiser | Bundle
    answer: probe.Answer


def table(models: Sequence[Measured], progress: Progress) -> tuple[Stage, ...]:
    """A row for every model, the teacher first: size, arithmetic, time, and error on the probe against the teacher.

    Models of other timesteps than the probe's, or of guidance of their own, are asked at the probe's timesteps. Where
    steps were distilled there is no error: one evaluation does the work of several of the teacher's. A model in
    simulated arithmetic has no time: what it takes says nothing of the kernels.
    """
    calls = {str(i): call for i, entry in enumerate(models) if (call := _call(entry.model)) is not None}
    with torch.no_grad():
        taken = latency.interleaved(calls, ROUNDS, progress, "timing what each pass gained")
    return tuple(
        Stage(
            name=entry.name,
            kind=entry.kind,
            **_size(entry.model),
            ms_per_call=float(np.median(taken[str(i)])) / _items(entry.model) if str(i) in taken else None,
            output_error=None if distilled(entry.model) else float(entry.answer.curve(rounds=2)[0].mean()),
            sqnr_db=None if distilled(entry.model) else entry.answer.sqnr(),
        )
        for i, entry in enumerate(models)
    )


def quantized(models: Sequence[Measured]) -> tuple[Quantization, Figure] | None:
    """(SQNR of simulated and of real kernels against the float student, kernel_loss); None: nothing was quantized.

    Outputs of the two are not compared with each other: roundings decorrelate in a deep net.
    """
    simulated = next((entry for entry in models if isinstance(entry.model, Denoiser) and entry.model.precision), None)
    shipped = next((entry for entry in models if isinstance(entry.model, Bundle)), None)
    if simulated is None or shipped is None:
        return None
    assert isinstance(simulated.model, Denoiser)
    whole = probe.answer(shipped.answer.probe, probe.of_model(simulated.model.in_float())).guided
    fake, real = simulated.answer.guided, shipped.answer.guided
    found = Quantization(simulated_sqnr_db=sqnr(whole, fake), kernels_sqnr_db=sqnr(whole, real))
    return found, kernel_loss(whole, fake, real)


def kernel_loss(whole: np.ndarray, simulated: np.ndarray, shipped: np.ndarray) -> Figure:
    """By how many dB the shipped kernels are less exact than simulated ones, on outputs [timesteps,b,c,h,w].

    Both against the float student's outputs `whole`; 0 for a faithful export.
    """
    axes = (0, *range(2, whole.ndim))
    errors = np.stack([np.square(x - whole).sum(axes) for x in (simulated, shipped)], axis=1).astype(np.float64)

    def loss(i: np.ndarray) -> float:
        fake, real = np.maximum(errors[i].sum(axis=0), 1e-30)
        return float(10 * np.log10(real / fake))

    value, ends = loss(np.arange(len(errors))), interval(bootstrap(loss, len(errors), rounds=probe.ROUNDS))
    return against(value, "less", ends, len(errors), 0.0, (ends[1] - ends[0]) / 2)


def distilled(model: Denoiser | Bundle) -> bool:
    """Whether an evaluation of it is none of the teacher's, because its steps were distilled."""
    if isinstance(model, Bundle):
        return bool(model.manifest["sampling"].get("distilled", False))
    return model.sampling.distilled


def _items(model: object) -> int:
    return (model.batch or 1) if isinstance(model, Bundle) else 1


def _call(model: Denoiser | Bundle) -> Callable[[], object] | None:
    """One evaluation, without guidance."""
    if isinstance(model, Bundle):
        noise, given = model.example(_items(model))
        return functools.partial(model.denoise, noise, model.steps[0].timestep, given)
    if model.precision:
        return None
    sample, times, *conditions = example_inputs(model, 1)
    return functools.partial(predict, model, sample, times, dict(zip(model.inputs, conditions, strict=True)))


def _size(model: Denoiser | Bundle) -> dict[str, Any]:
    if isinstance(model, Bundle):
        manifest = model.manifest
        found = {name: manifest[name] for name in ("params", "macs", "scheme")}
        return {**found, "bytes": model.size_bytes, "engine": "onnxruntime"}
    params, scheme = counts.parameters(model), model.scheme
    found = {"params": params, "macs": counts.macs(model), "scheme": scheme}
    return {**found, "bytes": params * SCHEMES[scheme].bytes, "engine": "PyTorch"}

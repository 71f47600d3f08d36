"""What every pass of a recipe cost in quality, and gained in time and bytes."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from compress.judge import probe
from compress.measure import counts, latency
from compress.model.denoiser import Denoiser, example_inputs, predict
from compress.model.reference import Progress
from compress.report.figure import against
from compress.report.parts import Figure, Stage
from compress.report.statistics import bootstrap, interval
from compress.runtime import Bundle
from compress.runtime.schemes import SCHEMES

ROUNDS = 10  # of timing: what is shown is a median


@dataclass(frozen=True)
class Measured:
    """What a pass gave. about: a row's name, kind, scheme, engine and sizes. call: one evaluation, without guidance, of
    `items` samples; None: in simulated arithmetic, whose time says nothing of the kernels. answer: to the probe, where
    an evaluation can be held against the teacher's.
    """

    about: dict[str, Any]
    call: Callable[[], object] | None
    items: int
    answer: probe.Answer | None


def of_model(name: str, kind: str, model: Denoiser, answer: Callable[[], probe.Answer]) -> Measured:
    """Of a PyTorch model. answer: asks it."""
    params, scheme = counts.parameters(model), model.scheme
    sizes = {"params": params, "macs": counts.macs(model), "bytes": params * SCHEMES[scheme].bytes}
    sample, times, *conditions = example_inputs(model, 1)
    given = dict(zip(model.inputs, conditions, strict=True))
    call = None if model.precision else functools.partial(predict, model, sample, times, given)
    about = {"name": name, "kind": kind, "scheme": scheme, "engine": "PyTorch", **sizes}
    return Measured(about, call, 1, None if model.sampling.distilled else answer())


def of_bundle(name: str, bundle: Bundle, answer: probe.Answer) -> Measured:
    """Of the file that ships."""
    known = {key: bundle.manifest[key] for key in ("scheme", "params", "macs")}
    about = {"name": name, "kind": "export_onnx", "engine": bundle.engine.name, **known, "bytes": bundle.size_bytes}
    noise, given = bundle.example(bundle.batch or 1)
    call = functools.partial(bundle.denoise, noise, bundle.steps[0].timestep, given)
    return Measured(about, call, len(noise), None if bundle.sampling.get("distilled") else answer)


def table(models: Sequence[Measured], progress: Progress) -> tuple[Stage, ...]:
    """A row for every model, the teacher first: size, arithmetic, time, and error on the probe against the teacher.

    Models of other timesteps than the probe's, or of guidance of their own, are asked at the probe's timesteps. Where
    steps were distilled there is no error: one evaluation does the work of several of the teacher's.
    """
    calls = {str(i): entry.call for i, entry in enumerate(models) if entry.call is not None}
    with torch.no_grad():
        taken = latency.interleaved(calls, ROUNDS, progress, "timing what each pass gained")
    return tuple(
        Stage(
            **entry.about,
            ms_per_call=float(np.median(taken[str(i)])) / entry.items if entry.call is not None else None,
            output_error=None if entry.answer is None else float(entry.answer.curve(rounds=2)[0].mean()),
            sqnr_db=None if entry.answer is None else entry.answer.sqnr(),
        )
        for i, entry in enumerate(models)
    )


def kernel_loss(whole: np.ndarray, simulated: np.ndarray, shipped: np.ndarray) -> Figure:
    """By how many dB the shipped kernels are less exact than simulated ones, on outputs [timesteps,b,…].

    Both against the float student's outputs `whole`, and not against each other: roundings decorrelate in a deep net.
    0 for a faithful export.
    """
    axes = (0, *range(2, whole.ndim))
    errors = np.stack([np.square(x - whole).sum(axes) for x in (simulated, shipped)], axis=1).astype(np.float64)

    def loss(i: np.ndarray) -> float:
        fake, real = np.maximum(errors[i].sum(axis=0), 1e-30)
        return float(10 * np.log10(real / fake))

    value, ends = loss(np.arange(len(errors))), interval(bootstrap(loss, len(errors), rounds=probe.ROUNDS))
    return against(value, "less", ends, len(errors), 0.0, (ends[1] - ends[0]) / 2)

"""How long `verify` will take, from a few timed calls."""

import functools
from collections.abc import Callable

import torch

from compress.judge import baseline, probed
from compress.judge.cost import Clock
from compress.measure import latency
from compress.model.denoiser import Denoiser, example_inputs, guided, predict
from compress.model.reference import BATCH
from compress.runtime import Bundle
from compress.runtime.engines import ONNXRUNTIME

# What a few calls cannot tell, from two cores of a server: they are small beside drawing samples.
FIXED = 35.0  # seconds: exporting the baseline, training the judge, starting fresh processes
ONNX = 3.0  # times that the teacher is faster in onnxruntime than in PyTorch, at least
EACH = 0.003  # seconds an image: features of both sides, distances and their intervals


def seconds(
    teacher: Denoiser, bundle: Bundle, missing: int, samples: int, reference: int, clock: Clock, passes: int
) -> float:
    """missing: samples of the teacher that no earlier run has kept. passes: how many have models that are timed too.

    While timing both sides have the bundle's threads; samples are drawn with those that PyTorch has.
    """
    steps = len(teacher.sampling.timesteps)
    drawing = missing * steps * _teacher(teacher, BATCH, guided) / BATCH if missing else 0.0
    drawing /= ONNX if baseline.drawer_name(teacher) == ONNXRUNTIME.name else 1.0
    size = bundle.batch or 50
    drawing += samples * len(bundle.steps) * _bundle(bundle.guided, bundle, size) / size
    timing = 0.0
    with latency.threads(bundle.threads or 1):
        for batch, turns in clock.turns.items():
            slow = _teacher(teacher, batch, predict)
            student = -(-batch // size) * _bundle(bundle.denoise, bundle, size)
            for guide in (1, 2) if batch == 1 else (1,):  # guided calls cost twice as much, and are timed at batch 1
                timing += latency.seconds(guide * slow, turns, seldom=True)
                timing += latency.seconds(guide * slow / ONNX, turns) + latency.seconds(guide * student, turns)
            if batch == 1:
                timing += latency.seconds(slow, probed.ROUNDS) * passes
    return FIXED + EACH * (samples + reference) + drawing + timing


def _teacher(model: Denoiser, batch: int, call: Callable[..., torch.Tensor]) -> float:
    sample, when, *values = example_inputs(model, batch)
    conditions = dict(zip(model.inputs, values, strict=True))
    return latency.taken(torch.no_grad()(functools.partial(call, model, sample, when, conditions)))


def _bundle(call: Callable[..., object], bundle: Bundle, batch: int) -> float:
    sample, given = bundle.example(batch)
    return latency.taken(functools.partial(call, sample, bundle.steps[0].timestep, given))

"""How long `verify` will take, from a few timed calls."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from compress.judge import baseline, probed
from compress.judge.cost import Clock
from compress.measure import counts, latency
from compress.model.denoiser import Denoiser, example_inputs, guided, predict
from compress.model.reference import BATCH
from compress.runtime import Bundle
from compress.runtime.engines import ONNXRUNTIME

# What a few calls cannot tell, from two cores of a server: they are small beside drawing samples.
FIXED = 35.0  # seconds: exporting the baseline, training the judge, starting fresh processes
ONNX = 3.0  # times that the teacher is faster in onnxruntime than in PyTorch, at least
TOGETHER = 10**11  # multiply-accumulates of samples that are tried at once, of which many fit into memory
EACH = 0.003  # seconds an image: features of both sides, distances and their intervals


@dataclass(frozen=True)
class Student:
    """What a forecast knows of a student. call: (samples at once, whether guided) → seconds of one evaluation."""

    steps: int
    batch: int | None
    threads: int | None
    call: Callable[[int, bool], float]


def of_bundle(bundle: Bundle) -> Student:
    """A student that is timed as it is."""

    def call(batch: int, guide: bool) -> float:
        sample, given = bundle.example(batch)
        run = bundle.guided if guide else bundle.denoise
        return latency.taken(functools.partial(run, sample, bundle.steps[0].timestep, given))

    return Student(len(bundle.steps), bundle.batch, bundle.threads, call)


def of_model(model: Denoiser, batch: int | None, threads: int | None) -> Student:
    """A student that is not exported yet: by its time in PyTorch."""

    def call(batch: int, guide: bool) -> float:
        return _in_pytorch(model, batch, guided if guide else predict) / ONNX

    return Student(len(model.sampling.timesteps), batch, threads, call)


def seconds(
    teacher: Denoiser, student: Student, missing: int, samples: int, reference: int, clock: Clock, passes: int
) -> float:
    """missing: samples of the teacher that no earlier run has kept. passes: how many have models that are timed too.

    While timing both sides have the student's threads; samples are drawn with those that PyTorch has.
    """
    steps, together = len(teacher.sampling.timesteps), max(1, min(BATCH, TOGETHER // counts.macs(teacher)))
    drawing = missing * steps * _in_pytorch(teacher, together, guided) / together if missing else 0.0
    drawing /= ONNX if baseline.drawer_name(teacher) == ONNXRUNTIME.name else 1.0
    size = student.batch or min(50, together)
    drawing += samples * student.steps * student.call(size, True) / size
    timing = 0.0
    with latency.threads(student.threads or 1):
        for batch, turns in clock.turns.items():
            slow = _in_pytorch(teacher, batch, predict)
            fast = -(-batch // size) * student.call(size, False)
            for guide in (1, 2) if batch == 1 else (1,):  # guided calls cost twice as much, and are timed at batch 1
                timing += latency.seconds(guide * slow, turns, seldom=True)
                timing += latency.seconds(guide * slow / ONNX, turns) + latency.seconds(guide * fast, turns)
            if batch == 1:
                timing += latency.seconds(slow, probed.ROUNDS) * passes
    return FIXED + EACH * (samples + reference) + drawing + timing


def _in_pytorch(model: Denoiser, batch: int, call: Callable[..., torch.Tensor]) -> float:
    sample, when, *values = example_inputs(model, batch)
    conditions = dict(zip(model.inputs, values, strict=True))
    return latency.taken(torch.no_grad()(functools.partial(call, model, sample, when, conditions)))

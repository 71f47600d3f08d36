"""How long `verify` will take, from a few timed calls."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from compress.judge import baseline, stages
from compress.measure import latency
from compress.model.denoiser import Denoiser, example_inputs, guided, predict
from compress.model.reference import BATCH
from compress.runtime import Bundle

# What a few calls cannot tell, from two cores of a server: they are small beside drawing samples.
FIXED = 35.0  # seconds: exporting the baseline, training the judge, starting fresh processes
ONNX = 3.0  # times that the teacher is faster in onnxruntime than in PyTorch, at least
EACH = 0.003  # seconds an image: features of both sides, distances and their intervals


def seconds(
    teacher: Denoiser,
    bundle: Bundle,
    missing: int,
    samples: int,
    reference: int,
    rounds: int,
    batches: Sequence[int],
    passes: Sequence[Any],
    threads: int,
) -> float:
    """missing: samples of the teacher that no earlier run has kept. rounds, batches: of timing. passes: whose models
    are timed at batch 1 as well. threads: while timing; samples are drawn with those that PyTorch has."""
    steps = len(teacher.sampling.timesteps)
    drawing = missing * steps * _teacher(teacher, BATCH, True) / BATCH if missing else 0.0
    drawing /= ONNX if baseline.engine_name(teacher) == baseline.ENGINE else 1.0
    size = bundle.batch or 50
    drawing += samples * len(bundle.steps) * _bundle(bundle, size, True) / size
    with latency.threads(threads):
        single = _teacher(teacher, 1, False)
        timing = 0.0
        for batch in sorted({1, *batches}):
            turns, slow = max(10, rounds // batch), _teacher(teacher, batch, False)
            student = -(-batch // size) * _bundle(bundle, size, False)
            for guide in (1, 2) if batch == 1 else (1,):  # guided calls cost twice as much, and are timed at batch 1
                timing += latency.seconds(guide * slow, turns, seldom=True)
                timing += latency.seconds(guide * slow / ONNX, turns) + latency.seconds(guide * student, turns)
    timing += latency.seconds(single, stages.ROUNDS) * len(passes)
    return FIXED + EACH * (samples + reference) + drawing + timing


def _teacher(model: Denoiser, batch: int, guide: bool) -> float:
    sample, when, *values = example_inputs(model, batch)
    conditions = dict(zip(model.inputs, values, strict=True))
    call = guided if guide else predict
    return _taken(lambda: call(model, sample, when, conditions))


def _bundle(bundle: Bundle, batch: int, guide: bool) -> float:
    sample, given = bundle.example(batch)
    call = bundle.guided if guide else bundle.denoise
    return _taken(lambda: call(sample, bundle.steps[0].timestep, given))


@torch.no_grad()
def _taken(call: Callable[[], object], times: int = 3) -> float:
    """Seconds: the median of a few calls after one that warms up."""
    call()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))

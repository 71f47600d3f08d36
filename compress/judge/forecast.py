"""How long `verify` will take, from a few timed calls."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from compress.judge import baseline, probed, shares
from compress.judge.cost import Clock
from compress.measure import latency
from compress.model.denoiser import Denoiser, example_inputs, guided, predict
from compress.model.reference import BATCH
from compress.pipeline.pipeline import Parts
from compress.runtime import Bundle
from compress.runtime.engines import ONNXRUNTIME

# What a few calls cannot tell, from two cores of a server: they are small beside drawing samples.
FIXED = 35.0  # seconds: exporting the baseline, training the judge, starting fresh processes
ONNX = 3.0  # times that the teacher is faster in onnxruntime than in PyTorch, at least
DECODED = 4  # pictures by which decoding is timed
EACH = 0.003  # seconds an image: features of both sides, distances and their intervals


@dataclass(frozen=True)
class Wanted:
    """samples: of the student, each beside the teacher's; reference: others of the teacher; missing: of both together,
    those that no earlier run has kept."""

    samples: int
    reference: int
    missing: int


def seconds(teacher: Denoiser, around: Parts, bundle: Bundle, wanted: Wanted, clock: Clock, passes: int) -> float:
    """around: the teacher's net. passes: how many have models that are timed too.

    While timing both sides have the bundle's threads; samples are drawn with those that PyTorch has.
    """
    steps, samples = len(teacher.sampling.timesteps), wanted.samples
    alone = min(samples, shares.COUNT) if bundle.decoder or bundle.text else 0  # with one part the student's
    missing = wanted.missing + (alone if bundle.text else 0)
    drawing = missing * steps * _teacher(teacher, BATCH, guided) / BATCH if missing else 0.0
    drawing /= ONNX if baseline.drawer_name(teacher) == ONNXRUNTIME.name else 1.0
    size = bundle.batch or 50
    drawing += (samples + alone) * len(bundle.steps) * _bundle(bundle.guided, bundle, size) / size
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
                for call in _around(around, bundle):
                    timing += latency.seconds(latency.taken(call), turns)
    return FIXED + EACH * (samples + wanted.reference) + drawing + timing + _decoding(around, bundle, wanted, alone)


def _decoding(around: Parts, bundle: Bundle, wanted: Wanted, alone: int) -> float:
    """Of all samples of the teacher, kept or not, by onnxruntime, and of the student's."""
    found = 0.0
    if around.decoder is not None:
        latents = torch.zeros(DECODED, *bundle.sample_shape)
        slow = latency.taken(functools.partial(around.decoder.decode, latents)) / DECODED
        found += (wanted.samples + wanted.reference + 2 * alone) * slow
    if bundle.decoder is not None:
        latent, _ = bundle.example(DECODED)
        found += (wanted.samples + alone) * latency.taken(functools.partial(bundle.pixels, latent)) / DECODED
    return found


def _around(around: Parts, bundle: Bundle) -> list[Callable[[], object]]:
    """What is timed beside the nets: a text encoded, a picture decoded, of both sides."""
    calls: list[Callable[[], object]] = []
    latent, _ = bundle.example(1)
    for text in (around.text, bundle.text):
        calls += [functools.partial(text.encode, [""])] if text else []
    if around.decoder is not None:
        calls += [functools.partial(around.decoder.decode, torch.from_numpy(latent))]
    return calls + ([functools.partial(bundle.decoder.decode, latent)] if bundle.decoder else [])


def _teacher(model: Denoiser, batch: int, call: Callable[..., torch.Tensor]) -> float:
    sample, when, *values = example_inputs(model, batch)
    conditions = dict(zip(model.inputs, values, strict=True))
    return latency.taken(torch.no_grad()(functools.partial(call, model, sample, when, conditions)))


def _bundle(call: Callable[..., object], bundle: Bundle, batch: int) -> float:
    sample, given = bundle.example(batch)
    return latency.taken(functools.partial(call, sample, bundle.steps[0].timestep, given))

"""How long `verify` will take, from a few timed calls."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from compress.judge import baseline, probed, shares
from compress.judge.cost import Clock
from compress.measure import counts, latency
from compress.model.denoiser import Denoiser, example_inputs, guided, predict
from compress.model.reference import BATCH
from compress.pipeline.pipeline import Parts
from compress.runtime import Bundle
from compress.runtime.engines import ONNXRUNTIME

# What a few calls cannot tell, from two cores of a server: they are small beside drawing samples.
FIXED = 35.0  # seconds: exporting the baseline, training the judge, starting fresh processes
ONNX = 3.0  # times that the teacher is faster in onnxruntime than in PyTorch, at least
TOGETHER = 10**11  # multiply-accumulates of samples that are tried at once, of which many fit into memory
EACH = 0.003  # seconds an image: features of both sides, distances and their intervals


@dataclass(frozen=True)
class Wanted:
    """samples: of the student, each beside the teacher's; reference: others of the teacher; missing: of both together,
    those that no earlier run has kept."""

    samples: int
    reference: int
    missing: int


@dataclass(frozen=True)
class Around:
    """What a text encoded and a picture decoded take, in seconds; 0 where a net stands alone."""

    text: float = 0.0
    decoding: float = 0.0


@dataclass(frozen=True)
class Student:
    """What a forecast knows of a student. call: (samples at once, whether guided) → seconds of one evaluation."""

    steps: int
    batch: int | None
    threads: int | None
    call: Callable[[int, bool], float]
    around: Around


def of_bundle(bundle: Bundle) -> Student:
    """A student that is timed as it is."""

    def call(batch: int, guide: bool) -> float:
        sample, given = bundle.example(batch)
        run = bundle.guided if guide else bundle.denoise
        return latency.taken(functools.partial(run, sample, bundle.steps[0].timestep, given))

    latent, _ = bundle.example(1)
    around = Around(
        _once(functools.partial(bundle.text.encode, [""]) if bundle.text else None),
        _once(functools.partial(bundle.decoder.decode, latent) if bundle.decoder else None),
    )
    return Student(len(bundle.steps), bundle.batch, bundle.threads, call, around)


def of_model(model: Denoiser, parts: Parts, batch: int | None, threads: int | None) -> Student:
    """A student that is not exported yet: by its time in PyTorch."""

    def call(batch: int, guide: bool) -> float:
        return _in_pytorch(model, batch, guided if guide else predict) / ONNX

    return Student(len(model.sampling.timesteps), batch, threads, call, of_parts(parts, model))


def of_parts(parts: Parts, model: Denoiser) -> Around:
    """What is around a model, in PyTorch."""
    return Around(
        _once(functools.partial(parts.text.encode, [""]) if parts.text else None),
        _once(functools.partial(parts.decoder.decode, torch.zeros(1, *model.sample_shape)) if parts.decoder else None),
    )


def _once(call: Callable[[], object] | None) -> float:
    """Seconds of a call, of a decoder perhaps many: it is tried as seldom as can be."""
    return 0.0 if call is None else latency.taken(call, times=1)


def seconds(teacher: Denoiser, parts: Parts, student: Student, wanted: Wanted, clock: Clock, passes: int) -> float:
    """parts: around the teacher. passes: how many have models that are timed too.

    While timing both sides have the student's threads; samples are drawn with those that PyTorch has.
    """
    steps, together = len(teacher.sampling.timesteps), max(1, min(BATCH, TOGETHER // counts.macs(teacher)))
    around, own, samples = of_parts(parts, teacher), student.around, wanted.samples
    alone = min(samples, shares.COUNT) if own.text or own.decoding else 0  # with one part the student's
    missing = wanted.missing + (alone if own.text else 0)
    drawing = missing * steps * _in_pytorch(teacher, together, guided) / together if missing else 0.0
    drawing /= ONNX if baseline.drawer_name(teacher) == ONNXRUNTIME.name else 1.0
    size = student.batch or min(50, together)
    drawing += (samples + alone) * student.steps * student.call(size, True) / size
    # the teacher's samples are decoded whether they are kept or not
    drawing += (samples + wanted.reference + 2 * alone) * around.decoding + (samples + alone) * own.decoding
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
                for one in (around.text, around.decoding, own.text, own.decoding):
                    timing += latency.seconds(one, turns)
    return FIXED + EACH * (samples + wanted.reference) + drawing + timing


def _in_pytorch(model: Denoiser, batch: int, call: Callable[..., torch.Tensor]) -> float:
    sample, when, *values = example_inputs(model, batch)
    conditions = dict(zip(model.inputs, values, strict=True))
    return latency.taken(torch.no_grad()(functools.partial(call, model, sample, when, conditions)))

"""Response to the guidance scale."""

import numpy as np
import pytest

from compress.judge.images import at_scale, curves
from compress.model.denoiser import Denoiser
from tests.judge.test_metrics import BRIGHTEST, digits

LABELS = np.arange(200) % 10


def noisy(scale: float, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((200, 1, 4, 4))
    return (0.1 * digits(LABELS) + scale * noise).astype(np.float32)


def test_variance_is_that_of_the_classes_and_lies_within_its_interval() -> None:
    pairs = {2.0: {"teacher": noisy(1, 0), "student": noisy(2, 1), "labels": LABELS}}
    (point,) = curves(pairs, BRIGHTEST)["variance"]
    assert point.scale == 2.0
    for figure, variance in ((point.teacher, 16), (point.student, 64)):  # 16 pixels, each of variance 1 or 4
        assert figure.interval is not None
        low, high = figure.interval
        assert figure.value == pytest.approx(variance, rel=0.1)
        assert low < figure.value < high
        assert (figure.value - low) / (high - figure.value) == pytest.approx(1, abs=0.35), "centred"


def test_accuracy_is_counted_at_every_scale() -> None:
    right, wrong = digits(LABELS), digits((LABELS + 1) % 10)
    pairs = {scale: {"teacher": right, "student": s, "labels": LABELS} for scale, s in ((1.0, right), (3.0, wrong))}
    found = curves(pairs, BRIGHTEST)["class_accuracy"]
    assert [(point.scale, point.teacher.value, point.student.value) for point in found] == [(1, 1, 1), (3, 1, 0)]


def test_model_at_another_scale_is_the_same_but_for_it(class_model: Denoiser) -> None:
    other = at_scale(class_model, 3.5)
    assert other.sampling.guidance.scale == 3.5 and class_model.sampling.guidance.scale == 2.0
    assert other.net is class_model.net and other.sampling.timesteps == class_model.sampling.timesteps

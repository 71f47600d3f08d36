"""Pairs from the same noise."""

import numpy as np
import pytest

from compress.judge.classifier import Judge
from compress.judge.paired import by_class, named, same_noise


class Brightest:
    """Names an image by the place of its brightest pixel."""

    def predict(self, flat: np.ndarray) -> np.ndarray:
        return flat.argmax(axis=1)


JUDGE = Judge(Brightest(), 1.0)


def digits(labels: np.ndarray) -> np.ndarray:
    images = np.full((len(labels), 1, 4, 4), -0.9, dtype=np.float32)
    images.reshape(len(labels), -1)[np.arange(len(labels)), labels] = 0.9
    return images


LABELS = np.arange(200) % 10


def test_names_and_intervals() -> None:
    theirs, ours = digits(LABELS), digits(np.where(np.arange(200) < 20, (LABELS + 1) % 10, LABELS))
    figures = named(JUDGE, theirs, ours, LABELS)
    agreement, accuracy = figures["class_agreement"], figures["class_accuracy"]
    assert agreement.value == accuracy.value == pytest.approx(0.9)
    assert accuracy.teacher == 1 and accuracy.excess == pytest.approx(-0.1) and accuracy.resolved
    assert agreement.resolved and agreement.interval == pytest.approx((0.8506, 0.9343), abs=1e-3)  # Wilson, by hand


def test_same_names_are_not_resolved() -> None:
    figures = named(JUDGE, digits(LABELS), digits(LABELS), LABELS)
    assert [figure.resolved for figure in figures.values()] == [False, False]
    assert figures["class_agreement"].value == 1


def test_dropped_class_shows_in_its_row() -> None:
    ours = digits(np.where(LABELS == 3, 4, LABELS))
    rows = by_class(JUDGE, digits(LABELS), ours, LABELS)
    assert [(row.label, row.teacher, row.student) for row in rows] == [(n, 1.0, float(n != 3)) for n in range(10)]


def test_rounding_of_another_runtime_is_the_floor() -> None:
    random = np.random.default_rng(0)
    teacher = random.uniform(-0.9, 0.9, (60, 1, 16, 16)).astype(np.float32)
    rounding = (teacher + 1e-5 * random.standard_normal(teacher.shape)).astype(np.float32)
    as_good = (teacher + 1e-5 * random.standard_normal(teacher.shape)).astype(np.float32)
    worse = (teacher + 1e-2 * random.standard_normal(teacher.shape)).astype(np.float32)
    again = rounding[:20]
    for name, figure in same_noise(teacher, as_good, again).items():
        assert figure.resolved is False, name
    for name, figure in same_noise(teacher, worse, again).items():
        assert figure.resolved and figure.excess is not None and figure.excess < 0, name
    assert same_noise(teacher, worse, again)["psnr"].value == pytest.approx(20 * np.log10(2 / 1e-2), abs=0.2)

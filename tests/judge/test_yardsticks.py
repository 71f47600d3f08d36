"""What samples are measured with: what is too little is not there, and the reason is said."""

from functools import partial

import numpy as np
import pytest
import torch

from compress.data import Digits, FromTeacher
from compress.judge import features, yardsticks
from compress.judge.metrics import REASONS, Sets
from compress.judge.yardsticks import Yardsticks
from compress.model.denoiser import Denoiser
from compress.model.reference import Drawn, silent
from tests.conftest import dataset_for

COUNT = 640


def drawn(model: Denoiser, seed: int, labels: torch.Tensor | None) -> Drawn:
    noise = torch.randn(COUNT, *model.sample_shape, generator=torch.Generator().manual_seed(seed))
    return Drawn(noise, {} if labels is None else {"class_labels": labels}, 0.3 * noise)


@pytest.fixture
def given(class_model: Denoiser, monkeypatch: pytest.MonkeyPatch) -> Yardsticks:
    """Of 320 training images and 80 held-out ones."""
    monkeypatch.setattr(features, "STEPS", 60)
    monkeypatch.setattr(yardsticks, "Sets", partial(Sets, rounds=4))
    return Yardsticks(lambda: dataset_for(class_model, 400), Digits(source="digits"), (), 0.9, silent)


def test_what_is_too_little_for_a_figure_is_left_out(given: Yardsticks, class_model: Denoiser) -> None:
    rare = torch.arange(COUNT) % 10
    rare[rare == 9] = 8
    rare[:7] = 9
    pairs, others = drawn(class_model, 0, torch.arange(COUNT) % 10), drawn(class_model, 1, rare)
    found = given.spaces(pairs, others, pairs.samples.numpy() + np.float32(0.01))
    assert {name: space.enough for name, space in found.items()} == {
        "classifier": True,
        "random": False,
        "pixels": True,
    }
    assert not found["random"].metrics
    wanted = {"frechet", "kid", "two_sample", "density", "coverage", "vendi", "frechet_real"}
    assert set(found["pixels"].metrics) - {"frechet_ratio"} == wanted
    assert given.spaces(pairs[:639], others, pairs.samples.numpy()[:639]) == {}


def test_images_drawn_from_the_teacher_are_no_real_ones(class_model: Denoiser) -> None:
    own = Yardsticks(lambda: dataset_for(class_model), FromTeacher(source="teacher", count=40), (), 0.9, silent)
    assert own.real == {} and own.classifier is not None
    assert Yardsticks(lambda: dataset_for(class_model), None, (), 0.9, silent).classifier is None


def test_classes_are_those_of_a_classifier_that_is_believed(given: Yardsticks, class_model: Denoiser) -> None:
    pairs = drawn(class_model, 0, torch.arange(COUNT) % 10)
    assert given.sets(pairs, pairs.samples.numpy(), None).classes is not None and given.reasons() == {}
    assert given.sets(drawn(class_model, 0, None), pairs.samples.numpy(), None).classes is None
    strict = Yardsticks(given.load, given.data, (), 1.01, silent)
    assert strict.sets(pairs, pairs.samples.numpy(), None).classes is None
    assert set(strict.reasons()) == {"class_agreement", "class_accuracy"}
    assert "of the held-out images correctly" in strict.why_not("class_accuracy")
    assert given.why_not("guidance_ratio") == REASONS["guidance"] and given.why_not("kid") == REASONS["others"]

"""The data set that comes with the package."""

import torch

from compress import data
from compress.data import Digits
from tests.data.helpers import refused


def test_digits() -> None:
    dataset = data.load(Digits(source="digits"), (1, 16, 16), 10)
    assert dataset.images.shape == (1797, 1, 16, 16)
    assert dataset.images.dtype == torch.float32
    assert dataset.images.min() == -1 and 0.9 < dataset.images.max() <= 1
    assert sorted(set(dataset.conditions["class_labels"].tolist())) == list(range(10))


def test_digits_for_an_unconditional_model_carry_no_labels() -> None:
    assert data.load(Digits(source="digits"), (1, 16, 16), None).conditions == {}


def test_digits_of_a_wrong_size() -> None:
    refused(Digits(source="digits"), (1, 32, 32), 10, "digits", "1×16×16", "1×32×32")

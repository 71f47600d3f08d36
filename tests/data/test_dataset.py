"""What is drawn in a step, and what is held back."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.data import Dataset
from compress.randomness import generator
from tests.data.helpers import numbered, numbers


@given(seed=st.integers(0, 2**31 - 1), step=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_batch_is_a_function_of_seed_and_step(seed: int, step: int) -> None:
    dataset = numbered(1000)
    first = dataset.batch(32, seed, step)
    torch.rand(3)
    dataset.batch(7, seed + 1, step)
    again = numbered(1000).batch(32, seed, step)
    assert numbers(first) == numbers(again)


def test_batch_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    wanted = torch.rand(2)
    torch.manual_seed(0)
    numbered(1000).batch(32, 5, 5)
    assert torch.equal(torch.rand(2), wanted)


def test_different_steps_and_seeds_give_different_batches() -> None:
    dataset = numbered(1000)
    batches = {tuple(numbers(dataset.batch(16, seed, step))) for seed in range(10) for step in range(10)}
    assert len(batches) == 100


def test_batches_over_many_steps_use_all_images() -> None:
    dataset = numbered(50)
    seen = {number for step in range(40) for number in numbers(dataset.batch(16, 0, step))}
    assert seen == set(range(50))


def test_batch_keeps_images_and_conditions_together() -> None:
    batch = numbered(100).batch(64, 0, 0)
    assert [number % 10 for number in numbers(batch)] == batch.conditions["class_labels"].tolist()


def test_batch_may_be_larger_than_the_data() -> None:
    assert len(numbers(numbered(3).batch(64, 0, 0))) == 64


def test_generators_of_close_keys_are_unrelated() -> None:
    keys = [(0,), (1,), (0, 0), (0, 1), (1, 0), (10,), (0, 0, 0)]
    drawn = torch.stack([torch.randn(2000, generator=generator(*key)) for key in keys])
    correlation = torch.corrcoef(drawn) - torch.eye(len(keys))
    assert correlation.abs().max() < 0.1


@pytest.mark.parametrize("classes", [None, 10])
def test_split_is_disjoint_and_complete(classes: int | None) -> None:
    train, held_out = (numbers(part) for part in numbered(200, classes).split())
    assert sorted(train + held_out) == list(range(200))
    assert len(held_out) == 40


def test_split_is_always_the_same() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    first = [numbers(part) for part in numbered(200).split()]
    torch.manual_seed(2)
    np.random.seed(2)
    assert [numbers(part) for part in numbered(200).split()] == first


def test_split_is_stratified() -> None:
    labels = torch.tensor([0] * 150 + [1] * 40 + [2] * 10)
    dataset = Dataset(torch.zeros(200, 1, 2, 2), {"class_labels": labels})
    train, held_out = dataset.split()
    assert torch.bincount(held_out.conditions["class_labels"]).tolist() == [30, 8, 2]
    assert torch.bincount(train.conditions["class_labels"]).tolist() == [120, 32, 8]


def test_split_keeps_images_and_labels_together() -> None:
    for part in numbered(200).split():
        assert [number % 10 for number in numbers(part)] == part.conditions["class_labels"].tolist()


@pytest.mark.parametrize(("count", "classes"), [(1, None), (2, None), (3, 3), (20, 10), (12, 5), (5, None)])
def test_split_of_few_images_leaves_none_empty(count: int, classes: int | None) -> None:
    train, held_out = numbered(count, classes).split()
    assert len(train) and len(held_out)


def test_split_with_a_label_that_appears_once() -> None:
    labels = torch.tensor([0] * 30 + [1] * 19 + [7])
    train, held_out = Dataset(torch.zeros(50, 1, 2, 2), {"class_labels": labels}).split()
    assert (len(train), len(held_out)) == (40, 10)

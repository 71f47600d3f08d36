"""The next batch, made meanwhile: the same batches, in order, and no more than one too many."""

import threading

import pytest
import torch

from compress.data import ahead
from tests.data.helpers import numbered, numbers


def test_batches_are_those_of_their_keys() -> None:
    dataset = numbered(100)
    keys = [(seed, "step", step) for seed in (0, 1) for step in range(10)]
    wanted = [numbers(dataset.batch(8, *key)) for key in keys]
    torch.manual_seed(3)
    random = torch.rand(1)
    torch.manual_seed(3)
    assert [numbers(batch) for batch in ahead(lambda key: dataset.batch(8, *key), keys)] == wanted
    assert torch.equal(torch.rand(1), random)
    beginning = ahead(lambda key: dataset.batch(8, *key), keys[7:])  # as a run that goes on
    assert numbers(next(beginning)) == wanted[7]
    beginning.close()


def test_the_next_is_made_while_one_is_used() -> None:
    began = [threading.Event() for _ in range(4)]

    def make(key: int) -> int:
        began[key].set()
        return key

    found = ahead(make, range(4))
    assert next(found) == 0 and began[1].wait(5)
    assert not began[2].wait(0.05), "one waits, no more"
    assert list(found) == [1, 2, 3]


def test_an_error_is_raised_when_its_key_is_due() -> None:
    def make(key: int) -> int:
        return 6 // (2 - key)

    found = ahead(make, range(5))
    assert next(found) == 3 and next(found) == 6
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_no_keys() -> None:
    assert list(ahead(int, [])) == []

"""The classifier knows what can be known, and no more."""

import numpy as np
import pytest
import torch

from compress.data import Dataset
from compress.judge.classifier import train_classifier
from tests.conftest import dataset_for


def shuffled(dataset: Dataset, seed: int = 0) -> Dataset:
    """The same images with labels that say nothing about them."""
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))
    return Dataset(dataset.images, {"class_labels": dataset.conditions["class_labels"][order]})


@pytest.fixture
def plenty(class_model) -> Dataset:
    return dataset_for(class_model, 300)


def test_distinct_images_are_told_apart(plenty):
    classifier = train_classifier(plenty)
    assert classifier.accuracy >= 0.98
    found = classifier.classify(plenty.images.numpy())
    assert found.shape == (300,) and np.issubdtype(found.dtype, np.integer)
    assert (found == plenty.conditions["class_labels"].numpy()).mean() >= 0.98


def test_meaningless_labels_give_the_accuracy_of_a_guess(plenty):
    assert train_classifier(shuffled(plenty)).accuracy < 0.35


def test_accuracy_is_that_on_the_held_out_images(plenty):
    noise = torch.randn(plenty.images.shape, generator=torch.Generator().manual_seed(0))
    noisy = Dataset(plenty.images + 1.2 * noise, plenty.conditions)
    classifier = train_classifier(noisy)
    _, held_out = noisy.split()
    right = classifier.classify(held_out.images.numpy()) == held_out.conditions["class_labels"].numpy()
    assert 0.2 < classifier.accuracy < 1
    assert classifier.accuracy == pytest.approx(right.mean())


def test_held_out_images_are_not_trained_on(plenty):
    train, _ = plenty.split()
    known = {tuple(image.flatten().tolist()) for image in train.images}
    images = plenty.images.clone()
    for image in images:
        if tuple(image.flatten().tolist()) not in known:
            image.neg_()
    assert not torch.equal(images, plenty.images)
    classifier, same = train_classifier(plenty), train_classifier(Dataset(images, plenty.conditions))
    assert np.array_equal(classifier.classify(plenty.images.numpy()), same.classify(plenty.images.numpy()))
    assert same.accuracy < classifier.accuracy


def test_classifying_is_repeatable(plenty):
    images = np.random.default_rng(0).uniform(-1, 1, (50, 1, 8, 8)).astype(np.float32)
    assert np.array_equal(train_classifier(plenty).classify(images), train_classifier(plenty).classify(images))


@pytest.mark.parametrize("count", [20, 40])
def test_classifier_of_few_images_is_not_believed_for_what_it_learned_by_heart(count):
    images = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert train_classifier(Dataset(images, {"class_labels": torch.arange(count) % 10})).accuracy < 0.6

"""Feature spaces see what they should, repeatably, and refuse what they cannot use."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from compress.data import Dataset
from compress.errors import CompressError, VerifyError
from compress.judge import features
from compress.judge.distribution import frechet_distance
from compress.judge.features import classifier_space, load_extractor, pixel_space, random_space
from tests.conftest import dataset_for


@pytest.fixture
def labelled(class_model) -> Dataset:
    return dataset_for(class_model, 300)


@pytest.fixture
def few_steps(monkeypatch) -> None:
    monkeypatch.setattr(features, "STEPS", 60)


def uniform(count: int = 40, shape: tuple[int, ...] = (1, 8, 8), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, *shape)).astype(np.float32)


# Fitted spaces


@pytest.mark.parametrize("build", [random_space, pixel_space])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 20, 28), (4, 16, 16)])
def test_features_are_finite_numbers_of_unit_size(build, shape):
    images = uniform(80, shape)
    space = build(images)
    found = space(images)
    assert found.shape == (80, space.dimension) and found.dtype == np.float64
    assert space.dimension <= 64
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-5)
    assert found.var(axis=0).mean() == pytest.approx(1, rel=1e-4)


@pytest.mark.parametrize("build", [random_space, pixel_space])
def test_features_of_an_image_do_not_depend_on_its_company(build):
    images = uniform(features.BATCH + 30)
    space = build(images[:80])
    together = space(images)
    np.testing.assert_allclose(space(images[-1:]), together[-1:], atol=1e-5)
    np.testing.assert_allclose(space(images[::-1]), together[::-1], atol=1e-5)


@pytest.mark.parametrize("build", [random_space, pixel_space])
def test_spaces_are_repeatable_and_leave_the_random_state_alone(build):
    images = uniform()
    state = torch.get_rng_state()
    np.testing.assert_array_equal(build(images)(images), build(images)(images))
    assert torch.equal(state, torch.get_rng_state())


def test_pixel_distances_are_those_of_the_images_up_to_one_factor():
    images = uniform(20, (1, 4, 4))
    space = pixel_space(images)
    assert space.dimension == 16
    found = space(images)
    flat = images.reshape(20, -1)
    ratio = np.linalg.norm(found[1:] - found[0], axis=1) / np.linalg.norm(flat[1:] - flat[0], axis=1)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


def test_pixels_have_no_more_components_than_images_or_pixels():
    assert pixel_space(uniform(9)).dimension == 8
    assert pixel_space(uniform(50, (1, 3, 3))).dimension == 9
    assert pixel_space(uniform(90)).dimension == 32


def test_random_networks_differ_and_see_a_blur(labelled):
    images = labelled.images.numpy()
    one, other = random_space(images), random_space(images, seed=10)
    assert one.dimension == 60 and not np.allclose(one(images), other(images))
    assert np.linalg.matrix_rank(one(images)) > 40
    blurred = torch.nn.functional.avg_pool2d(labelled.images, 3, 1, 1).numpy()
    for space in (one, other):
        found, half = space(images), len(images) // 2
        noise = frechet_distance(found[:half], found[half:])
        assert frechet_distance(space(blurred)[:half], found[half:]) > 3 * noise


@pytest.mark.parametrize("build", [random_space, pixel_space])
def test_images_that_are_all_the_same_make_no_space(build):
    with pytest.raises(VerifyError, match="same features"):
        build(np.ones((20, 1, 8, 8), np.float32))


def test_one_image_makes_no_principal_components():
    with pytest.raises(VerifyError, match="at least 2"):
        pixel_space(uniform(1))


def test_twenty_images_a_dimension_are_enough():
    space = pixel_space(uniform(80))
    assert space.enough(640) and not space.enough(639)


def test_only_images_have_features():
    space = pixel_space(uniform(80))
    for images in (uniform(3)[:, 0], uniform(0)):
        with pytest.raises(ValueError, match=r"\[n,c,h,w\]"):
            space(images)


# Classifier


def test_classifier_tells_distinct_images_apart(labelled, few_steps):
    space, accuracy = classifier_space(labelled)
    assert accuracy >= 0.95
    images, labels = labelled.images.numpy(), labelled.conditions["class_labels"].numpy()
    inner = space(images)
    assert inner.shape == (300, space.dimension) == (300, 32)
    centres = np.stack([inner[labels == label].mean(axis=0) for label in range(10)])
    nearest = np.linalg.norm(inner[:, None] - centres, axis=2).argmin(axis=1)
    assert (nearest == labels).mean() >= 0.95


def test_classifier_is_repeatable_and_leaves_the_random_state_alone(labelled, few_steps):
    state = torch.get_rng_state()
    one, two, other = (classifier_space(labelled, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    images = labelled.images.numpy()
    np.testing.assert_array_equal(one(images), two(images))
    assert not np.allclose(one(images), other(images))


def test_held_out_images_are_not_trained_on(labelled, few_steps):
    train, _ = labelled.split()
    known = {tuple(image.flatten().tolist()) for image in train.images}
    images = labelled.images.clone()
    for image in images:
        if tuple(image.flatten().tolist()) not in known:
            image.neg_()
    (one, before), (same, after) = classifier_space(labelled), classifier_space(Dataset(images, labelled.conditions))
    np.testing.assert_array_equal(one(labelled.images.numpy()), same(labelled.images.numpy()))
    assert after < before


def test_classifier_of_too_few_images_is_not_believed(few_steps):
    images = torch.from_numpy(uniform(20))
    assert classifier_space(Dataset(images, {"class_labels": torch.arange(20)}))[1] == 0


# A network of one's own


class Pooled(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(images, 4).flatten(1)


class Whole(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images


class Logarithm(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images - 2).log().flatten(1)


def torchscript(folder: Path, net: nn.Module, name: str = "net.pt") -> Path:
    torch.jit.script(net).save(str(folder / name))
    return folder / name


def onnx_file(folder: Path, batch: int | str = "n") -> Path:
    """Flattened images times a matrix [64,5]."""
    matrix = np.random.default_rng(0).standard_normal((64, 5)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 1, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(matrix, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "net.onnx")
    return folder / "net.onnx"


@pytest.mark.parametrize("name", ["net.pt", "net.ts"])
def test_torchscript_gives_its_own_features(tmp_path, name):
    space = load_extractor(torchscript(tmp_path, Pooled(), name), (1, 8, 8), True)
    assert (space.name, space.dimension) == (name, 4)
    images = uniform(features.BATCH + 5)
    expected = images.reshape(-1, 2, 4, 2, 4).mean(axis=(2, 4)).reshape(-1, 4)
    np.testing.assert_allclose(space(images), expected, atol=1e-6)


def test_onnx_gives_its_own_features(tmp_path):
    space = load_extractor(onnx_file(tmp_path), (1, 8, 8), True)
    assert (space.name, space.dimension) == ("net.onnx", 5)
    images = uniform(7)
    matrix = np.random.default_rng(0).standard_normal((64, 5)).astype(np.float32)
    np.testing.assert_allclose(space(images), images.reshape(7, 64) @ matrix, atol=1e-5)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(VerifyError, match=r"none\.pt: no such file"):
        load_extractor(tmp_path / "none.pt", (1, 8, 8), True)


@pytest.mark.parametrize("name", ["net.pt", "net.onnx"])
def test_unreadable_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"this is no network")
    with pytest.raises(VerifyError, match=f"{name}: cannot be read"):
        load_extractor(tmp_path / name, (1, 8, 8), True)


def test_pickled_module_is_refused_without_running_it(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save(Trap(), tmp_path / "net.pt")
    with pytest.raises(VerifyError, match="cannot be read"):
        load_extractor(tmp_path / "net.pt", (1, 8, 8), True)
    assert not (tmp_path / "sprung").exists()


def test_other_kinds_of_file_are_refused(tmp_path):
    (tmp_path / "net.bin").touch()
    with pytest.raises(VerifyError, match="TorchScript"):
        load_extractor(tmp_path / "net.bin", (1, 8, 8), True)


def test_wrong_rank_is_refused(tmp_path):
    with pytest.raises(VerifyError, match=r"got \[2, 1, 8, 8\]"):
        load_extractor(torchscript(tmp_path, Whole()), (1, 8, 8), True)


def test_nan_is_refused(tmp_path):
    with pytest.raises(VerifyError, match="NaN"):
        load_extractor(torchscript(tmp_path, Logarithm()), (1, 8, 8), True)


def test_network_for_other_images_is_refused(tmp_path):
    with pytest.raises(VerifyError, match=r"fails on images \[2, 3, 8, 8\]"):
        load_extractor(onnx_file(tmp_path), (3, 8, 8), True)


def test_network_for_one_batch_size_is_refused(tmp_path):
    with pytest.raises(VerifyError, match="fails on images"):
        load_extractor(onnx_file(tmp_path, batch=1), (1, 8, 8), True)


def test_torchscript_is_not_run_without_a_word_of_trust(tmp_path):
    file = torchscript(tmp_path, Pooled())
    with pytest.raises(CompressError, match=r"net\.pt: is TorchScript, a program that is run; pass --allow-pickle"):
        load_extractor(file, (1, 8, 8), False)
    assert load_extractor(onnx_file(tmp_path), (1, 8, 8), False).dimension == 5

"""Quality figures against closed forms and independent implementations."""

import math

import numpy as np
import pytest

from compress.judge.quality import psnr, sqnr, ssim


def random_images(shape=(4, 1, 16, 16), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def distorted(images: np.ndarray, amount: float) -> np.ndarray:
    return np.clip(images + amount * random_images(images.shape, seed=1), -1, 1)


@pytest.mark.parametrize(
    "scale, decibels", [(1.1, 20), (0.9, 20), (1.001, 60), (2, 0), (0, 0), (-1, -6.0206), (11, -20)]
)
def test_sqnr_of_a_scaled_signal(scale, decibels):
    reference = np.random.default_rng(0).standard_normal(1000)
    assert sqnr(reference, scale * reference) == pytest.approx(decibels, abs=1e-3)


def test_sqnr_of_independent_noise():
    random = np.random.default_rng(0)
    reference = random.standard_normal(200_000)
    assert sqnr(reference, reference + 0.01 * random.standard_normal(200_000)) == pytest.approx(40, abs=0.1)


@pytest.mark.parametrize("bits", [4, 8, 12])
def test_sqnr_of_uniform_rounding_is_six_decibels_a_bit(bits):
    reference = np.random.default_rng(0).uniform(-1, 1, 200_000)
    step = 2 / 2**bits
    assert sqnr(reference, np.round(reference / step) * step) == pytest.approx(6.0206 * bits, abs=0.1)


def test_sqnr_takes_any_shape_and_does_not_overflow_float16():
    reference = np.full((2, 3, 4), 300, np.float16)
    assert sqnr(reference, reference * np.float16(0.5)) == pytest.approx(6.0206, abs=1e-3)


def test_sqnr_of_equal_arrays_is_finite_and_the_highest():
    reference = np.ones(1_000_000)
    almost = reference.copy()
    almost[0] += 1e-15
    assert math.isfinite(sqnr(reference, reference))
    assert sqnr(reference, reference) >= sqnr(reference, almost)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_sqnr_of_a_broken_value_is_the_lowest(bad):
    assert sqnr(np.ones(3), np.array([1, bad, 1])) == -200
    assert sqnr(np.array([1, bad, 1]), np.ones(3)) == -200


def test_sqnr_of_noise_on_silence_is_the_lowest():
    assert sqnr(np.zeros(3), np.ones(3)) == -200
    assert sqnr(np.zeros(3), np.zeros(3)) == 200


@pytest.mark.parametrize("offset", [0.5, 0.1, 0.002])
def test_psnr_of_a_constant_offset(offset):
    images = random_images()
    found = psnr(images.astype(np.float64), images.astype(np.float64) + offset)
    np.testing.assert_allclose(found, np.full(4, 20 * math.log10(2 / offset)), rtol=1e-9)


def test_psnr_is_that_of_each_pair():
    images = random_images((3, 2, 8, 8)).astype(np.float64)
    offsets = np.array([0.1, 0.01, 1.0])
    np.testing.assert_allclose(
        psnr(images, images + offsets[:, None, None, None]), 20 * np.log10(2 / offsets), rtol=1e-9
    )


def test_psnr_is_at_most_200_and_nan_shows():
    images = random_images()
    assert (psnr(images, images) == 200).all()
    broken = images.copy()
    broken[1, 0, 3, 3] = np.nan
    assert np.isnan(psnr(images, broken)).tolist() == [False, True, False, False]


def ssim_by_hand(one: np.ndarray, two: np.ndarray, sigma: float) -> np.ndarray:
    """Wang et al. 2004, eq. 13, with a Gaussian window over reflected borders; [n]."""
    radius = int(3.5 * sigma + 0.5)
    window = np.exp(-np.square(np.arange(-radius, radius + 1) / sigma) / 2)
    window /= window.sum()

    def smooth(images: np.ndarray) -> np.ndarray:
        padded = np.pad(images, [(0, 0), (0, 0), (radius, radius), (radius, radius)], mode="reflect")
        rows = sum(w * padded[:, :, i : i + images.shape[2]] for i, w in enumerate(window))
        return sum(w * rows[..., i : i + images.shape[3]] for i, w in enumerate(window))

    one, two = one.astype(np.float64), two.astype(np.float64)
    mean_1, mean_2 = smooth(one), smooth(two)
    variance_1, variance_2 = smooth(one**2) - mean_1**2, smooth(two**2) - mean_2**2
    covariance = smooth(one * two) - mean_1 * mean_2
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    index = (2 * mean_1 * mean_2 + c1) * (2 * covariance + c2)
    index /= (mean_1**2 + mean_2**2 + c1) * (variance_1 + variance_2 + c2)
    return index.mean(axis=(1, 2, 3))


@pytest.mark.parametrize(
    "shape, sigma", [((3, 1, 16, 16), 1.0), ((2, 3, 16, 20), 1.0), ((2, 1, 9, 9), 1.0), ((3, 1, 8, 8), 0.5)]
)
@pytest.mark.parametrize("amount", [0.1, 0.7])
def test_ssim_equals_the_formula(shape, sigma, amount):
    images = random_images(shape)
    other = distorted(images, amount)
    np.testing.assert_allclose(ssim(images, other), ssim_by_hand(images, other, sigma), atol=1e-4)


@pytest.mark.parametrize("one, two", [(0.5, 0.5), (0.5, 0.2), (0.5, -0.5), (1.0, 0.0)])
def test_ssim_of_constant_images(one, two):
    found = ssim(np.full((2, 1, 16, 16), one, np.float32), np.full((2, 1, 16, 16), two, np.float32))
    np.testing.assert_allclose(found, (2 * one * two + 4e-4) / (one**2 + two**2 + 4e-4), atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_ssim_of_equal_images_is_one_for_each(count):
    images = random_images((count, 1, 16, 16))
    found = ssim(images, images.copy())
    assert found.shape == (count,) and found.dtype == np.float64
    np.testing.assert_allclose(found, 1, atol=1e-5)


def test_ssim_falls_with_distortion():
    images = random_images()
    values = [ssim(images, distorted(images, amount)).mean() for amount in (0.05, 0.2, 0.5, 1.0)]
    assert values == sorted(values, reverse=True) and values[-1] < 0.7

"""Findings from arrays, each with its figure and its sentence."""

import numpy as np
import pytest
import torch

from compress.judge import candidate, probe
from compress.judge.asked_otherwise import guesses
from compress.judge.candidate import Guess
from compress.model.reference import Drawn
from compress.onnx_graph.quantizers import Cut
from tests.conftest import SHALLOW_CONFIG, make_denoiser

RANDOM = np.random.default_rng(0)
WANTED = RANDOM.standard_normal((3, 8, 1, 4, 4))
NOISE = RANDOM.standard_normal(WANTED.shape)


def test_a_guess_that_fits_far_better_is_the_fault() -> None:
    other = Guess("timestep", "are another's", RANDOM.standard_normal(WANTED.shape))
    assert candidate.explained(WANTED, WANTED + 0.1 * NOISE, [other]) is None
    found = candidate.explained(WANTED, other.outputs + 0.1 * NOISE, [other])
    assert found is not None and found.certain and found.name == "timestep" and "are another's" in found.said
    unknown = Guess("timestep", "are another's", np.where(np.arange(3)[:, None, None, None, None] < 1, np.nan, WANTED))
    assert candidate.explained(WANTED, WANTED + 0.1 * NOISE, [unknown]) is None


@pytest.mark.parametrize("scale", [-1.0, 0.5, 8.0])
def test_sign_and_scale_of_the_output_are_said(scale: float) -> None:
    found = candidate.explained(WANTED, scale * WANTED + 0.1 * NOISE * scale, [])
    assert found is not None and found.name == "output_scale"
    assert float(found.said.split("times ")[1].split(":")[0]) == pytest.approx(scale, rel=0.05)


def test_noise_is_explained_by_nothing() -> None:
    assert candidate.explained(WANTED, NOISE, []) is None
    assert candidate.explained(WANTED, np.zeros_like(WANTED), []) is None


def test_the_share_that_is_left_of_an_effect() -> None:
    figure = candidate.share_left(WANTED, 0.3 * WANTED + 0.01 * NOISE)
    assert figure is not None and figure.value == pytest.approx(0.3, abs=0.01)
    assert candidate.share_left(0 * WANTED, NOISE) is None
    some = WANTED * (np.arange(8) > 0)[:, None, None, None]  # an item whose condition is the other's too
    assert candidate.share_left(some, 0.5 * some).value == pytest.approx(0.5)  # type: ignore[union-attr]
    (finding,) = candidate.lost({"text_embeds": figure})
    assert finding.certain and "text_embeds is nearly lost: 0.3" in finding.said
    whole = candidate.share_left(WANTED, 0.9 * WANTED)
    unsure = candidate.share_left(WANTED, 0.4 * WANTED + 40 * NOISE)
    assert whole is not None and unsure is not None
    assert candidate.lost({"a": whole, "b": unsure}) == []
    double = candidate.share_left(WANTED, 2 * WANTED)
    assert double is not None and "does too much" in candidate.lost({"a": double})[0].said


def test_the_layer_that_cuts_off_most_is_named() -> None:
    cuts = [Cut("conv_in", 0.001, 0.002), Cut("conv_1", 0.7, 0.8), Cut("conv_2", 0.6, 0.5)]
    found = candidate.saturated(cuts, 0.3)
    assert found is not None and found.certain and "conv_1 reads is saturated: 70.0%" in found.said
    assert not candidate.saturated(cuts, 1e-4).certain  # type: ignore[union-attr]
    assert candidate.saturated(cuts[:1], 0.3) is None and candidate.saturated([], 0.3) is None


def test_kernels_that_saturate_are_named() -> None:
    """Sums of 16 bits, that stop at an end, make a large error where the graph's own is small."""
    loud = np.clip(WANTED + 0.02 * NOISE, -0.5, 0.5)
    found = candidate.inexact_kernels(probe.kernel_loss(WANTED, WANTED + 0.02 * NOISE, loud))
    assert found is not None and found.certain and "dB less exact than the graph node by node" in found.said
    same = probe.kernel_loss(WANTED, WANTED + 0.02 * NOISE, WANTED - 0.02 * NOISE)
    assert candidate.inexact_kernels(same) is None and candidate.inexact_kernels(None) is None


def test_where_outputs_are_not_finite() -> None:
    finite = np.ones((3, 4), dtype=bool)
    assert candidate.not_finite(finite, (9, 5, 1)) is None
    finite[1, 2] = False
    found = candidate.not_finite(finite, (9, 5, 1))
    assert found is not None and found.value == 11 / 12 and "at timestep 5" in found.said


@pytest.mark.parametrize("kind", ["epsilon", "sample", "flow_prediction"])
def test_a_net_of_another_prediction_type_is_told(kind: str) -> None:
    """Its answers follow from the teacher's v, with x_0 = α·x − σ·v and ε = σ·x + α·v."""
    teacher = make_denoiser(SHALLOW_CONFIG)
    clean = torch.randn(4, *teacher.sample_shape, generator=torch.Generator().manual_seed(0))
    frozen = probe.make(teacher, Drawn(clean, {"class_labels": torch.arange(4)}, clean), (999, 499, 249), seed=0)
    alpha, sigma = (x.numpy().reshape(-1, 1, 1, 1, 1) for x in teacher.sampling.level(torch.tensor(frozen.timesteps)))
    x_0 = alpha * frozen.samples - sigma * frozen.conditional
    noise = sigma * frozen.samples + alpha * frozen.conditional
    answers = {"epsilon": noise, "sample": x_0, "flow_prediction": noise - x_0}[kind]
    found = candidate.explained(frozen.conditional, answers, guesses(teacher, frozen, [0, 1, 2]))
    assert found is not None and found.name == "prediction_type" and f"type {kind} gives" in found.said
    one_off = [guess for guess in guesses(teacher, frozen, [0, 1, 2]) if "t + 1" in guess.said]
    found = candidate.explained(frozen.conditional, one_off[0].outputs, guesses(teacher, frozen, [0, 1, 2]))
    assert found is not None and "one earlier: it takes t + 1" in found.said

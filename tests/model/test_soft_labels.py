"""Soft labels of denoised samples: against the formula, and as a loss of `distill`."""

import dataclasses
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compress import training
from compress.errors import CheckpointError, CompressError
from compress.model.denoiser import Denoiser, predict
from compress.model.soft_labels import SoftLabels
from compress.passes import distill
from tests.conftest import CLASS_CONFIG, SCHEDULER, inputs_for, make_context, make_denoiser

LABELS = {"output": 0.0, "feature": 0.0, "labels": 1.0}


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """Four labels, with layers that compute otherwise in training."""
    torch.manual_seed(5)
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 4), nn.Dropout(0.5)).eval()
    torch.jit.script(net).save(tmp_path / "labels.pt")
    return tmp_path / "labels.pt"


def unlike(model: Denoiser) -> Denoiser:
    other = training.student_of(model)
    with torch.no_grad():
        for weight in other.net.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return other


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_equals_the_formula(prediction: str, classifier: Path) -> None:
    settings = {**SCHEDULER, "prediction_type": prediction, "rescale_betas_zero_snr": False}
    model = make_denoiser(CLASS_CONFIG, scheduler=settings)
    labels = SoftLabels(classifier, model, allow_pickle=True).train()
    sample, _, _ = inputs_for(model, 6)
    timestep = torch.tensor([10, 200, 400, 600, 800, 900])
    ours, theirs = (torch.randn(sample.shape, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    alpha, sigma = model.sampling.alpha_sigma(timestep, sample)
    net, found = torch.jit.load(classifier), 0.0
    for i in range(6):
        a, s = float(alpha[i]), float(sigma[i])
        clean = [
            (a * sample[i] - s * output[i]) if prediction == "v_prediction" else (sample[i] - s * output[i]) / a
            for output in (ours, theirs)
        ]
        student, teacher = (torch.softmax(net(one[None])[0].double(), 0) for one in clean)
        found += float((teacher * (teacher.log() - student.log())).sum()) / 6
    assert found > 0.01
    assert float(labels(sample, timestep, ours, theirs)) == pytest.approx(found, rel=1e-4)
    assert float(labels(sample, timestep, ours, ours)) == pytest.approx(0, abs=1e-6)


def test_a_student_learns_to_be_named_as_its_teacher(classifier: Path, tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    context = dataclasses.replace(make_context(model, tmp_path / "run"), allow_pickle=True)
    settings = {
        "losses": LABELS,
        "classifier": classifier,
        "steps": 60,
        "batch_size": 16,
        "learning_rate": 3e-3,
        "ema": 0,
    }
    student = unlike(model)
    found = distill.run(student, distill.Config.model_validate(settings), context).model
    labels = SoftLabels(classifier, model, allow_pickle=True)
    sample, timestep, given = inputs_for(model, 32, seed=9)
    with torch.no_grad():
        wanted = predict(model, sample, timestep, given)
        before, after = (
            float(labels(sample, timestep, predict(one, sample, timestep, given), wanted)) for one in (student, found)
        )
    assert after < before / 2


@pytest.mark.parametrize("losses", [{"labels": 1.0}, {}])
def test_weight_and_classifier_go_together(losses: dict, classifier: Path) -> None:
    given = {} if losses else {"classifier": classifier}
    with pytest.raises(ValidationError, match=r"losses\.labels and classifier go together"):
        distill.Config.model_validate({"losses": losses, **given})


def test_what_cannot_be_is_refused(classifier: Path, tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    config = distill.Config.model_validate({"losses": LABELS, "classifier": classifier})
    with pytest.raises(CompressError, match="--allow-pickle"):
        distill.forecast(model, config, make_context(model, tmp_path / "untrusted"))
    torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(5, 4))).save(tmp_path / "five.pt")
    with pytest.raises(CheckpointError, match=r"five.pt: fails on 2 samples \[1, 8, 8\]"):
        SoftLabels(tmp_path / "five.pt", model, allow_pickle=True)

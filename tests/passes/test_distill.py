"""The distillation losses, on cases whose answer is known."""

import dataclasses
from pathlib import Path

import pytest
import torch

from compress.data import generator
from compress.models.features import tapped
from compress.models.noising import null_share
from compress.passes import distill, prune_channels
from tests.conftest import CLASS_CONFIG, dataset_for, inputs_for, make_context, make_denoiser

ALL = {"losses": {"output": 1, "feature": 1, "task": 1}}


def test_teacher_as_its_own_student_has_no_loss_but_the_task() -> None:
    teacher = make_denoiser(CLASS_CONFIG)
    objective = distill.Imitation(teacher, teacher, distill.Config.model_validate(ALL), "distill")
    losses = objective(dataset_for(teacher).batch(8, 0, 0), generator(0))
    assert losses["output"] == losses["feature"] == 0
    assert losses["task"] > 0
    assert not objective.projections


def test_losses_do_not_depend_on_the_scale_of_the_teacher() -> None:
    """A student that is wrong by 10% everywhere has the relative error 0.01."""
    wanted = torch.randn(4, 3, 5, 5)
    for scale in (1e-3, 1, 1e3):
        error = distill._relative_error(1.1 * scale * wanted, scale * wanted)
        assert error == pytest.approx(0.01, rel=1e-4)


def test_projection_starts_by_putting_surviving_channels_in_their_places(tmp_path: Path) -> None:
    teacher = make_denoiser(CLASS_CONFIG)
    config = prune_channels.Config.model_validate({"target": {"macs": 0.6}, "importance": "l2"})
    student = prune_channels.run(teacher, config, make_context(teacher, tmp_path)).model
    objective = distill.Imitation(student, teacher, distill.Config(), "distill")
    assert objective.projections
    sample, timestep, conditions = inputs_for(student)
    with tapped(student, objective.taps) as features, torch.no_grad():
        student.module(sample, timestep, *conditions.values())
        for tap in objective.taps:
            wide = objective._projected(tap, features[tap])
            kept = list(student.kept[tap])
            assert torch.equal(wide[:, kept], features[tap])


def test_only_the_student_is_trained(tmp_path: Path) -> None:
    teacher = make_denoiser(CLASS_CONFIG)
    before = {name: tensor.clone() for name, tensor in teacher.net.state_dict().items()}
    student = make_denoiser(CLASS_CONFIG, seed=3)
    context = dataclasses.replace(make_context(teacher, tmp_path), teacher=lambda: teacher)
    config = distill.Config.model_validate({"steps": 30, "batch_size": 16, "learning_rate": 2e-3, "ema": 0})
    result = distill.run(student, config, context)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.net.state_dict().items())
    history = result.notes["history"]
    assert history[-1][1] < 0.7 * history[0][1], "the output loss did not go down"


@pytest.mark.parametrize(("scale", "share"), [(1.0, 0.0), (0.0, 0.0), (2.0, 1 / 3), (7.5, 6.5 / 14)])
def test_null_share(scale: float, share: float) -> None:
    assert null_share(scale) == pytest.approx(share)

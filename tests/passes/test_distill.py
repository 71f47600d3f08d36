"""The distillation losses, on cases whose answer is known."""

import dataclasses
from pathlib import Path

import pytest
import torch

from compress import training
from compress.contract import Finished
from compress.errors import PassError
from compress.model.denoiser import Denoiser, draw, guided, predict
from compress.model.features import attending, attention_maps, tapped
from compress.model.noising import null_share
from compress.passes import distill, prune_channels
from compress.randomness import generator
from compress.training import trajectories
from compress.training.trajectories import Trajectories
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG, dataset_for, inputs_for, make_context, make_denoiser

ALL = {"losses": {"output": 1, "feature": 1, "task": 1}}


def test_teacher_as_its_own_student_has_no_loss_but_the_task() -> None:
    teacher = make_denoiser(CLASS_CONFIG)
    objective = distill.Imitation(teacher, teacher, distill.Config.model_validate(ALL), "distill")
    losses = objective(dataset_for(teacher).batch(8, 0, 0), generator(0))
    assert losses["output"] == losses["feature"] == 0
    assert losses["task"] > 0
    assert not objective.stages.projections


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
    stages = objective.stages
    assert stages.projections
    sample, timestep, conditions = inputs_for(student)
    with tapped(student, stages.taps) as features, torch.no_grad():
        student.module(sample, timestep, *conditions.values())
        for tap in stages.taps:
            wide = stages(tap, features[tap])
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


def objective_for(model: Denoiser, settings: dict, walked: Trajectories | None = None) -> distill.Imitation:
    return distill.Imitation(model, model, distill.Config.model_validate(settings), "distill", walked)


@pytest.mark.parametrize("config", [CLASS_CONFIG, TEXT_CONFIG])
def test_a_copy_of_the_teacher_has_no_loss_of_any_kind(config: dict) -> None:
    model = make_denoiser(config)
    losses = {"output": 1, "guided": 1, "feature": 1, "attention": 1}
    found = objective_for(model, {"losses": losses})(dataset_for(model).batch(4, 0, 0), generator(0))
    assert set(found) == set(losses) and all(value == 0 for value in found.values())


def test_guided_loss_is_that_of_the_guided_outputs() -> None:
    teacher, student = make_denoiser(CLASS_CONFIG), make_denoiser(CLASS_CONFIG, seed=3)
    losses = {"output": 0, "feature": 0, "guided": 1}
    objective = distill.Imitation(student, teacher, distill.Config.model_validate({"losses": losses}), "distill")
    batch = dataset_for(teacher).batch(6, 0, 0)
    given = objective._question(batch, generator(7))
    half = slice(0, 6)
    conditions = {name: value[half] for name, value in given.conditions.items()}
    with torch.no_grad():
        ours, theirs = (guided(m, given.sample[half], given.timestep[half], conditions) for m in (student, teacher))
        found = objective(batch, generator(7))["guided"]
    torch.testing.assert_close(found, distill._relative_error(ours, theirs))
    assert (given.conditions["class_labels"][6:] == teacher.sampling.guidance.null_class).all()


def test_attention_maps_are_those_of_the_formula() -> None:
    model = make_denoiser(CLASS_CONFIG)
    path, heads = next((path, block.heads) for path, block in attending(model).items())
    seen = {}
    block = model.net.get_submodule(path)
    handle = block.to_q.register_forward_hook(lambda module, inputs, output: seen.update(x=inputs[0]))
    sample, timestep, conditions = inputs_for(model)
    with attention_maps(model, [path]) as maps, torch.no_grad():
        predict(model, sample, timestep, conditions)
        q, k = block.to_q(seen["x"]), block.to_k(seen["x"])
    handle.remove()
    width = q.shape[-1] // heads
    by_hand = sum(
        (q[..., i * width : (i + 1) * width] @ k[..., i * width : (i + 1) * width].mT / width**0.5).softmax(-1)
        for i in range(heads)
    )
    torch.testing.assert_close(maps[path], by_hand / heads)
    torch.testing.assert_close(maps[path].sum(-1), torch.ones(maps[path].shape[:2]))


def test_states_are_those_of_the_teachers_sampling(tmp_path: Path) -> None:
    teacher = make_denoiser(CLASS_CONFIG)
    context = dataclasses.replace(make_context(teacher, tmp_path), teacher=lambda: teacher)
    config = distill.Config.model_validate({"states": "trajectory", "trajectories": 7, "steps": 2, "batch_size": 4})
    walked = trajectories.drawn(teacher, 7, context)
    assert walked.states.shape == (len(teacher.sampling.timesteps) + 1, 7, *teacher.sample_shape)
    assert torch.equal(walked.states[-1], draw(teacher, walked.states[0], walked.conditions))
    for held_out, part in ((False, slice(0, 6)), (True, slice(6, 7))):
        timesteps, given = walked.draw(5, generator(1), held_out)
        for sample, timestep in zip(given.images, timesteps, strict=True):
            place = int((walked.timesteps == timestep).nonzero())
            assert any(torch.equal(sample, state) for state in walked.states[place, part])
    assert distill.run(make_denoiser(CLASS_CONFIG, seed=3), config, context).changed


def test_conditions_of_other_images(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    batch = dataset_for(model).batch(64, 0, 0)
    settings = {"random_conditions": 1.0, "null_fraction": 0.0}
    given = objective_for(model, settings)._question(batch, generator(0)).conditions["class_labels"]
    assert not torch.equal(given, batch.conditions["class_labels"])
    assert torch.equal(given.sort().values, batch.conditions["class_labels"].sort().values)


def test_unknown_teacher_is_named(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    with pytest.raises(PassError, match="no pass 'distil-1' before this one; there are: none"):
        distill.run(model, distill.Config(teacher="distil-1"), make_context(model, tmp_path))


def test_an_earlier_pass_can_be_the_teacher(tmp_path: Path) -> None:
    model, first = make_denoiser(CLASS_CONFIG), make_denoiser(CLASS_CONFIG, seed=5)
    context = dataclasses.replace(
        make_context(model, tmp_path), finished=(Finished("first", "distill", lambda: first),), teacher=lambda: model
    )
    assert distill._teacher(model, distill.Config(teacher="first"), context) is first
    assert distill._teacher(model, distill.Config(), context) is model


def test_the_students_own_average_is_the_teacher(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    settings = {"teacher": "average", "losses": {"output": 1, "feature": 0, "task": 1}, "steps": 4, "batch_size": 4}
    config = distill.Config.model_validate({**settings, "ema": 0.5, "learning_rate": 0.01})
    objective = distill.imitation(model, config, make_context(model, tmp_path))
    assert objective.average is not objective.student.net
    random = generator(3)
    batch = dataset_for(model).batch(4, 0, 0)
    assert objective(batch, random)["output"] == 0, "it begins with itself"
    average = next(objective.average.parameters()).clone()
    training.train(objective, objective.net, config, make_context(model, tmp_path), dataset_for(model))
    trained, shown = next(objective.student.net.parameters()), next(objective.average.parameters())
    assert not torch.equal(shown, average) and not torch.equal(shown, trained)
    result = distill.run(model, config, make_context(model, tmp_path / "run"))
    assert any(loss > 0 for _, loss, _ in result.notes["history"])


def test_a_student_that_only_copies_itself_is_refused() -> None:
    with pytest.raises(ValueError, match=r"set losses\.task"):
        distill.Config.model_validate({"teacher": "average"})


def test_task_needs_images() -> None:
    with pytest.raises(ValueError, match=r"losses\.task needs images"):
        distill.Config.model_validate({"states": "trajectory", "losses": {"task": 1}})

"""Many steps into few: each method brings the student's samples nearer to the teacher's of the same noise."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from compress import passes
from compress.contract import Context, PassResult
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.errors import BundleError, PassError
from compress.model.denoiser import Denoiser, draw, walk
from compress.model.reference import conditions_for, noise_like
from compress.pipeline import checkpoint
from compress.quantization.calibration import trajectory_points
from compress.training.trajectories import Trajectories
from tests.conftest import (
    FLOW,
    SCHEDULER,
    SHALLOW_CONFIG,
    TEXT_CONFIG,
    UNCONDITIONAL_CONFIG,
    assert_close_db,
    make_context,
    make_denoiser,
)

STEPS, GUIDANCE = passes.module("distill_steps"), passes.module("distill_guidance")
QUICK = {"steps": 3, "batch_size": 8, "trajectories": 20}
EDM = {"_class_name": "EDMEulerScheduler"}
KARRAS = {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True, "prediction_type": "v_prediction"}
CONFIGS = {"class": SHALLOW_CONFIG, "text": TEXT_CONFIG, "unconditional": UNCONDITIONAL_CONFIG}


def teacher_of(kind: str = "class", steps: int = 8) -> Denoiser:
    return make_denoiser(CONFIGS[kind], steps=steps)


def run(model: Denoiser, folder: Path, teacher: Denoiser | None = None, **settings: Any) -> PassResult:
    context = make_context(teacher or model, folder)
    return STEPS.run(model, STEPS.Config.model_validate(settings), context)


def distance(student: Denoiser, teacher: Denoiser, folder: Path, count: int = 48) -> float:
    """Relative squared error of samples from the same noise, which no training saw."""
    noise = noise_like(teacher, count, 77)
    context = make_context(teacher, folder)
    conditions = conditions_for(teacher, count, context.dataset, 77)
    wanted = draw(teacher, noise, conditions)
    return float((draw(student, noise, conditions) - wanted).square().mean() / wanted.square().mean())


def at_few_steps(teacher: Denoiser, count: int) -> Denoiser:
    """The teacher itself, not distilled, with DDIM and few of its steps."""
    grid = teacher.sampling.timesteps
    few = tuple(grid[i * len(grid) // count] for i in range(count))
    return dataclasses.replace(
        teacher, sampling=teacher.sampling.model_copy(update={"solver": "ddim", "timesteps": few})
    )


@pytest.mark.parametrize("method", ["trajectory", "progressive", "consistency"])
def test_student_comes_nearer_than_the_teacher_with_as_few_steps(method: str, tmp_path: Path) -> None:
    teacher = teacher_of()
    settings = {"batch_size": 16, "learning_rate": 2e-3, "ema": 0.9, "trajectories": 300}
    steps = 500 if method == "consistency" else 250  # it is slower: on other noise 250 steps reach 0.74 to 0.84
    result = run(teacher, tmp_path, method=method, sampling_steps=[2], steps=steps, **settings)
    student = result.model
    grid = teacher.sampling.timesteps
    assert student.sampling.timesteps == (grid[0], grid[4]) and student.sampling.distilled
    assert student.sampling.guidance == teacher.sampling.guidance and student.sampling.solver == "ddim"
    before, after = (distance(m, teacher, tmp_path) for m in (at_few_steps(teacher, 2), student))
    assert after < 0.8 * before, (method, before, after)


@pytest.mark.parametrize(
    ("kind", "method"), [("text", "trajectory"), ("text", "consistency"), ("unconditional", "progressive")]
)
def test_runs_on_every_family_and_is_read_back(kind: str, method: str, tmp_path: Path) -> None:
    teacher = teacher_of(kind)
    more = {} if method == "trajectory" else {"method": method}
    student = run(teacher, tmp_path, sampling_steps=[2], **more, **QUICK).model
    checkpoint.save(student, tmp_path / "saved")
    again = checkpoint.load(tmp_path / "saved")
    assert again.sampling == student.sampling
    assert distance(again, student, tmp_path, 4) == 0
    assert distance(student, teacher, tmp_path, 4) > 0


def test_one_student_serves_several_step_counts(tmp_path: Path) -> None:
    teacher = teacher_of()
    student = run(
        teacher,
        tmp_path,
        sampling_steps=[4, 1, 2],
        steps=200,
        batch_size=16,
        learning_rate=2e-3,
        ema=0.9,
        trajectories=200,
    ).model
    assert len(student.sampling.timesteps) == 4 and list(map(len, student.sampling.others)) == [1, 2]
    assert list(student.inputs) == ["class_labels", "steps"]
    for count in (1, 2):  # in four, the smooth teacher of this test is as good without
        served = dataclasses.replace(student, sampling=student.sampling.at(count))
        assert distance(served, teacher, tmp_path) < distance(at_few_steps(teacher, count), teacher, tmp_path)
    with pytest.raises(ValueError, match="8 steps: the model serves 1, 2, 4"):
        student.sampling.at(8)
    context = make_context(teacher, tmp_path / "export")
    export = passes.module("export_onnx")
    bundle = export.run(student, export.Config(), context).model
    noise, labels = noise_like(teacher, 3, 5), torch.tensor([1, 2, 3])
    for count in (1, 2, 4):
        served = dataclasses.replace(student, sampling=student.sampling.at(count))
        wanted = draw(served, noise, {"class_labels": labels}).numpy()
        got = bundle.at_steps(count).sample(noise.numpy(), class_labels=labels.numpy())
        assert_close_db(wanted, got, 60)
    with pytest.raises(BundleError, match="serves 1, 2, 4 steps, not 3"):
        bundle.at_steps(3)
    points = trajectory_points(student, 4, 70, context.seed, context.dataset)
    assert sorted(set(points[-1].tolist())) == [1, 2, 4]
    for count in (1, 2, 4):  # every evaluation is at a timestep that goes with its count
        path = student.sampling.at(count).timesteps
        assert set(points[1][points[-1] == count].tolist()) == set(path)


def test_guidance_and_steps_together(tmp_path: Path) -> None:
    """A student whose scale is an input walks trajectories of all scales."""
    teacher = teacher_of()
    first = GUIDANCE.run(
        teacher,
        GUIDANCE.Config.model_validate({"mode": "embedded", "scales": [1, 4], "steps": 3, "batch_size": 8}),
        make_context(teacher, tmp_path / "first"),
    ).model
    both = run(first, tmp_path / "second", teacher, sampling_steps=[2, 1], **QUICK).model
    assert list(both.inputs) == ["class_labels", "guidance_scale", "steps"]
    assert both.sampling.guidance.scales == (1.0, 4.0)
    for method in ("progressive", "consistency"):
        done = run(first, tmp_path / method, teacher, sampling_steps=[2], method=method, **QUICK).model
        assert list(done.inputs) == ["class_labels", "guidance_scale"]


def test_own_timesteps_are_kept_where_the_number_is_the_same(tmp_path: Path) -> None:
    teacher = teacher_of()
    grid = teacher.sampling.timesteps
    own = (grid[0], grid[6])
    chosen = dataclasses.replace(teacher, sampling=teacher.sampling.model_copy(update={"timesteps": own}))
    assert run(chosen, tmp_path / "a", teacher, sampling_steps=[2], **QUICK).model.sampling.timesteps == own
    spaced = run(chosen, tmp_path / "b", teacher, sampling_steps=[4], **QUICK).model.sampling.timesteps
    assert spaced == grid[::2]


def test_a_killed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    teacher = teacher_of()
    settings = {"method": "progressive", "sampling_steps": [2], **QUICK}
    whole = run(teacher, tmp_path / "whole", **settings).model
    context = make_context(teacher, tmp_path / "killed")

    class Killed(Exception):
        pass

    def dying(title: str, total: int) -> Any:
        if "to 2 steps" in title:
            raise Killed
        return make_context(teacher, tmp_path / "other").progress(title, total)

    config = STEPS.Config.model_validate(settings)
    with pytest.raises(Killed):
        STEPS.run(teacher, config, dataclasses.replace(context, progress=dying))
    resumed = STEPS.run(teacher, config, context).model
    for one, other in zip(whole.net.parameters(), resumed.net.parameters(), strict=True):
        assert torch.equal(one, other)


def test_distill_recovers_a_few_step_student_only_from_a_few_step_teacher(tmp_path: Path) -> None:
    teacher = teacher_of()
    few = run(teacher, tmp_path, sampling_steps=[2, 4], **QUICK).model
    distill = passes.module("distill")
    context: Context = make_context(teacher, tmp_path / "next")
    with pytest.raises(PassError, match="does the work of several"):
        distill.run(few, distill.Config(steps=2, batch_size=4), context)
    context = make_context(few, tmp_path / "last")
    assert distill.run(few, distill.Config(steps=2, batch_size=4), context).changed


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    teacher = teacher_of(steps=4)
    with pytest.raises(PassError, match="sampling_steps: 8 of a teacher with 4"):
        run(teacher, tmp_path, sampling_steps=[8], **QUICK)
    with pytest.raises(PassError, match="sampling_steps: 3 of a teacher with 4"):
        run(teacher, tmp_path, sampling_steps=[3], method="progressive", **QUICK)
    with pytest.raises(PassError, match="no pass 'before'"):
        config = STEPS.Config.model_validate({"sampling_steps": [2], "teacher": "before", **QUICK})
        STEPS.run(teacher, config, make_context(teacher, tmp_path))
    assert SCHEDULER["prediction_type"] == "v_prediction"
    epsilon = teacher.sampling.model_copy(update={"prediction_type": "epsilon"})
    with pytest.raises(PassError, match="ε-prediction"):
        run(dataclasses.replace(teacher, sampling=epsilon), tmp_path, sampling_steps=[2], **QUICK)
    guidance = teacher.sampling.guidance.model_copy(update={"kind": "embedded", "scales": (1.0, 3.0)})
    told = dataclasses.replace(teacher, sampling=teacher.sampling.model_copy(update={"guidance": guidance}))
    with pytest.raises(PassError, match="distribution: the nets that follow are told no guidance scale"):
        run(told, tmp_path, sampling_steps=[2], method="distribution", **QUICK)


@pytest.mark.parametrize(
    "settings",
    [
        {"sampling_steps": []},
        {"sampling_steps": [0]},
        {"sampling_steps": [2, 2]},
        {"sampling_steps": [1, 2], "method": "progressive"},
        {"method": "consistency", "ema": 0},
        {"method": "adversarial"},
        {"samples": 10},
        {"method": "distribution", "early_stop": {}},
    ],
)
def test_bad_settings(settings: dict) -> None:
    with pytest.raises(ValidationError):
        STEPS.Config.model_validate(settings)


@pytest.mark.parametrize("method", ["trajectory", "progressive", "consistency"])
def test_forecast_gives_the_model_with_its_steps_and_a_time(method: str, tmp_path: Path) -> None:
    teacher = teacher_of()
    config = STEPS.Config.model_validate({"method": method, "sampling_steps": [2], "steps": 5, "batch_size": 8})
    forecast = STEPS.forecast(teacher, config, make_context(teacher, tmp_path))
    assert len(forecast.model.sampling.timesteps) == 2 and forecast.seconds > 0 and forecast.memory_bytes > 0


def test_guidance_and_steps_in_one_pass(tmp_path: Path) -> None:
    teacher = teacher_of()
    settings = {"batch_size": 16, "learning_rate": 2e-3, "ema": 0.9, "trajectories": 300}
    result = run(teacher, tmp_path, sampling_steps=[2], bake_guidance=True, steps=250, **settings)
    student = result.model
    guidance = teacher.sampling.guidance
    assert student.sampling.guidance == guidance.model_copy(update={"kind": "baked"})
    unguided = at_few_steps(teacher, 2).sampling.model_copy(update={"guidance": student.sampling.guidance})
    before = distance(dataclasses.replace(teacher, sampling=unguided), teacher, tmp_path)
    assert distance(student, teacher, tmp_path) < 0.8 * before
    with pytest.raises(PassError, match="the model's guidance is baked already"):
        run(student, tmp_path / "again", teacher, sampling_steps=[1], bake_guidance=True, **QUICK)
    with pytest.raises(PassError, match="the model's guidance is none already"):
        run(teacher_of("unconditional"), tmp_path / "none", sampling_steps=[2], bake_guidance=True, **QUICK)


def test_teacher_leads_in_steps_of_its_own(tmp_path: Path) -> None:
    teacher = teacher_of()
    student = run(teacher, tmp_path, sampling_steps=[2], teacher_steps=4, **QUICK).model
    wanted = from_scheduler_config(SCHEDULER, SamplingOptions(solver=teacher.sampling.solver, steps=4)).timesteps
    assert student.sampling.timesteps == (wanted[0], wanted[2])
    with pytest.raises(PassError, match="teacher_steps: 2000 sampling steps"):
        run(teacher, tmp_path / "many", teacher_steps=2000, **QUICK)
    context = dataclasses.replace(make_context(teacher, tmp_path / "few"), teacher=lambda: student)
    with pytest.raises(PassError, match="the teacher's steps are distilled"):
        STEPS.run(teacher, STEPS.Config.model_validate({"teacher_steps": 4, **QUICK}), context)


def test_moments_bring_the_students_spread_nearer_to_the_teachers(tmp_path: Path) -> None:
    teacher = teacher_of("unconditional")
    noise = noise_like(teacher, 400, 77)
    wanted = float(draw(teacher, noise, {}).var(0).sum())
    settings = {"batch_size": 16, "learning_rate": 2e-3, "ema": 0.9, "trajectories": 300, "steps": 150}
    off = {}
    for weight in (0.0, 5.0):
        student = run(teacher, tmp_path / str(weight), sampling_steps=[1], moments=weight, **settings).model
        off[weight] = abs(float(draw(student, noise, {}).var(0).sum()) / wanted - 1)
    assert off[5.0] < off[0.0], off


def test_moments_need_trajectories() -> None:
    with pytest.raises(ValidationError, match="moments: needs method: trajectory"):
        STEPS.Config.model_validate({"moments": 1, "method": "progressive"})
    with pytest.raises(ValidationError, match="raise batch_size ÷ accumulate to 4"):
        STEPS.Config.model_validate({"moments": 1, "batch_size": 8, "accumulate": 4})


def test_a_few_step_student_is_distilled_further(tmp_path: Path) -> None:
    """As a recipe does that ends with large batches: its steps and its guidance stay as they are."""
    teacher = teacher_of()
    first = run(teacher, tmp_path / "1", sampling_steps=[2], bake_guidance=True, teacher_steps=4, **QUICK).model
    context = make_context(teacher, tmp_path / "2")
    again = {"sampling_steps": [2], "teacher_steps": 4, "moments": 1.0, **QUICK, "skip": 50}
    second = STEPS.run(first, STEPS.Config.model_validate(again), context).model
    assert second.sampling == first.sampling
    with pytest.raises(PassError, match="the model's guidance is baked already"):
        STEPS.run(first, STEPS.Config.model_validate({**again, "bake_guidance": True}), context)


def test_of_several_numbers_of_steps_every_step_counts_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = teacher_of()
    config = STEPS.Config.model_validate({"sampling_steps": [4, 1], **QUICK})
    student, leads, grid = STEPS._student(teacher, config, make_context(teacher, tmp_path))
    noise = noise_like(student, 8, 0)
    conditions = conditions_for(student, 8, make_context(teacher, tmp_path).dataset, 0)
    walked = Trajectories(noise.expand(len(grid.timesteps) + 1, *noise.shape), grid.timesteps, conditions)
    objective = STEPS.Steps(student, leads, grid, config.sampling_steps, walked)
    monkeypatch.setattr(objective.grid, "error", lambda *given: torch.ones(()))
    random = torch.Generator().manual_seed(0)
    losses = {round(float(objective._walk(walked, 4, random, noise.device)["steps"]), 6) for _ in range(20)}
    assert losses == {4 * 2 / 5, 1 * 2 / 5}, "one number of steps would be 1: their mean is"


def test_a_flow_matching_teacher_is_followed(tmp_path: Path) -> None:
    """The student keeps timesteps of the teacher's own, which are no whole numbers, and comes nearer to it."""
    teacher = make_denoiser(UNCONDITIONAL_CONFIG, scheduler=FLOW)
    with torch.no_grad():
        teacher.net.conv_out.weight.mul_(4)  # else its flow is all but straight, and two steps err by half a percent
    settings = {"steps": 100, "batch_size": 16, "learning_rate": 1e-3, "ema": 0.9, "trajectories": 200}
    student = run(teacher, tmp_path, sampling_steps=[2], **settings).model
    own = teacher.sampling.timesteps
    assert student.sampling.timesteps == (own[0], own[2]) and student.sampling.schedule == teacher.sampling.schedule
    checkpoint.save(student, tmp_path / "student")
    assert checkpoint.load(tmp_path / "student").sampling == student.sampling
    before, after = (distance(m, teacher, tmp_path) for m in (at_few_steps(teacher, 2), student))
    assert after < 0.8 * before, (before, after)


@pytest.mark.parametrize("scheduler", [FLOW, EDM, KARRAS], ids=["flow", "edm", "karras"])
def test_a_student_that_takes_all_steps_has_no_error(scheduler: dict, tmp_path: Path) -> None:
    """On levels of any kind: what it is asked and told is what its teacher is asked and told."""
    teacher = make_denoiser(UNCONDITIONAL_CONFIG, scheduler=scheduler)
    context = make_context(teacher, tmp_path)
    for settings in ({"sampling_steps": 4}, {"method": "consistency", "sampling_steps": 4}):
        config = STEPS.Config.model_validate(settings)
        student, leader, grid = STEPS._student(teacher, config, context)
        states = walk(teacher, noise_like(teacher, 8, 1), {})
        walked = Trajectories(states, grid.timesteps, {}) if config.method == "trajectory" else None
        objective = STEPS._objective(student, leader, grid, config, walked)
        with torch.no_grad():
            losses = objective(context.dataset().batch(8, 0, 0), torch.Generator().manual_seed(0))
        assert float(losses["steps"]) < 1e-9

"""Two evaluations into one: the student learns the guided output, at one scale or at all."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from compress import passes
from compress.contract import PassResult
from compress.errors import BundleError, PassError
from compress.model.denoiser import Denoiser, draw, guided, predict
from compress.model.reference import noise_like
from compress.pipeline import checkpoint
from tests.conftest import (
    CLASS_CONFIG,
    TEXT_CONFIG,
    UNCONDITIONAL_CONFIG,
    assert_close_db,
    inputs_for,
    make_context,
    make_denoiser,
)

GUIDANCE = passes.module("distill_guidance")
QUICK = {"steps": 3, "batch_size": 8}


def run(model: Denoiser, folder: Path, **settings: Any) -> PassResult:
    return GUIDANCE.run(model, GUIDANCE.Config.model_validate(settings), make_context(model, folder))


def error(student: Denoiser, teacher: Denoiser, scale: float) -> float:
    """Relative squared error of one evaluation of the student against the guided teacher's."""
    sample, timestep, conditions = inputs_for(teacher, batch=64)
    own = torch.tensor(teacher.sampling.timesteps)
    timestep = own[torch.arange(64) % len(own)]
    given = {**conditions, "guidance_scale": torch.full((64,), scale)}
    with torch.no_grad():
        wanted = guided(teacher, sample, timestep, given)
        found = predict(student, sample, timestep, given)
    return float((found - wanted).square().mean() / wanted.square().mean())


def test_one_evaluation_comes_to_be_the_guided_output(tmp_path: Path) -> None:
    teacher = make_denoiser(CLASS_CONFIG, scale=3.0)
    result = run(teacher, tmp_path, steps=150, batch_size=32, learning_rate=4e-3, ema=0.9)
    student = result.model
    assert student.sampling.guidance.kind == "baked" and student.sampling.guidance.scale == 3.0
    assert student.sampling.timesteps == teacher.sampling.timesteps and not student.sampling.distilled
    history = result.notes["history"]
    assert history[-1][1] < 0.5 * history[0][1]
    sample, timestep, conditions = inputs_for(student)
    assert torch.equal(guided(student, sample, timestep, conditions), predict(student, sample, timestep, conditions))


def test_embedded_answers_to_the_scale(tmp_path: Path) -> None:
    teacher = make_denoiser(CLASS_CONFIG, scale=2.0)
    student = run(
        teacher, tmp_path, mode="embedded", scales=[1, 5], steps=200, batch_size=24, learning_rate=4e-3, ema=0.9
    ).model
    assert student.sampling.guidance.kind == "embedded" and student.sampling.guidance.scales == (1.0, 5.0)
    errors = {scale: error(student, teacher, scale) for scale in (1.0, 3.0, 5.0)}
    plain = error(dataclasses.replace(teacher), teacher, 5.0)  # its one evaluation, which knows of no scale
    assert errors[5.0] < 0.6 * plain
    sample, timestep, conditions = inputs_for(student)
    outputs = [
        predict(student, sample, timestep, {**conditions, "guidance_scale": torch.full((3,), s)}) for s in (1, 5)
    ]
    assert not torch.allclose(*outputs, atol=1e-3)


@pytest.mark.parametrize(("config", "scheme"), [(CLASS_CONFIG, "int8"), (TEXT_CONFIG, "float")], ids=["class", "text"])
def test_embedded_survives_save_load_and_export(config: dict, scheme: str, tmp_path: Path) -> None:
    teacher = make_denoiser(config, scale=2.0)
    model = run(teacher, tmp_path, mode="embedded", learning_rate=0.05, ema=0, **QUICK).model
    checkpoint.save(model, tmp_path / "saved")
    again = checkpoint.load(tmp_path / "saved")
    sample, timestep, conditions = inputs_for(model)
    assert again.sampling == model.sampling
    assert torch.equal(guided(again, sample, timestep, conditions), guided(model, sample, timestep, conditions))
    context = make_context(teacher, tmp_path)
    shipped: Any = again
    if scheme == "int8":
        quantize = passes.module("quantize")
        shipped = quantize.run(again, quantize.Config(samples=4, evaluations=20), context).model
        checkpoint.save(shipped, tmp_path / "int8")
        assert torch.equal(
            draw(
                checkpoint.load(tmp_path / "int8"), noise_like(model, 2, 1), {n: v[:2] for n, v in conditions.items()}
            ),
            draw(shipped, noise_like(model, 2, 1), {n: v[:2] for n, v in conditions.items()}),
        )
    export = passes.module("export_onnx")
    bundle = export.run(shipped, export.Config(), context).model
    noise = noise_like(model, 3, 1)
    arrays = {name: value.numpy() for name, value in conditions.items()}
    for scale in (2.0, 4.5):
        guidance = model.sampling.guidance.model_copy(update={"scale": scale})
        at = dataclasses.replace(again, sampling=model.sampling.model_copy(update={"guidance": guidance}))
        wanted = draw(at, noise, conditions).numpy()
        assert_close_db(wanted, bundle.at_scale(scale).sample(noise.numpy(), **arrays), 60 if scheme == "float" else 5)
    with pytest.raises(BundleError, match="got 7"):
        bundle.at_scale(7)


def test_baked_bundle_knows_one_scale_and_evaluates_once(tmp_path: Path) -> None:
    teacher = make_denoiser(CLASS_CONFIG, scale=2.0)
    model = run(teacher, tmp_path, learning_rate=0.05, ema=0, **QUICK).model
    export = passes.module("export_onnx")
    bundle = export.run(model, export.Config(batch=1), make_context(teacher, tmp_path)).model
    with pytest.raises(BundleError, match=r"2\.0 alone"):
        bundle.at_scale(3)
    calls = []
    truly = bundle.denoise
    bundle.denoise = lambda *given: calls.append(len(given[0])) or truly(*given)
    bundle.sample(noise_like(model, 1, 1).numpy(), class_labels=torch.tensor([3]).numpy())
    assert calls == [1] * len(bundle.steps)


def test_what_cannot_be_distilled_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PassError, match="not guided"):
        run(make_denoiser(UNCONDITIONAL_CONFIG), tmp_path, **QUICK)
    teacher = make_denoiser(CLASS_CONFIG, scale=2.0)
    with pytest.raises(PassError, match=r"2.0 is not in scales: \[3.0, 5.0\]"):
        run(teacher, tmp_path, mode="embedded", scales=[3, 5], **QUICK)
    student = run(teacher, tmp_path / "first", **QUICK).model
    context = make_context(teacher, tmp_path / "second")
    with pytest.raises(PassError, match="baked already"):
        GUIDANCE.run(student, GUIDANCE.Config(**QUICK), context)


@pytest.mark.parametrize("settings", [{"scales": [1, 5]}, {"mode": "embedded", "scales": [2, 2]}, {"mode": "both"}])
def test_bad_settings(settings: dict) -> None:
    with pytest.raises(ValidationError):
        GUIDANCE.Config.model_validate(settings)


def test_a_guided_student_can_be_pruned_and_recovered(tmp_path: Path) -> None:
    """distill asks the teacher for its guided output where the student's one evaluation is guided."""
    teacher = make_denoiser(CLASS_CONFIG, scale=2.0)
    student = run(teacher, tmp_path, **QUICK).model
    context = make_context(teacher, tmp_path / "next")
    prune, distill = passes.module("prune_channels"), passes.module("distill")
    pruned = prune.run(student, prune.Config.model_validate({"target": {"macs": 0.7}, "batches": 1}), context).model
    config = distill.Config.model_validate({"steps": 60, "batch_size": 16, "learning_rate": 4e-3, "ema": 0.9})
    before = error(pruned, teacher, 2.0)
    done = distill.run(pruned, config, context)
    assert done.model.sampling.guidance.kind == "baked"
    assert error(done.model, teacher, 2.0) < before

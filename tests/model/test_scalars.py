"""Numbers that a net takes as inputs."""

import dataclasses
from pathlib import Path

import pytest
import torch

from compress import passes
from compress.errors import CheckpointError
from compress.model import scalars
from compress.model.denoiser import Denoiser, predict
from compress.pipeline import checkpoint
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG, inputs_for, make_context, make_denoiser, read_json


def with_scalars(model: Denoiser, *names: str, trained: bool = True) -> Denoiser:
    for name in names:
        scalars.add(model.net, model.family, name)
    if trained:
        torch.manual_seed(3)
        for embedding in model.net.class_embedding.embeddings.values():
            torch.nn.init.normal_(embedding[2].weight)
    model.net.requires_grad_(False)
    return dataclasses.replace(model)


def test_before_training_the_net_computes_what_it_did(any_model: Denoiser) -> None:
    sample, timestep, conditions = inputs_for(any_model)
    before = predict(any_model, sample, timestep, conditions)
    model = with_scalars(any_model, scalars.GUIDANCE_SCALE, scalars.STEPS, trained=False)
    for scale in (1.0, 4.0):
        given = {**conditions, "guidance_scale": torch.full((3,), scale)}
        torch.testing.assert_close(predict(model, sample, timestep, given), before)


def test_each_is_read_and_defaults_to_that_of_the_sampling(any_model: Denoiser) -> None:
    model = with_scalars(any_model, scalars.GUIDANCE_SCALE, scalars.STEPS)
    assert list(model.inputs)[-2:] == ["guidance_scale", "steps"]
    sample, timestep, conditions = inputs_for(model)
    usual = predict(model, sample, timestep, conditions)
    asked = {"guidance_scale": torch.full((3,), model.sampling.guidance.scale), "steps": torch.full((3,), 4.0)}
    assert torch.equal(predict(model, sample, timestep, {**conditions, **asked}), usual)
    for name in asked:
        other = predict(model, sample, timestep, {**conditions, name: asked[name] + 1})
        assert not torch.allclose(other, usual, atol=1e-4)


def test_saved_and_read_again(any_model: Denoiser, tmp_path: Path) -> None:
    model = with_scalars(any_model, scalars.GUIDANCE_SCALE)
    checkpoint.save(model, tmp_path)
    again = checkpoint.load(tmp_path)
    sample, timestep, conditions = inputs_for(model)
    conditions["guidance_scale"] = torch.tensor([1.0, 2.0, 5.0])
    assert torch.equal(predict(again, sample, timestep, conditions), predict(model, sample, timestep, conditions))


def test_one_more_keeps_what_was_learned() -> None:
    first = with_scalars(make_denoiser(CLASS_CONFIG), scalars.GUIDANCE_SCALE)
    sample, timestep, conditions = inputs_for(first)
    before = predict(first, sample, timestep, conditions)
    second = with_scalars(first, scalars.STEPS, trained=False)
    torch.testing.assert_close(predict(second, sample, timestep, conditions), before)
    assert list(second.inputs) == ["class_labels", "guidance_scale", "steps"]


def test_a_class_embedding_that_is_computed_from_times_is_refused() -> None:
    model = make_denoiser({**CLASS_CONFIG, "num_class_embeds": None, "class_embed_type": "timestep"}, scale=None)
    with pytest.raises(ValueError, match="class_embed_type 'timestep'"):
        scalars.add(model.net, model.family, scalars.STEPS)


@pytest.mark.parametrize(
    "edit", [{"names": []}, {"names": ["colour"]}, {"names": ["steps", "steps"]}, {"width": 0}, {"names": [["steps"]]}]
)
def test_a_damaged_edit_is_refused(edit: dict, tmp_path: Path) -> None:
    import json

    checkpoint.save(with_scalars(make_denoiser(CLASS_CONFIG), scalars.STEPS), tmp_path)
    content = read_json(tmp_path / "structure.json")
    content["edits"]["class_embedding"] |= edit
    (tmp_path / "structure.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="class_embedding"):
        checkpoint.load(tmp_path)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("prune_blocks", {"layout": "bk-small"}),
        ("prune_channels", {"target": {"macs": 0.7}, "batches": 1}),
        ("factorize", {"target": {"rank": 0.2}, "batches": 1}),
        ("new_student", {"config": {"block_out_channels": [8, 16]}}),
    ],
)
@pytest.mark.parametrize("config", [CLASS_CONFIG, TEXT_CONFIG], ids=["class", "text"])
def test_passes_that_make_a_net_smaller_leave_its_numbers(
    kind: str, settings: dict, config: dict, tmp_path: Path
) -> None:
    model = with_scalars(make_denoiser({**config, "layers_per_block": 2}), scalars.GUIDANCE_SCALE, scalars.STEPS)
    module = passes.module(kind)
    result = module.run(model, module.Config.model_validate(settings), make_context(model, tmp_path))
    assert result.changed and list(result.model.inputs) == list(model.inputs)
    checkpoint.save(result.model, tmp_path / "saved")
    again, inputs = checkpoint.load(tmp_path / "saved"), inputs_for(model)
    with torch.no_grad():
        assert torch.equal(predict(again, *inputs), predict(result.model, *inputs))

"""A student is what its config says, inherits what fits, and is a model of diffusers like any other."""

import dataclasses
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch

from compress.contract import PassResult
from compress.errors import PassError
from compress.measure import counts
from compress.model.denoiser import Denoiser, predict
from compress.passes import distill, factorize, new_student, prune_channels
from compress.pipeline import checkpoint
from compress.randomness import generator
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG, dataset_for, inputs_for, make_context, make_denoiser

THREE = {
    **CLASS_CONFIG,
    "block_out_channels": [8, 16, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
TWO = {
    "block_out_channels": [8, 16],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}


def born(teacher: Denoiser, folder: Path, changes: dict[str, Any], **settings: Any) -> PassResult[Denoiser]:
    config = new_student.Config.model_validate({"config": changes, **settings})
    seed = settings.pop("seed", 0)
    return new_student.run(teacher, config, make_context(teacher, folder, name="new_student", seed=seed))


def weights(model: Denoiser) -> dict[str, torch.Tensor]:
    return dict(model.net.named_parameters())


@pytest.mark.parametrize("inherit", ["weights", "slices", "none"])
@pytest.mark.parametrize("config", [CLASS_CONFIG, TEXT_CONFIG], ids=["class", "text"])
def test_is_a_plain_diffusers_model(config: dict, inherit: str, tmp_path: Path) -> None:
    teacher = make_denoiser(config)
    result = born(teacher, tmp_path, {"block_out_channels": [8, 16]}, inherit=inherit)
    student = result.model
    checkpoint.save(student, tmp_path / "saved")
    assert not (tmp_path / "saved" / "structure.json").exists()
    inputs = inputs_for(student)
    with torch.no_grad():
        wanted = predict(student, *inputs)
        assert torch.equal(predict(checkpoint.load(tmp_path / "saved"), *inputs), wanted)
        read = getattr(diffusers, student.family.name).from_pretrained(tmp_path / "saved" / "unet")
        assert torch.equal(student.family.positional(read)(*inputs[:2], *inputs[2].values()), wanted)
    assert wanted.shape == inputs[0].shape and not wanted.requires_grad
    assert student.sampling == teacher.sampling and student.kept == {}
    assert result.notes["after"] == {"macs": counts.macs(student), "params": counts.parameters(student)}
    assert result.notes["ratios"]["params"] < 0.5


def test_parameters_that_agree_are_the_teachers(tmp_path: Path) -> None:
    teacher = make_denoiser({**CLASS_CONFIG, "layers_per_block": 2})
    result = born(teacher, tmp_path, {"layers_per_block": 1})
    theirs, mine = weights(teacher), weights(result.model)
    equal = {name for name, value in mine.items() if theirs[name].shape == value.shape}
    assert {
        name for name, value in mine.items() if theirs[name].shape == value.shape and torch.equal(value, theirs[name])
    } == equal
    assert result.notes["inherited"] == round(
        sum(mine[name].numel() for name in equal) / counts.parameters(result.model), 4
    )
    assert 0.5 < result.notes["inherited"] < 1
    mine["conv_in.weight"].add_(1)  # a copy, not the same tensor
    assert not torch.equal(mine["conv_in.weight"], theirs["conv_in.weight"])


def test_slices_are_the_leading_part(tmp_path: Path) -> None:
    teacher = make_denoiser(CLASS_CONFIG)
    result = born(teacher, tmp_path, {"block_out_channels": [8, 32]}, inherit="slices")
    theirs, mine = weights(teacher), weights(result.model)
    assert torch.equal(mine["conv_in.weight"], theirs["conv_in.weight"][:8])
    assert torch.equal(mine["mid_block.resnets.0.conv1.weight"], theirs["mid_block.resnets.0.conv1.weight"])
    assert result.notes["inherited"] == 1
    wider = born(teacher, tmp_path, {"block_out_channels": [32, 32]}, inherit="slices")
    assert torch.equal(weights(wider.model)["conv_in.weight"][:16], theirs["conv_in.weight"])
    assert wider.notes["inherited"] < 1


def test_removed_levels_are_the_inner_ones(tmp_path: Path) -> None:
    teacher = make_denoiser(THREE)
    result = born(teacher, tmp_path, TWO)
    theirs, mine = weights(teacher), weights(result.model)
    pairs = {
        "down_blocks.0.resnets.0.conv1.weight": "down_blocks.0.resnets.0.conv1.weight",
        "down_blocks.1.resnets.0.conv1.weight": "down_blocks.1.resnets.0.conv1.weight",
        "mid_block.resnets.0.conv1.weight": "mid_block.resnets.0.conv1.weight",
        "up_blocks.0.resnets.1.conv1.weight": "up_blocks.1.resnets.1.conv1.weight",
        "up_blocks.1.resnets.0.conv2.weight": "up_blocks.2.resnets.0.conv2.weight",
    }
    for name, source in pairs.items():
        assert torch.equal(mine[name], theirs[source]), name
    assert result.notes["inherited"] == 1  # these levels are of the same widths
    deeper = born(result.model, tmp_path, {key: THREE[key] for key in TWO})
    again = weights(deeper.model)
    assert torch.equal(again["up_blocks.2.resnets.0.conv2.weight"], mine["up_blocks.1.resnets.0.conv2.weight"])


def test_nothing_inherited_is_random_from_the_seed(tmp_path: Path) -> None:
    teacher = make_denoiser(CLASS_CONFIG)
    before = torch.get_rng_state()
    changes = {"block_out_channels": [16, 16]}
    students = []
    for i, seed in enumerate((0, 0, 1)):
        torch.rand(i)
        config = new_student.Config.model_validate({"config": changes, "inherit": "none"})
        result = new_student.run(teacher, config, make_context(teacher, tmp_path, seed=seed))
        assert result.notes["inherited"] == 0
        students.append(weights(result.model)["conv_in.weight"])
    assert torch.equal(students[0], students[1]) and not torch.equal(students[0], students[2])
    assert not torch.equal(students[0], weights(teacher)["conv_in.weight"])
    torch.set_rng_state(before)
    born(teacher, tmp_path, changes)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("changes", [{}, {"block_out_channels": (16, 32)}, {"block_out_channels": [16, 32]}])
def test_nothing_changed(changes: dict, tmp_path: Path) -> None:
    teacher = make_denoiser(CLASS_CONFIG)
    result = born(teacher, tmp_path, changes)
    assert not result.changed and result.model is teacher


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_out_chanels": [8, 16]}, "knows no 'block_out_chanels'; did you mean 'block_out_channels'"),
        ({"_class_name": "UNet2DConditionModel"}, "knows no '_class_name'"),
        ({"block_out_channels": [8, 16, 16]}, "cannot be built: Must provide the same number"),
        ({"block_out_channels": [9, 16]}, "cannot be built: "),
        ({"block_out_channels": "narrow"}, "cannot be built: "),
        ({"sample_size": 16}, "changes the sample's size from 8 to 16"),
        ({"sample_size": None}, "changes the sample's size from 8 to None"),
        ({"in_channels": 3}, "changes the sample's channels"),
        ({"out_channels": 2}, "changes the sample's channels"),
        ({"num_class_embeds": 5}, "changes the number of labels from 11 to 5"),
        ({"num_class_embeds": None}, "changes the number of labels from 11 to None"),
        ({"class_embed_type": "timestep"}, "changes the number of labels from 11 to None"),
        ({"time_embedding_type": "fourier"}, "fourier"),
    ],
)
def test_what_cannot_be_a_student_is_refused(changes: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(PassError) as caught:
        born(make_denoiser(CLASS_CONFIG), tmp_path, changes)
    assert str(caught.value).startswith("new_student: config: ") and message in str(caught.value)


def test_text_conditions_cannot_change(tmp_path: Path) -> None:
    with pytest.raises(PassError, match="changes the conditions from"):
        born(make_denoiser(TEXT_CONFIG), tmp_path, {"cross_attention_dim": 8})


@pytest.mark.parametrize("inherit", ["weights", "slices"])
def test_is_distilled_from_a_wider_teacher(inherit: str, tmp_path: Path) -> None:
    teacher = make_denoiser(CLASS_CONFIG)
    student = born(teacher, tmp_path, {"block_out_channels": [8, 16]}, inherit=inherit).model
    config = distill.Config.model_validate({"steps": 3, "batch_size": 8})
    result = distill.run(student, config, make_context(teacher, tmp_path))
    assert len(result.notes["projected_stages"]) == 5
    assert not torch.equal(weights(result.model)["conv_in.weight"], weights(student)["conv_in.weight"])


def test_with_fewer_levels_its_output_is_distilled(tmp_path: Path) -> None:
    teacher = make_denoiser(THREE)
    student = born(teacher, tmp_path, TWO).model
    config = distill.Config.model_validate({"steps": 2, "batch_size": 8, "losses": {"feature": 0}})
    assert distill.run(student, config, make_context(teacher, tmp_path)).changed


def test_student_of_a_changed_model(tmp_path: Path) -> None:
    """What was pruned or factorized counts by its config: the student is plain again."""
    teacher = make_denoiser(CLASS_CONFIG)
    context = make_context(teacher, tmp_path)
    narrow = prune_channels.Config.model_validate({"target": {"macs": 0.7}, "importance": "l2"})
    low = factorize.Config.model_validate({"target": {"rank": 0.3}, "batches": 1})
    changed = factorize.run(prune_channels.run(teacher, narrow, context).model, low, context).model
    student = born(changed, tmp_path, {"layers_per_block": 2}, inherit="slices").model
    checkpoint.save(student, tmp_path / "saved")
    assert not (tmp_path / "saved" / "structure.json").exists() and student.kept == {}


def test_student_with_fewer_levels_is_distilled_by_the_stages_that_fit(tmp_path: Path) -> None:
    """Stages whose maps differ in size are not compared; a wider stage, pruned, stays within its projection."""
    teacher = make_denoiser(THREE)
    config = {"block_out_channels": [16, 32], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"]}
    config |= {"up_block_types": ["AttnUpBlock2D", "UpBlock2D"]}
    context = dataclasses.replace(make_context(teacher, tmp_path), teacher=lambda: teacher)
    settings = new_student.Config.model_validate({"config": config})
    student = new_student.run(teacher, settings, context).model
    objective = distill.Imitation(student, teacher, distill.Config(), "distill")
    assert objective.stages.taps and "mid_block" not in objective.stages.taps
    losses = objective(dataset_for(teacher).batch(4, 0, 0), generator(0))
    assert torch.isfinite(losses["feature"])

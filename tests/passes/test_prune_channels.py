"""Widths stay legal on many configs, targets are met, and the survivors are who the pruner says they are."""

from pathlib import Path

import pytest
import torch
from torch import nn

from compress.errors import PassError
from compress.models import checkpoint, counts
from compress.models.denoiser import predict
from compress.passes import prune_channels
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG, UNCONDITIONAL_CONFIG, inputs_for, make_context, make_denoiser

CONFIGS = {
    "class": CLASS_CONFIG,
    "unconditional": UNCONDITIONAL_CONFIG,
    "text": TEXT_CONFIG,
    "scale-shift": {**CLASS_CONFIG, "resnet_time_scale_shift": "scale_shift"},
    "resnet resampling": {**CLASS_CONFIG, "downsample_type": "resnet", "upsample_type": "resnet"},
    "three levels": {
        **CLASS_CONFIG,
        "block_out_channels": [16, 32, 48],
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    },
    "two layers, odd groups": {**CLASS_CONFIG, "layers_per_block": 2, "norm_num_groups": 2, "attention_head_dim": 4},
    "linear projections": {**TEXT_CONFIG, "use_linear_projection": True},
}


def prune(name: str, folder: Path, **settings: object):  # type: ignore[no-untyped-def]
    model = make_denoiser(CONFIGS[name])
    config = prune_channels.Config.model_validate({"batches": 1, "target": {"macs": 0.6}, **settings})
    return model, prune_channels.run(model, config, make_context(model, folder)).model


@pytest.mark.parametrize("importance", ["taylor", "l2"])
@pytest.mark.parametrize("name", CONFIGS)
def test_pruned_net_runs_meets_its_target_and_reloads(name: str, importance: str, tmp_path: Path) -> None:
    model, pruned = prune(name, tmp_path, importance=importance)
    assert counts.macs(pruned) <= 0.6 * counts.macs(model)
    sample, timestep, conditions = inputs_for(pruned)
    with torch.no_grad():
        output = predict(pruned, sample, timestep, conditions)
    assert output.shape == sample.shape and torch.isfinite(output).all()
    for module in pruned.net.modules():
        if isinstance(module, nn.GroupNorm):
            assert module.num_channels % module.num_groups == 0
    for projection, heads in pruned.family.heads(pruned.net).items():
        assert projection.out_features % heads == 0
    checkpoint.save(pruned, tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(predict(checkpoint.load(tmp_path / "saved"), sample, timestep, conditions), output)


@pytest.mark.parametrize("importance", ["l2", "taylor"])
def test_global_ranking_comes_near_its_target(importance: str, tmp_path: Path) -> None:
    model, pruned = prune("class", tmp_path, target={"macs": 0.5}, ranking="global", importance=importance)
    assert 0.35 < counts.macs(pruned) / counts.macs(model) <= 0.5


def test_same_share_of_channels_of_every_layer(tmp_path: Path) -> None:
    _, pruned = prune("class", tmp_path, target={"channels": 0.5}, importance="l2")
    assert {len(channels) for channels in pruned.kept.values()} == {8, 16}


def test_kept_channels_are_the_teachers_own(tmp_path: Path) -> None:
    model, pruned = prune("class", tmp_path, importance="l2")
    for tap, (_, writer) in pruned.family.stages(pruned.net).items():
        ours = pruned.net.get_submodule(writer).bias
        theirs = model.net.get_submodule(writer).bias
        assert torch.equal(ours, theirs[list(pruned.kept[tap])])


def test_kept_channels_of_a_second_round_refer_to_the_first_teacher(tmp_path: Path) -> None:
    model, once = prune("class", tmp_path, importance="l2", target={"macs": 0.8})
    config = prune_channels.Config.model_validate({"target": {"macs": 0.6}, "importance": "l2"})
    twice = prune_channels.run(once, config, make_context(model, tmp_path)).model
    for tap, (_, writer) in twice.family.stages(twice.net).items():
        ours = twice.net.get_submodule(writer).bias
        assert torch.equal(ours, model.net.get_submodule(writer).bias[list(twice.kept[tap])])


def test_target_out_of_reach_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PassError, match="out of reach"):
        prune("class", tmp_path, importance="l1", target={"macs": 0.01})

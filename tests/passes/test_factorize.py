"""Budgets are met and not overdone, patterns mean layers, and what follows in a recipe takes the outcome."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.contract import PassResult
from compress.errors import PassError
from compress.measure import counts
from compress.model import edits
from compress.model.denoiser import Denoiser, predict
from compress.passes import export_onnx, factorize, prune_channels, quantize
from compress.pipeline import checkpoint
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG, assert_close_db, inputs_for, make_context, make_denoiser

COUNTS = {"macs": counts.macs, "params": counts.parameters}


def factorized(model: Denoiser, folder: Path, target: dict[str, float], **settings: Any) -> PassResult[Denoiser]:
    config = factorize.Config.model_validate({"target": target, "batches": 1, **settings})
    return factorize.run(model, config, make_context(model, folder, name="factorize"))


def output(model: Any, inputs: tuple) -> torch.Tensor:
    with torch.no_grad():
        return predict(model, *inputs)


@pytest.mark.parametrize("kind", COUNTS)
def test_meets_its_target_and_no_more(any_model: Denoiser, kind: str, tmp_path: Path) -> None:
    before = copy.deepcopy(any_model.net.state_dict())
    result = factorized(any_model, tmp_path, {kind: 0.7})
    limit = 0.7 * COUNTS[kind](any_model)
    assert COUNTS[kind](result.model) <= limit
    assert result.notes["after"][kind] == COUNTS[kind](result.model)
    assert result.notes["ratios"][kind] == pytest.approx(0.7, abs=0.02)
    for path, layer in result.notes["layers"].items():  # no layer can have another rank
        raised = copy.deepcopy(any_model)
        for other, noted in result.notes["layers"].items():
            edits.put(raised.net, raised.family, other, {"kind": "low_rank", "rank": noted["rank"] + (other == path)})
        assert COUNTS[kind](raised) > limit or layer["rank"] == layer["full_rank"], path
    assert all(torch.equal(tensor, before[name]) for name, tensor in any_model.net.state_dict().items())
    inputs = inputs_for(any_model)
    checkpoint.save(result.model, tmp_path / "saved")
    assert torch.equal(output(checkpoint.load(tmp_path / "saved"), inputs), output(result.model, inputs))
    assert not any(module._forward_hooks for module in any_model.net.modules())


def test_energy_and_rank_leave_what_is_not_cheaper(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    layers = dict(model.net.named_modules())
    for target in ({"energy": 0.8}, {"rank": 0.5}):
        result = factorized(model, tmp_path, target)
        for path, noted in result.notes["layers"].items():
            matrix = layers[path].weight.flatten(1)
            assert noted["rank"] * sum(matrix.shape) < matrix.numel()
            assert noted["full_rank"] == min(matrix.shape)
            if "energy" in target:
                assert noted["energy"] >= 0.8 - 1e-6
            else:
                assert noted["rank"] == -(-noted["full_rank"] // 2)
        if "rank" in target:  # half the rank of a square matrix costs as much as the matrix
            assert "mid_block.attentions.0.to_q" in result.notes["left_alone"]
        assert counts.macs(result.model) < counts.macs(model)
        assert counts.parameters(result.model) < counts.parameters(model)
    nothing = factorized(model, tmp_path, {"rank": 0.99})
    assert not nothing.changed and nothing.model is model


@pytest.mark.parametrize("target", [{"macs": 1.0}, {"params": 1.0}, {"energy": 1.0}, {"rank": 1.0}])
def test_a_target_of_one_changes_nothing(target: dict[str, float], tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    result = factorized(model, tmp_path, target)
    assert not result.changed and result.model is model


def test_patterns_mean_layers(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    result = factorized(model, tmp_path, {"rank": 0.2}, layers=["mid_block.*", "conv_in"], keep=["*.to_*", "conv_in"])
    assert result.notes["layers"].keys() == edits.found(result.model.net).keys()
    assert result.notes["layers"]
    assert all(path.startswith("mid_block.resnets") for path in result.notes["layers"])
    usual = factorized(model, tmp_path, {"rank": 0.2}).notes
    assert not {"conv_in", "conv_out"} & {*usual["layers"], *usual["left_alone"]}


@pytest.mark.parametrize("name", ["layers", "keep"])
def test_a_pattern_that_matches_nothing_is_refused(name: str, tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    settings = {name: ["mid_block.*", "mid_blok.resnets.0.conv1"]}
    with pytest.raises(PassError, match=rf"^factorize: {name}: 'mid_blok.*; did you mean 'mid_block.resnets.0.conv1'"):
        factorized(model, tmp_path, {"rank": 0.5}, **settings)


def test_a_target_out_of_reach_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PassError, match=r"^factorize: macs: 0\.01 is out of reach; rank 1 .* leaves 0\.\d+"):
        factorized(make_denoiser(CLASS_CONFIG), tmp_path, {"macs": 0.01})


def test_protected_layers_stay_whole(tmp_path: Path) -> None:
    model = make_denoiser({**CLASS_CONFIG, "resnet_time_scale_shift": "scale_shift"})
    notes = factorized(model, tmp_path, {"rank": 0.2}).notes
    assert notes["layers"] and not any("conv1" in path or "time_emb_proj" in path for path in notes["layers"])


def test_factorizes_again(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    once = factorized(model, tmp_path, {"macs": 0.8}).model
    twice = factorized(once, tmp_path, {"macs": 0.8}).model
    assert counts.macs(twice) <= 0.8 * counts.macs(once)
    inputs = inputs_for(model)
    checkpoint.save(twice, tmp_path / "saved")
    assert torch.equal(output(checkpoint.load(tmp_path / "saved"), inputs), output(twice, inputs))


def test_global_randomness_is_left_alone(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    before = torch.get_rng_state()
    factorized(model, tmp_path, {"rank": 0.3})
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("config", [CLASS_CONFIG, TEXT_CONFIG], ids=["class", "text"])
def test_exports_as_it_computes(config: dict, tmp_path: Path) -> None:
    model = make_denoiser(config)
    low = factorized(model, tmp_path, {"macs": 0.6}).model
    sample, timestep, conditions = inputs_for(low)
    timestep = torch.full_like(timestep, 749)
    bundle = export_onnx.run(low, export_onnx.Config(), make_context(model, tmp_path)).model
    got = bundle.denoise(sample.numpy(), 749, {name: value.numpy() for name, value in conditions.items()})
    assert_close_db(output(low, (sample, timestep, conditions)).numpy(), got, 80)


@pytest.mark.parametrize("least_width", [0, 128])
def test_quantizes(least_width: int, tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    low = factorized(model, tmp_path, {"rank": 0.4}, keep=["*.to_v"]).model
    assert any(".to_q" in path for path in edits.found(low.net))
    config = quantize.Config(samples=8, evaluations=48, least_attention_width=least_width)
    result = quantize.run(low, config, make_context(model, tmp_path))
    assert (len(result.notes["float_layers"]) > 3) == (least_width > 0)
    sample, timestep, conditions = inputs_for(low)
    inputs = (sample, torch.full_like(timestep, 749), conditions)
    assert_close_db(output(low, inputs).numpy(), output(result.model, inputs).numpy(), 20)
    checkpoint.save(result.model, tmp_path / "saved")
    assert torch.equal(output(checkpoint.load(tmp_path / "saved"), inputs), output(result.model, inputs))


@pytest.mark.parametrize("importance", ["l2", "taylor"])
@pytest.mark.parametrize("config", [CLASS_CONFIG, TEXT_CONFIG], ids=["class", "text"])
def test_channels_are_pruned_after_it(config: dict, importance: str, tmp_path: Path) -> None:
    model = make_denoiser(config)
    low = factorized(model, tmp_path, {"macs": 0.8}).model
    settings = prune_channels.Config.model_validate({"target": {"macs": 0.7}, "importance": importance, "batches": 1})
    pruned = prune_channels.run(low, settings, make_context(model, tmp_path)).model
    assert counts.macs(pruned) <= 0.7 * counts.macs(low)
    for tap, (_, writer) in pruned.family.stages(pruned.net).items():
        assert len(pruned.net.get_submodule(writer).weight) == len(pruned.kept[tap])
    for projection, heads in pruned.family.heads(pruned.net).items():
        assert isinstance(projection, nn.Linear) and projection.out_features % heads == 0
    inputs = inputs_for(pruned)
    checkpoint.save(pruned, tmp_path / "saved")
    assert torch.equal(output(checkpoint.load(tmp_path / "saved"), inputs), output(pruned, inputs))
    assert edits.found(pruned.net).keys() == edits.found(low.net).keys()


def test_factors_of_what_was_pruned(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    settings = prune_channels.Config.model_validate({"target": {"macs": 0.7}, "importance": "l2"})
    pruned = prune_channels.run(model, settings, make_context(model, tmp_path)).model
    low = factorized(pruned, tmp_path, {"params": 0.8}).model
    assert low.kept == pruned.kept
    inputs = inputs_for(low)
    checkpoint.save(low, tmp_path / "saved")
    assert torch.equal(output(checkpoint.load(tmp_path / "saved"), inputs), output(low, inputs))

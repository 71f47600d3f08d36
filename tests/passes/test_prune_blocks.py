"""Blocks go as asked; targets are met by those that cost least; what is left is a model like any other."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compress.contract import Context, PassResult
from compress.errors import PassError
from compress.measure import counts
from compress.model.blocks import without
from compress.model.denoiser import Denoiser, predict
from compress.passes import distill, export_onnx, prune_blocks, prune_channels, quantize
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

TWO_LAYERS = {"layers_per_block": 2, "block_out_channels": [8, 16]}
CONFIGS = {
    "class": {**CLASS_CONFIG, **TWO_LAYERS},
    "unconditional": {**UNCONDITIONAL_CONFIG, **TWO_LAYERS},
    "text": {**TEXT_CONFIG, **TWO_LAYERS},
    "scale-shift": {**CLASS_CONFIG, **TWO_LAYERS, "resnet_time_scale_shift": "scale_shift"},
    "resnet resampling": {**CLASS_CONFIG, **TWO_LAYERS, "downsample_type": "resnet", "upsample_type": "resnet"},
    "linear projections": {**TEXT_CONFIG, **TWO_LAYERS, "use_linear_projection": True},
}
QUICK = {"probe_steps": 3, "batch_size": 8, "batches": 2}


def run(model: Denoiser, folder: Path, seed: int = 0, **settings: Any) -> PassResult[Denoiser]:
    config = prune_blocks.Config.model_validate(settings)
    return prune_blocks.run(model, config, make_context(model, folder, name="prune_blocks", seed=seed))


def output_of(model: Any) -> np.ndarray:
    with torch.no_grad():
        return predict(model, *inputs_for(model)).numpy()


def channels(model: Denoiser, folder: Path) -> Denoiser:
    config = prune_channels.Config.model_validate({"target": {"channels": 0.75}, "batches": 1})
    return prune_channels.run(model, config, make_context(model, folder)).model


def silenced(model: Denoiser, path: str) -> Denoiser:
    """A copy in which a residual block computes its shortcut alone."""
    changed = dataclasses.replace(model, net=copy.deepcopy(model.net))
    block: Any = changed.net.get_submodule(path)
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.bias)
    return changed


@pytest.mark.parametrize("name", CONFIGS)
def test_layouts_before_and_after_channels_go(name: str, tmp_path: Path) -> None:
    model = make_denoiser(CONFIGS[name])
    first = channels(run(model, tmp_path, layout="bk-small").model, tmp_path)
    second = run(channels(model, tmp_path), tmp_path, layout="bk-small").model
    for i, pruned in enumerate((first, second)):
        assert counts.macs(pruned) < 0.6 * counts.macs(model)
        stages = pruned.family.stages(pruned.net)
        assert set(pruned.kept) == set(stages) and "mid_block" not in stages
        for tap, (_, writer) in stages.items():
            ours, theirs = pruned.net.get_submodule(writer), model.net.get_submodule(writer)
            assert torch.equal(ours.bias, theirs.bias[list(pruned.kept[tap])])  # type: ignore[arg-type, index]
        output = output_of(pruned)
        assert np.isfinite(output).all()
        checkpoint.save(pruned, tmp_path / str(i))
        np.testing.assert_array_equal(output_of(checkpoint.load(tmp_path / str(i))), output)


@pytest.mark.parametrize(("name", "layout"), [("class", "bk-tiny"), ("text", "bk-base"), ("unconditional", "bk-small")])
def test_student_is_distilled_quantized_and_exported(name: str, layout: str, tmp_path: Path) -> None:
    model = make_denoiser(CONFIGS[name])
    context = make_context(model, tmp_path)
    student: Any = run(channels(model, tmp_path), tmp_path, layout=layout).model
    student = distill.run(student, distill.Config(steps=2, batch_size=4), context).model
    exported = export_onnx.run(student, export_onnx.Config(), context)
    assert exported.notes["sqnr_to_pytorch_db"] > 80
    int8 = quantize.run(student, quantize.Config(samples=4, evaluations=40), context).model
    assert_close_db(output_of(student), output_of(int8), 15)
    checkpoint.save(int8, tmp_path / "int8")
    np.testing.assert_array_equal(output_of(checkpoint.load(tmp_path / "int8")), output_of(int8))
    other = dataclasses.replace(context, output=tmp_path / "int8 bundle")
    other.output.mkdir()
    export_onnx.run(int8, export_onnx.Config(batch=1), other)


def test_globs_name_blocks_and_what_lies_within_goes_with_them(tmp_path: Path) -> None:
    model = make_denoiser(CONFIGS["class"])
    result = run(model, tmp_path, blocks=["mid_block*", "down_blocks.*.resnets.1"])
    assert set(result.notes["removed"]) == {"mid_block", "down_blocks.0.resnets.1", "down_blocks.1.resnets.1"}
    assert result.notes["before"] == {"macs": counts.macs(model), "params": counts.parameters(model)}
    assert result.notes["after"] == {"macs": counts.macs(result.model), "params": counts.parameters(result.model)}
    again = run(result.model, tmp_path, blocks=["up_blocks.1.resnets.1"])  # a second round
    assert not {*result.notes["removed"]} & {*again.model.family.blocks(again.model.net)}


def test_a_pattern_that_matches_nothing_names_the_nearest(tmp_path: Path) -> None:
    model = make_denoiser(CONFIGS["class"])
    with pytest.raises(PassError, match=r"'down_block\.0\.resnet\.1' matches no block .* 'down_blocks\.0\.resnets\.1'"):
        run(model, tmp_path, blocks=["mid_block", "down_block.0.resnet.1"])


def test_a_layout_without_effect_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PassError, match="bk-base takes nothing out"):
        run(make_denoiser(CLASS_CONFIG), tmp_path, layout="bk-base")


def test_a_model_that_would_not_read_its_inputs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PassError, match="nothing is left that reads encoder_hidden_states"):
        run(make_denoiser(TEXT_CONFIG), tmp_path, blocks=["mid_block", "*.attentions.*"])


@pytest.mark.parametrize(
    "settings",
    [{}, {"blocks": []}, {"target": {"macs": 0.5, "latency": 0.5}}, {"layout": "bk-base", "ranking": "loss"}],
)
def test_settings_that_contradict_are_refused(settings: dict) -> None:
    with pytest.raises(ValidationError):
        prune_blocks.Config.model_validate(settings)


@pytest.mark.parametrize("ranking", ["recovery", "loss"])
def test_target_is_met_by_the_front_of_the_table_and_by_no_more_than_needed(ranking: str, tmp_path: Path) -> None:
    model = make_denoiser(CONFIGS["class"])
    before = {name: tensor.clone() for name, tensor in model.net.state_dict().items()}
    for kind, count in (("macs", counts.macs), ("params", counts.parameters)):
        result = run(model, tmp_path, target={kind: 0.6}, ranking=ranking, **QUICK)
        removed, table = result.notes["removed"], result.notes["ranking"]
        assert {row["path"] for row in table} == set(model.family.blocks(model.net))
        assert count(result.model) <= 0.6 * count(model)
        for path in removed:
            rest = without(model, [other for other in removed if other != path])
            assert count(rest) > 0.6 * count(model), f"{path} need not have gone"
            assert not any(other.startswith(f"{path}.") for other in removed)
        saved = {row["path"]: row["saved"][kind] for row in table}
        assert count(model) - sum(saved[path] for path in removed) == count(result.model)  # as the search counts
        prices = [row["error"] / row["saved"][kind] for row in table]
        assert prices == sorted(prices)
        assert not list((tmp_path / "work").iterdir())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.net.state_dict().items())


@pytest.mark.parametrize("ranking", ["recovery", "loss"])
@pytest.mark.parametrize("path", ["down_blocks.0.resnets.1", "up_blocks.0.resnets.1"])
def test_a_block_that_does_nothing_goes_first(path: str, ranking: str, tmp_path: Path) -> None:
    model = silenced(make_denoiser(CONFIGS["class"]), path)
    result = run(model, tmp_path, target={"params": 0.999}, ranking=ranking, **QUICK)
    assert result.notes["removed"] == [path]
    assert result.notes["ranking"][0]["path"] == path and result.notes["ranking"][0]["error"] < 1e-9
    np.testing.assert_allclose(output_of(result.model), output_of(model), atol=1e-5)


def test_recovery_prefers_what_training_can_mend(tmp_path: Path) -> None:
    """A block that adds the same to every pixel is missed right after it went, until the next bias has learnt it."""
    model, path = silenced(make_denoiser(CLASS_CONFIG), "up_blocks.1.resnets.1"), "up_blocks.1.resnets.1"
    nn.init.normal_(model.net.get_submodule(path).conv2.bias)  # type: ignore[union-attr, arg-type]
    paths, errors, context = ["up_blocks.1.resnets.0", path], {}, make_context(model, tmp_path)
    for ranking, more in (("loss", {}), ("recovery", {"probe_steps": 40, "learning_rate": 3e-3})):
        settings = {**QUICK, **more, "target": {"params": 0.9}, "ranking": ranking}
        errors[ranking] = prune_blocks._errors(model, paths, prune_blocks.Config.model_validate(settings), context)
    loss, recovery = errors["loss"], errors["recovery"]
    assert all(recovery[place] <= loss[place] for place in paths)
    assert recovery[path] < 0.3 * loss[path]
    assert loss[path] / loss[paths[0]] > 3 * recovery[path] / recovery[paths[0]]


def test_the_choice_depends_on_the_recipes_seed_alone(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    settings = {"target": {"macs": 0.7}, **QUICK}
    torch.manual_seed(1)
    first = run(model, tmp_path / "1", **settings)
    torch.manual_seed(2)
    assert run(model, tmp_path / "2", **settings).notes == first.notes
    other = run(model, tmp_path / "3", seed=5, **settings)
    assert other.notes["ranking"] != first.notes["ranking"]


def test_a_killed_ranking_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_denoiser(CLASS_CONFIG)
    settings = {"target": {"macs": 0.7}, **QUICK}
    whole = run(model, tmp_path / "whole", **settings)
    train, trained = prune_blocks.training.train, []

    def until_killed(objective: Any, net: Any, config: Any, context: Context, data: Any) -> Any:
        trained.append(context.workdir.name)
        if len(trained) == 4:
            raise KeyboardInterrupt
        return train(objective, net, config, context, data)

    monkeypatch.setattr(prune_blocks.training, "train", until_killed)
    with pytest.raises(KeyboardInterrupt):
        run(model, tmp_path / "killed", **settings)
    assert run(model, tmp_path / "killed", **settings).notes == whole.notes
    assert len(trained) == len(whole.notes["ranking"]) + 1


def test_a_target_out_of_reach_says_how_far_one_comes(tmp_path: Path) -> None:
    model = make_denoiser(TEXT_CONFIG)
    with pytest.raises(PassError, match=r"macs: 0\.01 is out of reach; .* leaves 0\.\d+; raise the target"):
        run(model, tmp_path, target={"macs": 0.01}, ranking="loss", **QUICK)


def test_latency_is_measured(tmp_path: Path) -> None:
    model = make_denoiser(CONFIGS["class"])
    result = run(model, tmp_path, target={"latency": 0.7}, ranking="loss", batch_size=4, batches=1)
    assert result.notes["removed"] and 0 < result.notes["ratios"]["latency"] < 1
    prices = [row["error"] / row["saved"]["macs"] for row in result.notes["ranking"]]
    assert prices == sorted(prices)


def test_forecast_gives_the_size_and_the_time(tmp_path: Path) -> None:
    model = make_denoiser(CONFIGS["class"])
    context = make_context(model, tmp_path)
    for settings in ({"layout": "bk-tiny"}, {"blocks": ["mid_block"]}, {"target": {"macs": 0.7}, **QUICK}):
        config = prune_blocks.Config.model_validate(settings)
        forecast = prune_blocks.forecast(model, config, context)
        outcome = prune_blocks.run(model, config, context).model
        if config.target is None:
            assert counts.macs(forecast.model) == counts.macs(outcome)
            assert counts.parameters(forecast.model) == counts.parameters(outcome)
        else:
            assert counts.macs(forecast.model) <= 0.7 * counts.macs(model)
            assert forecast.seconds > 0 and forecast.memory_bytes > 0

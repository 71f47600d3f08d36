"""Widths stay legal on many configs, targets are met, and the survivors are who the pruner says they are."""

import copy
import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.errors import PassError
from compress.measure import counts
from compress.measure.target import LEFT
from compress.model import edits, low_rank, taylor
from compress.model.channels import couplings, importance, remove
from compress.model.denoiser import Denoiser, predict
from compress.passes import prune_channels
from compress.pipeline import checkpoint
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

LEFT_BEFORE = dict(LEFT)


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


@pytest.mark.parametrize("importance", ["random", "diffusion_taylor", "taylor"])
@pytest.mark.parametrize("ranking", ["per_layer", "global", "per_cost"])
def test_every_ranking_by_every_importance(importance: str, ranking: str, tmp_path: Path) -> None:
    for name in ("class", "text"):
        model, pruned = prune(name, tmp_path, importance=importance, ranking=ranking, target={"params": 0.6})
        assert 0.4 < counts.parameters(pruned) / counts.parameters(model) <= 0.6
        with torch.no_grad():
            assert torch.isfinite(predict(pruned, *inputs_for(pruned))).all()


@pytest.mark.parametrize("heads", ["narrow", "remove"])
@pytest.mark.parametrize("name", ["class", "unconditional", "text", "resnet resampling", "linear projections"])
def test_stock_widths_give_a_model_that_diffusers_loads(name: str, heads: str, tmp_path: Path) -> None:
    if heads == "remove" and name in ("text", "linear projections"):
        with pytest.raises(PassError, match="heads: narrow"):
            prune(name, tmp_path, widths="stock", heads=heads, target={"params": 0.7}, importance="l2")
        return
    model, pruned = prune(name, tmp_path, widths="stock", heads=heads, target={"params": 0.7}, importance="l2")
    assert counts.parameters(pruned) <= 0.7 * counts.parameters(model)
    checkpoint.save(pruned, tmp_path / "saved")
    assert set(json.loads((tmp_path / "saved" / "structure.json").read_text())) == {"kept"}
    net = type(pruned.net).from_pretrained(tmp_path / "saved" / "unet").eval()
    sample, timestep, conditions = inputs_for(pruned)
    with torch.no_grad():
        ours = predict(pruned, sample, timestep, conditions)
        theirs = net(sample, timestep, **conditions, return_dict=False)[0]
    assert torch.equal(ours, theirs) and torch.isfinite(ours).all()


def test_whole_heads_go(tmp_path: Path) -> None:
    model, pruned = prune("class", tmp_path, heads="remove", target={"params": 0.5}, importance="l2")
    widths = {layer.out_features // heads for layer, heads in model.family.heads(model.net).items()}
    assert {layer.out_features // heads for layer, heads in pruned.family.heads(pruned.net).items()} == widths
    assert max(pruned.family.heads(pruned.net).values()) < max(model.family.heads(model.net).values())


@pytest.mark.parametrize("name", ["class", "text"])
def test_channels_that_do_nothing_go_first_and_are_not_missed(name: str, tmp_path: Path) -> None:
    """Inside attention and feed-forward layers there are no norms, so that the outputs agree to rounding."""
    model = make_denoiser(CONFIGS[name])
    model.net.requires_grad_(True)
    config = prune_channels.Config.model_validate({"target": {"params": 0.9}, "importance": "l2"})
    sets = couplings(model)
    inner = {one.name: one for one in sets if one.heads or one.name.endswith(".proj")}
    wanted = {}
    for one in inner.values():
        wanted[one.name] = set(range(1, one.count, one.count // max(one.heads, 2)))
        for member in one.members:
            gone = [c in wanted[one.name] for c in member.channels.tolist()]
            layer = model.net.get_submodule(member.path)
            with torch.no_grad():
                layer.weight.index_fill_(member.dim, member.places[torch.tensor(gone)], 0)
                if member.dim == 0 and layer.bias is not None:
                    layer.bias.index_fill_(0, member.places[torch.tensor(gone)], 0)
    ranked = {one.coupled.name: one for one in prune_channels.rank(model, config, 0, "p")}
    chosen = {n: ranked[n].first(len(wanted[n]) // len(ranked[n].units[0])) for n in inner}
    assert {n: set(channels) for n, channels in chosen.items()} == wanted
    inputs = inputs_for(model)
    with torch.no_grad():
        whole = predict(model, *inputs)
        copied = remove(model, sets, chosen)
        torch.testing.assert_close(predict(copied, *inputs), whole, atol=2e-5, rtol=1e-4)
    assert counts.parameters(copied) < counts.parameters(model)


def test_protected_layers_keep_their_width(tmp_path: Path) -> None:
    model, pruned = prune(
        "class", tmp_path, importance="l2", target={"params": 0.8}, protect=["mid_block.*", "conv_in"]
    )
    for name in ("conv_in", "mid_block.resnets.0.conv1", "mid_block.attentions.0.to_q"):
        shapes = [one.net.get_submodule(name).weight.shape for one in (model, pruned)]
        assert shapes[0][0] == shapes[1][0]


def test_pattern_that_matches_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(PassError, match=r"protect: 'mid_blok\.\*' matches no layer; did you mean 'mid_block"):
        prune("class", tmp_path, importance="l2", protect=["mid_blok.*"])


def test_widths_are_multiples(tmp_path: Path) -> None:
    _, pruned = prune("class", tmp_path, importance="l2", multiple_of=8, target={"params": 0.6})
    for module in pruned.net.modules():
        if isinstance(module, nn.Conv2d) and module is not pruned.net.conv_out:
            assert module.out_channels % 8 == 0


def test_target_of_latency_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that counts multiply-accumulates the target means what {macs: …} means."""
    monkeypatch.setitem(LEFT, "latency", LEFT["macs"])
    model, pruned = prune("class", tmp_path, importance="l2", target={"latency": 0.6})
    assert 0.4 < counts.macs(pruned) / counts.macs(model) <= 0.6


def test_importance_is_the_sum_over_all_layers() -> None:
    """Against a sum by hand, for the inner channels of one residual block."""
    model = make_denoiser(CLASS_CONFIG)
    block = model.net.down_blocks[0].resnets[0]
    one = next(o for o in couplings(model) if o.name == "down_blocks.0.resnets.0.conv1")
    found = importance(one, model.net, torch.Tensor.abs)
    layers = (
        block.conv1.weight,
        block.norm2.weight[:, None],
        block.time_emb_proj.weight,
        block.conv2.weight.transpose(0, 1),
    )
    torch.testing.assert_close(found, sum(w.detach().abs().flatten(1).double().sum(1) for w in layers))


@pytest.mark.parametrize("heads", ["narrow", "remove"])
def test_attention_whose_queries_are_of_low_rank_is_told_of_its_heads(tmp_path: Path, heads: str) -> None:
    model = make_denoiser(CLASS_CONFIG)
    path, block = next(iter(model.family.attention(model.net).items()))
    width = model.net.get_submodule(block.query).out_features
    low = dataclasses.replace(model, net=copy.deepcopy(model.net))
    edits.put(low.net, low.family, block.query, {"kind": "low_rank", "rank": width})
    low_rank.fill(
        low.net.get_submodule(block.query),
        model.net.get_submodule(block.query),
        low_rank.spectrum(model.net.get_submodule(block.query)),
    )
    scores = []
    for each in (model, low):
        sets = couplings(each)
        written = {one.name: {member.path for member in one.members if member.dim == 0} for one in sets}
        (one,) = (o for o in sets if o.heads and {block.query, f"{block.query}.up"} & written[o.name])
        gone = list(range(8)) if heads == "remove" else list(range(0, width, 2))
        attention = remove(each, sets, {one.name: gone}, heads == "remove").net.get_submodule(path)
        assert attention.heads == block.heads - (heads == "remove")
        with torch.no_grad():
            scores.append(attention.to_q(torch.ones(1, 3, attention.to_q.in_features)))
    torch.testing.assert_close(*scores, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("target", [{"macs": 0.6}, {"bytes": 0.6}, {"params": 0.6, "widths": "stock"}])
def test_the_search_holds_no_weights(target: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (kind, fraction), *settings = target.items()
    tried: list[str] = []

    def left(less: Denoiser, whole: Denoiser) -> float:
        tried.append(next(less.net.parameters()).device.type)
        return LEFT_BEFORE[kind](less, whole)

    monkeypatch.setitem(LEFT, kind, left)
    _, pruned = prune("text", tmp_path, importance="l2", target={kind: fraction}, **dict(settings))
    assert set(tried) == {"meta"} and len(tried) > 10
    assert pruned.device.type == "cpu"


def test_what_loses_nothing_is_not_copied_and_the_model_stays_as_it_was(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    before = copy.deepcopy(model.net.state_dict())
    config = prune_channels.Config.model_validate({"target": {"params": 0.7}, "batches": 1, "protect": ["mid_block.*"]})
    pruned = prune_channels.run(model, config, make_context(model, tmp_path)).model
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.net.state_dict().items())
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.net.parameters())
    ours, theirs = pruned.net.state_dict(), model.net.state_dict()
    same = [name for name in ours if ours[name].shape == theirs[name].shape]
    assert same and {ours[name].data_ptr() for name in same} == {theirs[name].data_ptr() for name in same}


@pytest.mark.parametrize("importance", ["taylor", "diffusion_taylor"])
def test_gradients_in_parts_are_those_of_the_whole_batch(
    importance: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_denoiser(CLASS_CONFIG)
    config = prune_channels.Config.model_validate({"target": {"params": 0.7}, "importance": importance, "batches": 2})
    found, seen = [], []
    truly = taylor.predict
    monkeypatch.setattr(taylor, "predict", lambda m, sample, *more: seen.append(len(sample)) or truly(m, sample, *more))
    for at_once in (prune_channels.BATCH, 25):
        monkeypatch.setattr(prune_channels, "PART", at_once * counts.macs(model))
        source = dataclasses.replace(model, net=copy.deepcopy(model.net).requires_grad_(True))
        prune_channels._accumulate_gradients(source, config, make_context(model, tmp_path))
        found.append(torch.cat([parameter.grad.flatten() for parameter in source.net.parameters()]))
    assert set(seen) == {64, 22, 20}
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-6)


def test_a_plan_of_a_large_net_takes_no_gradients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_denoiser(CLASS_CONFIG)
    config = prune_channels.Config.model_validate({"target": {"params": 0.7}, "batches": 1})
    context = make_context(model, tmp_path)
    exact = prune_channels.forecast(model, config, context)
    done = prune_channels.run(model, config, context)
    assert counts.macs(exact.model) == counts.macs(done.model)
    monkeypatch.setattr(prune_channels, "LONG", 1)
    monkeypatch.setattr(taylor, "predict", lambda *_: pytest.fail("took a gradient"))
    about = prune_channels.forecast(model, config, context)
    left = counts.parameters(about.model) / counts.parameters(model)
    assert 0.6 < left <= 0.7 and about.seconds > 0 and about.memory_bytes == counts.weight_bytes(model)
    without_data = dataclasses.replace(context, data=None, dataset=lambda: pytest.fail("looked for images"))
    with pytest.raises(pytest.fail.Exception, match="looked for images"):  # as `run` does
        prune_channels.forecast(model, config, without_data)

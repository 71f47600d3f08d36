"""PixArt's transformer computes, is drawn from and is taken apart as diffusers' own."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, PixArtTransformer2DModel

from compress.model.blocks import without
from compress.model.denoiser import Denoiser, draw, predict
from compress.passes import prune_channels
from compress.pipeline import checkpoint
from tests.conftest import assert_close_db, inputs_for, make_context
from tests.families import roads

CONFIG = {
    "_class_name": "PixArtTransformer2DModel",
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 8,
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "patch_size": 2,
    "cross_attention_dim": 24,
    "caption_channels": 12,
    "norm_type": "ada_norm_single",
    "interpolation_scale": 2,
}
LARGE = {**CONFIG, "use_additional_conditions": True}  # as PixArt-α has it for 1024 pixels
DPM = {
    "_class_name": "DPMSolverMultistepScheduler",
    "algorithm_type": "dpmsolver++",
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "solver_order": 2,
    "solver_type": "midpoint",
    "lower_order_final": True,
    "variance_type": None,
}


@pytest.fixture(params=[CONFIG, LARGE], ids=["plain", "told sizes"])
def model(request: pytest.FixtureRequest) -> Denoiser:
    return roads.tiny(request.param, DPM, 4.5)


def same(one: Denoiser, other: Denoiser) -> bool:
    with torch.no_grad():
        return torch.equal(*(predict(each, *inputs_for(one)) for each in (one, other)))


def as_the_pipeline(net: PixArtTransformer2DModel, sample: torch.Tensor, timestep: torch.Tensor, given: dict):
    """The net as `PixArtAlphaPipeline` calls it, with a mask of ones and zeros."""
    mask = (given["encoder_attention_mask"] > 0).float()
    sizes = {name: given.get(name) for name in ("resolution", "aspect_ratio")}
    text = given["encoder_hidden_states"]
    output = net(sample, text, encoder_attention_mask=mask, timestep=timestep, added_cond_kwargs=sizes).sample
    return output.chunk(2, dim=1)[0]


def test_prediction_is_diffusers_own_without_the_variance(model: Denoiser, tmp_path: Path) -> None:
    plain = PixArtTransformer2DModel.from_config(model.config).eval()
    plain.load_state_dict(model.net.state_dict())
    sample, timestep, given = inputs_for(model)
    with torch.no_grad():
        prediction = predict(model, sample, timestep, given)
        assert torch.equal(prediction, as_the_pipeline(plain, sample, timestep, given))
        for name, value in given.items():
            assert not torch.equal(predict(model, sample, timestep, {**given, name: value.flip(0)}), prediction), name
    checkpoint.save(model, tmp_path)
    file = tmp_path / "transformer" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "_class_name": "Transformer2DModel"}))  # as it was once
    assert same(model, checkpoint.load(tmp_path))


def test_samples_are_those_of_the_pipeline() -> None:
    model = roads.tiny(CONFIG, DPM, 4.5)
    noise, _, given = inputs_for(model, batch=2)
    both = {name: torch.cat([model.null[name].expand_as(value), value]) for name, value in given.items()}
    own = DPMSolverMultistepScheduler.from_config(DPM)
    own.set_timesteps(3)
    latents = noise
    with torch.no_grad():
        for timestep in own.timesteps:
            output = as_the_pipeline(model.net, torch.cat([latents] * 2), timestep.expand(4), both)
            without_text, by_text = output.chunk(2)
            latents = own.step(without_text + 4.5 * (by_text - without_text), timestep, latents).prev_sample
    assert_close_db(latents.numpy(), draw(model, noise, given).numpy(), least=80)


@pytest.mark.parametrize("heads", ["narrow", "remove"])
def test_heads_widths_and_blocks_go_and_come_back(model: Denoiser, heads: str, tmp_path: Path) -> None:
    config = prune_channels.Config(target={"channels": 0.5}, importance="l1", heads=heads)
    less = prune_channels.run(model, config, make_context(model, tmp_path)).model
    block = less.net.transformer_blocks[1]
    for attention in (block.attn1, block.attn2):
        assert attention.to_q.out_features == attention.to_k.out_features == 12
        assert attention.heads == (1 if heads == "remove" else 2)
    assert block.ff.net[2].in_features == 48 and block.ff.net[2].out_features == 24
    less = without(less, ["transformer_blocks.0"])
    checkpoint.save(less, tmp_path / "less")
    loaded = checkpoint.load(tmp_path / "less")
    assert same(less, loaded) and not same(less, model)


def test_lean_form_is_the_same_function(model: Denoiser) -> None:
    with torch.no_grad():
        before = predict(model, *inputs_for(model))
        with model.family.lean.within(model.net):
            assert_close_db(before.numpy(), predict(model, *inputs_for(model)).numpy(), least=100)


def test_goes_the_whole_road(tmp_path: Path) -> None:
    manifest = roads.go(tmp_path, roads.tiny(LARGE, DPM, 4.5))
    assert manifest["inputs"]["sample"]["shape"] == manifest["outputs"]["out_sample"]["shape"]
    assert set(manifest["sampling"]["guidance"]["null"]) == {"encoder_hidden_states", "encoder_attention_mask"}

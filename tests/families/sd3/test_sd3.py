"""Stable Diffusion 3's transformer computes, is drawn from and is taken apart as diffusers' own."""

from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel

from compress.model import scalars
from compress.model.blocks import without
from compress.model.denoiser import Denoiser, draw, predict
from compress.model.features import tapped
from compress.passes import prune_channels
from compress.pipeline import checkpoint
from tests.conftest import FLOW, assert_close_db, inputs_for, make_context
from tests.families import roads

CONFIG = {
    "_class_name": "SD3Transformer2DModel",
    "sample_size": 8,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "patch_size": 2,
    "joint_attention_dim": 12,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 6,
    "pos_embed_max_size": 8,
}
LATER = {**CONFIG, "dual_attention_layers": [0], "qk_norm": "rms_norm"}  # as 3.5 medium has it


@pytest.fixture(params=[CONFIG, LATER], ids=["3", "3.5"])
def model(request: pytest.FixtureRequest) -> Denoiser:
    return roads.tiny(request.param, FLOW, 5.0)


def same(one: Denoiser, other: Denoiser) -> bool:
    with torch.no_grad():
        return torch.equal(*(predict(each, *inputs_for(one)) for each in (one, other)))


def test_prediction_is_diffusers_own(model: Denoiser, tmp_path: Path) -> None:
    plain = SD3Transformer2DModel.from_config(model.config).eval()
    plain.load_state_dict(model.net.state_dict())
    sample, timestep, given = inputs_for(model)
    assert list(given) == ["encoder_hidden_states", "pooled_projections"] == list(model.dropped)
    with torch.no_grad():
        wanted = plain(sample, timestep=timestep, **given).sample
        assert torch.equal(predict(model, sample, timestep.float(), given), wanted)
    checkpoint.save(model, tmp_path)
    assert same(model, checkpoint.load(tmp_path))


def test_samples_are_those_of_the_pipeline() -> None:
    """`StableDiffusion3Pipeline`'s loop: both texts are left out together."""
    model = roads.tiny(CONFIG, FLOW, 5.0)
    noise, _, given = inputs_for(model, batch=2)
    both = {name: torch.cat([model.null[name].expand_as(value), value]) for name, value in given.items()}
    own = FlowMatchEulerDiscreteScheduler.from_config(FLOW)
    own.set_timesteps(3)
    latents = noise
    with torch.no_grad():
        for timestep in own.timesteps:
            output = model.net(torch.cat([latents] * 2), timestep=timestep.expand(4), **both).sample
            without_text, by_text = output.chunk(2)
            latents = own.step(without_text + 5.0 * (by_text - without_text), timestep, latents).prev_sample
    assert_close_db(latents.numpy(), draw(model, noise, given).numpy(), least=80)


def test_blocks_and_feed_forward_widths_go_and_come_back(model: Denoiser, tmp_path: Path) -> None:
    config = prune_channels.Config(target={"channels": 0.75}, importance="l1")
    less = prune_channels.run(model, config, make_context(model, tmp_path)).model
    block = less.net.transformer_blocks[0]
    assert block.ff.net[2].in_features < 64 and block.ff_context.net[2].in_features < 64
    assert block.attn.to_q.out_features == block.ff.net[2].out_features == 16
    every = [f"transformer_blocks.{i}" for i in range(len(less.net.transformer_blocks))]
    assert list(less.family.blocks(less.net)) == every[:-1]
    less = without(less, every[:1])
    checkpoint.save(less, tmp_path / "less")
    loaded = checkpoint.load(tmp_path / "less")
    assert same(less, loaded) and not same(less, model)
    with tapped(loaded, loaded.family.stages(loaded.net)) as features, torch.no_grad():
        predict(loaded, *inputs_for(loaded))
    assert {feature.shape for feature in features.values()} == {(3, 16, 16)}  # of patches, not of text


def test_a_scalar_finds_a_place(model: Denoiser) -> None:
    scalars.add(model.net, model.family, scalars.GUIDANCE_SCALE)
    model.net.time_text_embed.text_embedder.embeddings["guidance_scale"][2].weight.data.normal_()
    sample, timestep, given = inputs_for(model)
    scales = [{"guidance_scale": torch.full((3,), scale)} for scale in (1.5, 4.0)]
    with torch.no_grad():
        assert not torch.equal(*(predict(model, sample, timestep, given | scale) for scale in scales))


def test_goes_the_whole_road(tmp_path: Path) -> None:
    manifest = roads.go(tmp_path, roads.tiny(LATER, FLOW, 5.0))
    assert list(manifest["inputs"])[2:] == ["encoder_hidden_states", "pooled_projections"]
    assert len(manifest["sampling"]["guidance"]["null"]) == 2

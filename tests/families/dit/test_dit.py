"""A transformer computes, is drawn from and is taken apart as diffusers' own."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline, DiTTransformer2DModel

from compress.contract import Context
from compress.errors import CheckpointError
from compress.model import scalars, structure
from compress.model.blocks import without
from compress.model.denoiser import Denoiser, draw, predict
from compress.passes import distill, factorize, new_student, prune_channels
from compress.pipeline import checkpoint
from tests.conftest import assert_close_db, inputs_for
from tests.families.dit.models import CONFIG, SCHEDULER, transformer


@pytest.fixture
def model() -> Denoiser:
    return transformer()


def same(one: Denoiser, other: Denoiser) -> bool:
    with torch.no_grad():
        return torch.equal(*(predict(each, *inputs_for(one)) for each in (one, other)))


def test_prediction_is_diffusers_own_without_the_variance(model: Denoiser) -> None:
    plain = DiTTransformer2DModel.from_config(CONFIG).eval()
    plain.load_state_dict(model.net.state_dict())
    sample, timestep, conditions = inputs_for(model)
    with torch.no_grad():
        wanted = plain(sample, timestep, conditions["class_labels"]).sample
        assert wanted.shape == (3, 2, 8, 8)
        assert torch.equal(predict(model, sample, timestep, conditions), wanted[:, :1])


def test_lean_form_is_the_same_function(model: Denoiser) -> None:
    modules, before = [path for path, _ in model.net.named_modules()], predict(model, *inputs_for(model))
    with model.family.lean.within(model.net):
        inside = {path for path, _ in model.net.named_modules()} - set(modules)
        parts = ("stacked", "probabilities", "out")
        assert inside == {f"transformer_blocks.{i}.attn1.{part}" for i in range(3) for part in parts}
        assert_close_db(before.numpy(), predict(model, *inputs_for(model)).numpy(), least=100)
    assert [path for path, _ in model.net.named_modules()] == modules
    assert torch.equal(predict(model, *inputs_for(model)), before)


@pytest.mark.parametrize("scale", [None, 1.5])
def test_samples_are_those_of_the_pipeline(scale: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = transformer(scale, steps=5, num_embeds_ada_norm=1000)  # the pipeline's null class is 1000
    if scale is not None:
        guidance = model.sampling.guidance.model_copy(update={"null_class": 1000})
        object.__setattr__(model, "sampling", model.sampling.model_copy(update={"guidance": guidance}))
    seen: list[torch.Tensor] = []
    scheduler = DDIMScheduler.from_config(SCHEDULER)
    step = scheduler.step

    def noted(*arguments: torch.Tensor, **named: torch.Tensor) -> object:
        given = step(*arguments, **named)
        seen.append(given.prev_sample)
        return given

    monkeypatch.setattr(scheduler, "step", noted)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    monkeypatch.setattr(vae, "decode", lambda latents: SimpleNamespace(sample=latents))
    pipeline = DiTPipeline(model.net, vae, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    labels = [3, 7]
    pipeline(labels, scale or 1.0, torch.Generator().manual_seed(1), num_inference_steps=5, output_type="np")
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    ours = draw(model, noise, {"class_labels": torch.tensor(labels)})
    assert_close_db(seen[-1][:2].numpy(), ours.numpy(), least=80)


@pytest.mark.parametrize("heads", ["narrow", "remove"])
def test_heads_and_feed_forward_widths_go_and_come_back(
    model: Denoiser, heads: str, context_for: Callable[..., Context], tmp_path: Path
) -> None:
    config = prune_channels.Config(target={"params": 0.8}, importance="l1", ranking="per_layer", heads=heads)
    less = prune_channels.run(model, config, context_for(model)).model
    block = less.net.transformer_blocks[1]
    assert block.ff.net[2].in_features < 128 and block.attn1.to_q.out_features < 32
    width = 8 if heads == "remove" else block.attn1.to_q.out_features // 4
    assert block.attn1.to_q.out_features == width * block.attn1.heads
    assert (block.attn1.heads < 4) == (heads == "remove")
    assert block.attn1.to_out[0].out_features == 32, "the width of the stream stays"
    checkpoint.save(less, tmp_path / "less")
    loaded = checkpoint.load(tmp_path / "less")
    assert same(less, loaded) and not same(less, model)
    assert structure.describe(loaded.net, less.net, less.family) == {}


def test_blocks_go_and_come_back(model: Denoiser, tmp_path: Path) -> None:
    assert list(model.family.blocks(model.net)) == ["transformer_blocks.1", "transformer_blocks.2"]
    less = without(model, ["transformer_blocks.1"])
    assert list(less.family.stages(less.net)) == ["transformer_blocks.0", "transformer_blocks.2"]
    checkpoint.save(less, tmp_path / "less")
    assert same(less, checkpoint.load(tmp_path / "less")) and not same(less, model)


def test_a_damaged_structure_is_refused(model: Denoiser, tmp_path: Path) -> None:
    checkpoint.save(without(model, ["transformer_blocks.1"]), tmp_path / "less")
    file = tmp_path / "less" / "structure.json"
    file.write_text(file.read_text().replace("blocks.1", "blocks.0"))
    with pytest.raises(CheckpointError, match=r"transformer_blocks\.0: cannot put"):
        checkpoint.load(tmp_path / "less")


def test_what_is_trained_alone_stays_a_plain_model(
    model: Denoiser, context_for: Callable[..., Context], tmp_path: Path
) -> None:
    config = distill.Config.model_validate({"steps": 2, "batch_size": 4, "losses": {"task": 1}})
    trained = distill.run(model, config, context_for(model))
    checkpoint.save(trained.model, tmp_path / "student")
    assert not (tmp_path / "student" / "structure.json").exists()
    plain = DiTTransformer2DModel.from_pretrained(tmp_path / "student" / "transformer").eval()
    sample, timestep, conditions = inputs_for(model)
    with torch.no_grad():
        wanted = plain(sample, timestep, conditions["class_labels"]).sample[:, :1]
        assert torch.equal(predict(trained.model, sample, timestep, conditions), wanted)
    assert not same(trained.model, model)


def test_training_leaves_out_no_labels_of_its_own(model: Denoiser) -> None:
    model.net.train()
    with torch.no_grad():
        assert torch.equal(*(predict(model, *inputs_for(model)) for _ in range(2)))


def test_a_shallower_student_takes_blocks_at_the_same_depth(
    model: Denoiser, context_for: Callable[..., Context]
) -> None:
    config = new_student.Config(config={"num_layers": 2}, inherit="slices")
    student = new_student.run(model, config, context_for(model)).model
    for ours, theirs in ((0, 0), (1, 2)):
        pair = [m.net.transformer_blocks[i].ff.net[2].weight for m, i in ((student, ours), (model, theirs))]
        assert torch.equal(*pair)


def test_ranks_fall_and_a_scalar_finds_a_place_in_every_block(
    model: Denoiser, context_for: Callable[..., Context], tmp_path: Path
) -> None:
    low = factorize.run(model, factorize.Config(target={"rank": 0.25}, batches=1), context_for(model)).model
    scalars.add(low.net, low.family, scalars.GUIDANCE_SCALE)
    assert list(low.inputs) == ["class_labels", "guidance_scale"]
    last = low.net.transformer_blocks[2].norm1.emb.class_embedder.embeddings["guidance_scale"][2]
    last.weight.data.normal_()
    sample, timestep, conditions = inputs_for(low)
    with torch.no_grad():
        scales = [{"guidance_scale": torch.full((3,), scale)} for scale in (1.5, 4.0)]
        both = [predict(low, sample, timestep, conditions | scale) for scale in scales]
    assert not torch.equal(*both)
    checkpoint.save(low, tmp_path / "low")
    assert same(low, checkpoint.load(tmp_path / "low"))

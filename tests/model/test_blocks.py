"""What is left of a model without some of its blocks."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from compress.model import edits, scalars
from compress.model.blocks import inputs_read, without
from compress.model.denoiser import Denoiser, predict
from compress.pipeline import checkpoint
from tests.conftest import CLASS_CONFIG, inputs_for, make_denoiser


def test_inputs_are_read_as_long_as_a_block_reads_them(any_model: Denoiser) -> None:
    blocks = any_model.family.blocks(any_model.net)
    assert inputs_read(any_model) == {"timestep", *any_model.conditions}
    assert inputs_read(without(any_model, blocks)) == set()
    one = next(path for path, edit in blocks.items() if edit["kind"] == "shortcut")
    assert "timestep" in inputs_read(without(any_model, [path for path in blocks if path not in (one, "mid_block")]))


@pytest.mark.parametrize("stage", ["mid_block", "down_blocks.1"])
def test_surviving_channels_of_stages_without_a_writer_are_forgotten(stage: str) -> None:
    model = make_denoiser({**CLASS_CONFIG, "block_out_channels": [16, 16]})  # no 1×1 convolution in a down stage
    taps = model.family.stages(model.net)
    kept = {tap: tuple(range(16)) for tap in taps}
    less = without(Denoiser(model.net, model.family, model.sampling, model.scheduler, kept=kept), ["mid_block"])
    assert set(less.kept) == set(taps) - {"mid_block"}
    blocks = [path for path in model.family.blocks(model.net) if path.startswith(stage)]
    less = without(Denoiser(model.net, model.family, model.sampling, model.scheduler, kept=kept), blocks)
    assert set(less.kept) == set(taps) - {stage} == set(less.family.stages(less.net))


def test_a_block_with_layers_of_low_rank_goes_and_comes_back_from_a_folder(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    path = "up_blocks.0.resnets.0"
    for layer in ("conv1", "conv_shortcut"):
        edits.put(model.net, model.family, f"{path}.{layer}", {"kind": "low_rank", "rank": 3})
    less = without(model, [path])
    assert list(edits.found(less.net)) == [path, f"{path}.conv_shortcut"]
    checkpoint.save(less, tmp_path)
    with torch.no_grad():
        outputs = [predict(each, *inputs_for(less)) for each in (less, checkpoint.load(tmp_path))]
    assert torch.equal(*outputs)


def test_the_model_itself_is_not_changed(any_model: Denoiser) -> None:
    before = {name: tensor.clone() for name, tensor in any_model.net.state_dict().items()}
    without(any_model, any_model.family.blocks(any_model.net))
    after = any_model.net.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_numbers_that_the_net_takes_are_inputs_too(any_model: Denoiser) -> None:
    scalars.add(any_model.net, any_model.family, scalars.GUIDANCE_SCALE)
    nn.init.normal_(any_model.net.class_embedding.embeddings[scalars.GUIDANCE_SCALE][2].weight)
    model = dataclasses.replace(any_model)
    blocks = model.family.blocks(model.net)
    assert inputs_read(model) == {"timestep", *model.conditions, scalars.GUIDANCE_SCALE}
    assert inputs_read(without(model, blocks)) == set()

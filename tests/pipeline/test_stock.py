"""What diffusers makes of saved students: the very net, or an error; never another net."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoModel, UNet2DConditionModel, UNet2DModel
from torch import nn

from compress.errors import CheckpointError
from compress.model import blocks, edits, scalars
from compress.model.denoiser import Denoiser, predict
from compress.passes import prune_channels
from compress.pipeline import checkpoint
from compress.pipeline.variants import OWN_WEIGHTS
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG, inputs_for, make_denoiser, read_json
from tests.pipeline.test_checkpoint import WEIGHTS, output

CONFIGS = {"class": CLASS_CONFIG, "text": TEXT_CONFIG}


def kind(model: Denoiser) -> Any:
    return UNet2DModel if model.family.name == "UNet2DModel" else UNet2DConditionModel


def stock_output(model: Denoiser, folder: Path) -> torch.Tensor:
    """Of the net that diffusers loads, called as diffusers has it."""
    net = kind(model).from_pretrained(folder / "unet").eval()
    sample, timestep, conditions = inputs_for(model)
    with torch.no_grad():
        found: torch.Tensor = net(sample, timestep, **conditions).sample
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_without_its_mid_block_it_is_a_stock_net(name: str, tmp_path: Path) -> None:
    student = blocks.without(make_denoiser(CONFIGS[name]), ["mid_block"])
    checkpoint.save(student, tmp_path)
    assert read_json(tmp_path / "unet" / "config.json")["mid_block_type"] is None
    assert not (tmp_path / "structure.json").exists()
    assert torch.equal(stock_output(student, tmp_path), output(student))
    assert torch.equal(output(checkpoint.load(tmp_path)), output(student))


def by_blocks(model: Denoiser) -> Denoiser:
    return blocks.without(model, ["down_blocks.0.resnets.0"])


def by_guidance(model: Denoiser) -> Denoiser:
    scalars.add(model.net, model.family, scalars.GUIDANCE_SCALE)
    nn.init.normal_(model.net.class_embedding.embeddings[scalars.GUIDANCE_SCALE][2].weight)  # type: ignore[index, union-attr]
    return model


def by_rank(model: Denoiser) -> Denoiser:
    edits.put(model.net, model.family, "conv_in", {"kind": "low_rank", "rank": 3})
    return model


def by_channels(model: Denoiser) -> Denoiser:
    model.net.requires_grad_(True)
    config = prune_channels.Config(target={"channels": 0.5}, importance="l2")
    return prune_channels.prune(model, prune_channels.rank(model, config, 0, "prune"), config, 0.5)


@pytest.mark.parametrize("change", [by_blocks, by_guidance, by_rank, by_channels])
@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_config_cannot_say_is_not_loaded_as_something_else(
    name: str, change: Callable[[Denoiser], Denoiser], tmp_path: Path
) -> None:
    student = change(make_denoiser(CONFIGS[name]))
    student.net.requires_grad_(False)
    checkpoint.save(student, tmp_path)
    with pytest.raises(OSError, match="no file named"):
        kind(student).from_pretrained(tmp_path / "unet")
    with pytest.raises(OSError, match="no file named"):
        AutoModel.from_pretrained(tmp_path / "unet")
    assert torch.equal(output(checkpoint.load(tmp_path)), output(student))


@pytest.mark.parametrize("change", [by_blocks, by_guidance, by_channels])
def test_students_of_earlier_versions_are_read(change: Callable[[Denoiser], Denoiser], tmp_path: Path) -> None:
    """Their weights have diffusers' name."""
    student = change(make_denoiser(CLASS_CONFIG))
    student.net.requires_grad_(False)
    checkpoint.save(student, tmp_path)
    (tmp_path / "unet" / OWN_WEIGHTS).rename(tmp_path / "unet" / WEIGHTS)
    assert torch.equal(output(checkpoint.load(tmp_path)), output(student))


def test_a_mid_block_that_an_earlier_version_took_out(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    checkpoint.save(blocks.without(model, ["mid_block"]), tmp_path)
    file = tmp_path / "unet" / "config.json"
    file.write_text(json.dumps({**read_json(file), "mid_block_type": "UNetMidBlock2D"}))
    (tmp_path / "structure.json").write_text(json.dumps({"edits": {"mid_block": {"kind": "passthrough"}}}))
    loaded = checkpoint.load(tmp_path)
    assert torch.equal(output(loaded), output(blocks.without(model, ["mid_block"])))
    with torch.no_grad():
        assert not torch.equal(output(loaded), predict(model, *inputs_for(model)))
    checkpoint.save(loaded, tmp_path / "again")
    assert torch.equal(stock_output(loaded, tmp_path / "again"), output(loaded))


def test_without_structure_json_it_is_not_read_as_another_net(tmp_path: Path) -> None:
    checkpoint.save(by_blocks(make_denoiser(CLASS_CONFIG)), tmp_path)
    (tmp_path / "structure.json").unlink()
    with pytest.raises(CheckpointError, match="missing down_blocks"):
        checkpoint.load(tmp_path)

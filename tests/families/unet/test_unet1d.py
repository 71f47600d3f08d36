"""Samples of one dimension: a U-Net on sound is pruned, distilled, exported and drawn from."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet1DModel

from compress import data
from compress.contract import Context
from compress.data import Dataset
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.errors import CheckpointError, DataError, VerifyError
from compress.families import FAMILIES
from compress.model.blocks import without
from compress.model.denoiser import Denoiser, draw, predict
from compress.passes import distill, export_onnx, prune_channels, verify
from compress.pipeline import checkpoint
from tests.command import compress
from tests.conftest import SCHEDULER, assert_close_db, inputs_for

CONFIG = {
    "_class_name": "UNet1DModel",
    "sample_size": 32,
    "in_channels": 2,
    "out_channels": 2,
    "extra_in_channels": 32,
    "time_embedding_type": "positional",
    "block_out_channels": [32, 32],
    "down_block_types": ["DownBlock1DNoSkip", "AttnDownBlock1D"],
    "up_block_types": ["AttnUpBlock1D", "UpBlock1DNoSkip"],
}


@pytest.fixture
def sound() -> Denoiser:
    torch.manual_seed(0)
    family = FAMILIES["UNet1DModel"]
    net = family.build(CONFIG).eval().requires_grad_(False)
    return Denoiser(net, family, from_scheduler_config(SCHEDULER, SamplingOptions(steps=3)), SCHEDULER)


def test_prediction_is_diffusers_own(sound: Denoiser, tmp_path: Path) -> None:
    checkpoint.save(sound, tmp_path)
    plain = UNet1DModel.from_pretrained(tmp_path / "unet").eval()
    sample, timestep, _ = inputs_for(sound)
    with torch.no_grad():
        assert torch.equal(predict(sound, sample, timestep, {}), plain(sample, timestep).sample)
    assert sample.shape == (3, 2, 32)


def test_sound_goes_from_pruning_to_samples(
    sound: Denoiser, context_for: Callable[..., Context], tmp_path: Path
) -> None:
    context = context_for(sound)
    context = dataclasses.replace(context, dataset=lambda: Dataset(torch.randn(8, 2, 32), {}))
    config = prune_channels.Config(target={"macs": 0.8}, importance="l1", ranking="per_layer")
    less = prune_channels.run(sound, config, context).model
    assert less.net.up_blocks[0].resnets[0].conv_1.out_channels < 32
    student = distill.run(less, distill.Config(steps=2, batch_size=4), context).model
    checkpoint.save(student, tmp_path / "student")
    loaded = checkpoint.load(tmp_path / "student")
    bundle = export_onnx.run(loaded, export_onnx.Config(), context).model
    noise = torch.randn(2, 2, 32, generator=torch.Generator().manual_seed(1))
    samples = bundle.sample(noise.numpy())
    assert samples.shape == (2, 2, 32) and np.isfinite(samples).all()
    assert_close_db(draw(student, noise, {}).numpy(), samples, least=60)
    drawn = compress("sample", bundle.path, "--out", "sounds.npz", "--count", 3, folder=tmp_path)
    assert drawn.returncode == 0, drawn.stderr
    assert np.load(tmp_path / "sounds.npz")["samples"].shape == (3, 2, 32)
    refused = compress("sample", bundle.path, folder=tmp_path)
    assert refused.returncode == 2 and "no images; give the name of an .npz" in refused.stderr
    with pytest.raises(VerifyError, match=r"judges images; samples of this model are \[2, 32\]"):
        verify.run(bundle, verify.Config(samples=10), context)


def test_blocks_of_unchanged_width_can_go(sound: Denoiser, tmp_path: Path) -> None:
    paths = ["mid_block.attentions.1", "mid_block.resnets.2"]
    less = without(sound, paths)
    checkpoint.save(less, tmp_path)
    with torch.no_grad():
        outputs = [predict(each, *inputs_for(less)) for each in (less, checkpoint.load(tmp_path), sound)]
    assert torch.equal(*outputs[:2]) and not torch.equal(*outputs[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_embedding_type": "fourier"}, "continuous noise levels"),
        ({"out_block_type": "ValueFunction"}, "planning models"),
        ({"down_block_types": ["DownResnetBlock1D"]}, "DownResnetBlock1D is not supported"),
        ({"sample_size": [32, 32]}, r"sample_size is \[32, 32\]; should be the length"),
    ],
)
def test_what_is_not_supported_says_so(sound: Denoiser, change: dict, message: str, tmp_path: Path) -> None:
    checkpoint.save(sound, tmp_path)
    file = tmp_path / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load(tmp_path)


def test_pictures_are_no_sound(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds pictures; samples of the model are \[2, 32\]: give an .npz"):
        data.load(data.Folder(source="folder", path=tmp_path), (2, 32), None)

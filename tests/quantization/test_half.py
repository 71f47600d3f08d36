"""Graphs in half precision: families, and parts around a denoiser."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from diffusers import AutoencoderKL
from onnxruntime import InferenceSession

from compress.judge.quality import sqnr
from compress.model.denoiser import Denoiser, example_inputs, predict
from compress.onnx_graph.export import to_onnx
from compress.quantization import half, quantized
from compress.quantization.part import half_part
from tests.conftest import assert_close_db, inputs_for
from tests.families import roads
from tests.families.pixart import test_pixart as pixart
from tests.families.sd3 import test_sd3 as sd3
from tests.families.unet.test_kin import ROADS


@pytest.mark.parametrize(
    "made",
    [ROADS["sdxl"][:3], ROADS["learned-variance"][:3], (pixart.LARGE, pixart.DPM, 4.5), (sd3.LATER, sd3.FLOW, 5.0)],
    ids=["sdxl", "learned variance", "pixart", "sd3.5"],
)
def test_late_timesteps_and_sizes_are_told_exactly(made: tuple[dict, dict, float]) -> None:
    model = roads.tiny(*made)
    sample, timestep, conditions = inputs_for(model)
    timestep = torch.full_like(timestep, 801)  # float16 has none between 801 and 801.5: sines must be of float32
    found = quantized.rebuild(model, "fp16", {})
    with torch.no_grad():
        wanted, got = (predict(one, sample, timestep, conditions).numpy() for one in (model, found))
    assert_close_db(wanted, got, 55)
    assert_shares_nothing(model, found)


def test_a_guidance_scale_is_told_exactly() -> None:
    model = roads.tiny(*ROADS["lcm"][:3])
    found = quantized.rebuild(model, "fp16", {})
    inputs = [torch.full_like(v, 7.3) if v.ndim == 1 and v.is_floating_point() else v for v in example_inputs(model, 2)]
    assert any(value.ndim == 1 and value.is_floating_point() for value in inputs)
    with torch.no_grad():  # a thousand times as much goes into sines
        assert_close_db(*(one.module(*inputs).numpy() for one in (model, found)), 55)


def assert_shares_nothing(model: Denoiser, found: Denoiser) -> None:
    assert all(weight.dtype is torch.float32 for weight in model.net.parameters())
    weights = [weight for weight in found.module.parameters() if weight.ndim > 1]
    assert weights and all(weight.dtype is torch.float16 for weight in weights)


def test_a_decoder_that_overflows_keeps_those_layers_in_float(tmp_path: Path) -> None:
    torch.manual_seed(0)
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    net = AutoencoderKL(block_out_channels=(8, 8), norm_num_groups=4, layers_per_block=1, **blocks)
    net = net.eval().requires_grad_(False)
    for name in ("conv2.weight", "conv2.bias"):  # as SDXL's: a sum that grows, and a norm behind it
        net.decoder.up_blocks[1].resnets[1].get_parameter(name).mul_(3e5)

    class Decoded(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, latents: torch.Tensor) -> torch.Tensor:
            return self.net.decode(latents, return_dict=False)[0]

    latents = torch.randn(6, 4, 8, 8)
    wanted = Decoded()(latents).numpy()
    module, kept = half_part(Decoded(), (latents,))
    last = "decoder.up_blocks.1.resnets.1"
    assert {f"{last}.conv2", last, "decoder.conv_norm_out"} <= set(kept) and len(kept) < 6, kept
    assert_close_db(wanted, module(latents).numpy(), 40)
    ir.save(to_onnx(module, (latents[:2],), ["latents"], None, 18), tmp_path / "decoder.onnx")
    session = InferenceSession(tmp_path / "decoder.onnx")
    assert_close_db(wanted, session.run(None, {"latents": latents.numpy()})[0], 40)
    graph = torch.export.export(Decoded(), (latents,)).module()
    spoilt = half.halved(graph, ())(latents).numpy()  # type: ignore[arg-type]
    assert not np.isfinite(spoilt).all() or sqnr(wanted, spoilt) < 20

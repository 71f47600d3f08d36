"""What is read of layers, against what happens when their outputs are disturbed."""

import pytest
import torch
from torch.nn import functional

from compress.model import low_rank
from compress.model.denoiser import Denoiser, predict
from compress.model.moments import reading
from tests.conftest import inputs_for

PATHS = ["time_embedding.linear_1", "down_blocks.0.resnets.0.conv1", "mid_block.attentions.0.to_k", "conv_out"]


@pytest.mark.parametrize("path", PATHS)
def test_response_is_that_of_the_output_to_small_noise(class_model: Denoiser, path: str) -> None:
    layer = class_model.net.get_submodule(path)
    sample, timestep, conditions = inputs_for(class_model, batch=256)
    with reading({path: layer}) as found:
        output = predict(class_model, sample, timestep, conditions)
        output.backward(torch.randint(2, output.shape) * 2.0 - 1)
        found.items = len(sample)
    assert all(parameter.grad is None for parameter in class_model.net.parameters())
    handle = layer.register_forward_hook(lambda _m, _i, y: y + 1e-3 * torch.randn(y.shape))
    with torch.no_grad():
        disturbed = predict(class_model, sample, timestep, conditions)
    handle.remove()
    variance = float((disturbed - output.detach()).square().sum() / len(sample)) / 1e-6
    width = layer.weight.shape[0]
    assert found.response(path) * width == pytest.approx(variance, rel=0.15)


def test_moments_are_those_of_the_outputs(class_model: Denoiser) -> None:
    path = "down_blocks.0.resnets.0.conv1"
    layer = class_model.net.get_submodule(path)
    inputs: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _m, given: inputs.append(given[0]))
    with torch.no_grad(), reading({path: layer}) as found:
        predict(class_model, *inputs_for(class_model))
        predict(class_model, *inputs_for(class_model, seed=2))
    handle.remove()
    columns = functional.unfold(torch.cat(inputs), 3, padding=1).transpose(0, 1).flatten(1).double()
    y = low_rank.matrix(layer) @ columns
    torch.testing.assert_close(found.moments(path), y @ y.T / columns.shape[1], atol=1e-5, rtol=1e-4)
    assert found.moments("absent") is None and found.response(path) == 0
    assert not layer._forward_hooks

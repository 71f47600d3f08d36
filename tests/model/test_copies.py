"""Copies of a net that hardly take memory."""

import torch

from compress.model.copies import shadow, sharing
from compress.model.denoiser import Denoiser, example_inputs, predict
from tests.conftest import inputs_for


def test_a_sharing_copy_has_modules_of_its_own_around_the_same_weights(any_model: Denoiser) -> None:
    net = any_model.net
    next(net.parameters()).grad = torch.ones_like(next(net.parameters()))
    copied = sharing(net)
    assert not {id(module) for module in net.modules()} & {id(module) for module in copied.modules()}
    assert [name for name, _ in copied.named_modules()] == [name for name, _ in net.named_modules()]
    ours, theirs = copied.state_dict(), net.state_dict()
    assert [(name, tensor.data_ptr()) for name, tensor in ours.items()] == [
        (name, tensor.data_ptr()) for name, tensor in theirs.items()
    ]
    assert all(parameter.grad is None for parameter in copied.parameters())
    copied.requires_grad_(True)
    assert not any(parameter.requires_grad for parameter in net.parameters())
    assert copied.config == net.config


def test_a_shadow_has_shapes_alone(any_model: Denoiser) -> None:
    empty = shadow(any_model.net)
    tensors = [*empty.parameters(), *empty.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert [tensor.shape for tensor in tensors] == [
        tensor.shape for tensor in (*any_model.net.parameters(), *any_model.net.buffers())
    ]
    inputs = example_inputs(any_model, 2)
    with torch.no_grad():
        output = any_model.family.positional(empty)(*(value.to("meta") for value in inputs))
        assert output.shape == inputs[0].shape
        assert torch.isfinite(predict(any_model, *inputs_for(any_model))).all()  # which has kept its own

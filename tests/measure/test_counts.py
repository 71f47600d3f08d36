"""Counts against arithmetic done by hand, and against counting hooks."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from compress.families import FAMILIES
from compress.families.family import Family
from compress.measure import counts
from compress.model.denoiser import Denoiser, example_inputs
from compress.passes import prune_channels
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG, make_denoiser

Size = int | tuple[int, int]


class OneOfEach(nn.Module):
    """conv 3→8, 3×3, stride 2; grouped conv 8→8; linear 6→5."""

    dtype = torch.float32

    def __init__(self, sample_size: Size) -> None:
        super().__init__()
        self.config = {"sample_size": sample_size, "in_channels": 3}
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4, bias=False)
        self.linear = nn.Linear(6, 5)
        self.norm = nn.GroupNorm(2, 8)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.grouped(self.conv(sample)))
        return sample + features.mean() + self.linear(torch.ones(len(sample), 6, device=sample.device)).sum()


def plain_family(**changes: Any) -> Family:
    family = FAMILIES["UNet2DModel"]

    def call(net: Any, sample: torch.Tensor, timestep: torch.Tensor, _conditions: Any, _scalars: Any) -> torch.Tensor:
        return net(sample, timestep)

    return dataclasses.replace(family, conditions=lambda net, tokens: {}, call=call, **changes)


def tiny(sample_size: Size) -> Denoiser:
    model = make_denoiser(CLASS_CONFIG)
    return dataclasses.replace(model, net=OneOfEach(sample_size), family=plain_family())


def macs_by_hooks(model: Denoiser) -> int:
    """Convolutions and linear layers by their own shapes, and the two products of every attention."""
    total = 0

    def layer(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            total += output.numel() * math.prod(module.kernel_size) * module.in_channels // module.groups
        else:
            total += output.numel() * module.in_features

    def attention(module: Attention, inputs: tuple, keywords: Mapping[str, Any], output: torch.Tensor) -> None:
        nonlocal total
        hidden = inputs[0]
        queries = hidden[0].numel() // hidden.shape[1] if hidden.ndim == 4 else hidden.shape[1]
        context = keywords.get("encoder_hidden_states")
        keys = queries if context is None else context.shape[1]
        total += queries * keys * (module.to_q.out_features + module.to_v.out_features)

    handles = []
    for module in model.net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            handles.append(module.register_forward_hook(layer))
        elif isinstance(module, Attention):
            handles.append(module.register_forward_hook(attention, with_kwargs=True))
    with torch.no_grad():
        model.module(*example_inputs(model, batch=1))
    for handle in handles:
        handle.remove()
    return total


@pytest.mark.parametrize(("size", "pixels"), [(8, 4 * 4), ((8, 16), 4 * 8)])
def test_macs_by_hand(size: Size, pixels: int) -> None:
    conv = pixels * 8 * 3 * 9
    grouped = pixels * 8 * 2 * 9
    assert counts.macs(tiny(size)) == conv + grouped + 6 * 5


def test_parameters_by_hand() -> None:
    assert counts.parameters(tiny(8)) == (8 * 3 * 9 + 8) + 8 * 2 * 9 + (6 * 5 + 5) + (8 + 8)


def test_macs_agree_with_counting_hooks(any_model: Denoiser) -> None:
    assert counts.macs(any_model) == macs_by_hooks(any_model)


@pytest.mark.parametrize("config", [CLASS_CONFIG, TEXT_CONFIG], ids=["class", "text"])
def test_macs_of_a_pruned_model_agree_with_counting_hooks(config: dict) -> None:
    model = make_denoiser(config)
    model.net.requires_grad_(True)
    settings = prune_channels.Config(target={"channels": 0.5}, importance="l1")
    pruned = prune_channels.prune(model, prune_channels.rank(model, settings, 0, "prune"), settings, 0.5)
    assert counts.macs(pruned) == macs_by_hooks(pruned) < counts.macs(model)
    assert counts.parameters(pruned) < counts.parameters(model)


def test_parameters_are_those_of_the_state_dict(any_model: Denoiser) -> None:
    assert counts.parameters(any_model) == sum(tensor.numel() for tensor in any_model.net.state_dict().values())


def test_longer_text_costs_more() -> None:
    model = make_denoiser(TEXT_CONFIG)
    longer = dataclasses.replace(model, null={"encoder_hidden_states": torch.zeros(50, 12)})
    assert counts.macs(longer) == macs_by_hooks(longer) > counts.macs(model)


def test_counting_leaves_the_model_alone(class_model: Denoiser) -> None:
    before = {name: tensor.clone() for name, tensor in class_model.net.state_dict().items()}
    counts.macs(class_model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in class_model.net.state_dict().items())
    assert class_model.device.type == "cpu"


def test_one_structure_is_counted_once_and_another_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    pruned = make_denoiser(CLASS_CONFIG)
    wanted = counts.macs(pruned)
    with monkeypatch.context() as patched:
        patched.setattr(counts, "FlopCounterMode", lambda **_: pytest.fail("counted again"))
        assert counts.macs(make_denoiser(CLASS_CONFIG, seed=1)) == wanted
    pruned.net.down_blocks[0].resnets[0].conv1 = nn.Conv2d(16, 16, 1)
    fewer = counts.macs(pruned)
    pruned.net.conv_in.weight = nn.Parameter(pruned.net.conv_in.weight[:, :, :1, :1].clone())  # its repr is as before
    assert fewer < wanted and counts.macs(pruned) != fewer

"""Learned rounding against exhaustive search, and what layers are fed against unfold."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.quantization import rounding
from tests.conftest import CLASS_CONFIG, make_denoiser


def correlated(inputs: int, random: torch.Generator) -> torch.Tensor:
    """E[x x^T] of inputs that have a few directions in common."""
    x = torch.randn(200, 3, generator=random) @ torch.randn(3, inputs, generator=random)
    x += 0.1 * torch.randn(200, inputs, generator=random)
    return x.T @ x / len(x)


def error(found: torch.Tensor, weight: torch.Tensor, moment: torch.Tensor) -> torch.Tensor:
    return torch.einsum("oi,ij,oj->o", found - weight, moment, found - weight)


def nearest(weight: torch.Tensor, size: torch.Tensor, largest: int) -> torch.Tensor:
    return (weight / size).round().clamp(-largest, largest) * size


def test_lies_between_the_nearest_level_and_the_best_choice_of_all() -> None:
    random = torch.Generator().manual_seed(0)
    weight, moment = torch.randn(40, 8, generator=random), correlated(8, random)
    size = weight.abs().amax(1, keepdim=True) / 3
    found = rounding.gptq(weight, moment, size, 3)
    levels = found / size
    torch.testing.assert_close(levels, levels.round())
    assert levels.abs().max() <= 3.001
    ours, plain = error(found, weight, moment), error(nearest(weight, size, 3), weight, moment)
    below = (weight / size).floor()
    choices = [(below + torch.tensor(ups)).clamp(-3, 3) * size for ups in itertools.product((0, 1), repeat=8)]
    best = torch.stack([error(choice, weight, moment) for choice in choices]).amin(0)
    assert (ours <= plain * 1.0001).all()
    assert ours.mean() < 0.4 * plain.mean()
    assert ours.mean() < 4 * best.mean()


def test_no_output_is_worse_than_at_the_nearest_level() -> None:
    random = torch.Generator().manual_seed(3)
    weight, moment = torch.randn(500, 6, generator=random), correlated(6, random)
    size = weight.abs().amax(1, keepdim=True)  # three levels: what is left over often has nowhere to go
    ours = error(rounding.gptq(weight, moment, size, 1), weight, moment)
    assert (ours <= error(nearest(weight, size, 1), weight, moment) * 1.0001).all()


def test_independent_inputs_take_the_nearest_level() -> None:
    weight = torch.randn(7, 12, generator=torch.Generator().manual_seed(1))
    size = weight.abs().amax(1, keepdim=True) / 63
    found = rounding.gptq(weight, torch.diag(torch.arange(12.0)), size, 63)  # and one that is never fed
    torch.testing.assert_close(found, nearest(weight, size, 63), rtol=0, atol=0)


def test_columns_are_only_a_matter_of_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(2)
    weight, moment = torch.randn(5, 50, generator=random).double(), correlated(50, random).double()
    size = torch.rand(5, 50, generator=random).double() + 0.1  # as in blocks of four bits
    found = []
    for columns in (1, 7, 64):
        monkeypatch.setattr(rounding, "COLUMNS", columns)
        found.append(rounding.gptq(weight, moment, size, 7))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=0)


def test_channels_of_zeros_stay_zero() -> None:
    weight = torch.zeros(2, 4)
    weight[0] = 1
    found = rounding.gptq(weight, torch.ones(4, 4), weight.abs().amax(1, keepdim=True) / 63, 63)
    torch.testing.assert_close(found, weight)


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 0), (1, 1, 0)])
def test_a_convolution_is_read_as_its_weight_takes_it(kernel: int, stride: int, padding: int) -> None:
    layer = nn.Conv2d(3, 5, kernel, stride, padding)
    x = torch.randn(2, 3, 8, 6)
    with rounding.reading({"layer": layer}, torch.Generator().manual_seed(0)) as moments:
        layer(x)
        layer(x)
    rows = functional.unfold(x, kernel, padding=padding, stride=stride).transpose(1, 2).flatten(0, 1)
    assert len(rows) <= 2 * rounding.PLACES
    torch.testing.assert_close(moments["layer"], 2 * rows.T @ rows)
    layer(x)
    torch.testing.assert_close(moments["layer"], 2 * rows.T @ rows)


def test_a_linear_layer_is_read_at_every_token() -> None:
    layer, x = nn.Linear(4, 2), torch.randn(3, 7, 4)
    with rounding.reading({"layer": layer}, torch.Generator()) as moments:
        layer(x)
    torch.testing.assert_close(moments["layer"], x.flatten(0, 1).T @ x.flatten(0, 1))


def test_leaves_out_convolutions_whose_inputs_are_not_one_window() -> None:
    plain, grouped, spread = nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, dilation=2)
    model = dataclasses.replace(make_denoiser(CLASS_CONFIG), net=nn.Sequential(plain, grouped, spread, nn.SiLU()))
    assert list(rounding.layers(model)) == ["0"]


def test_leaves_out_what_lean_attention_folds() -> None:
    model = make_denoiser(CLASS_CONFIG)
    net, found = model.net, rounding.layers(model)
    assert "conv_in" in found and "time_embedding.linear_1" in found
    paths = [path for path, layer in net.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert {path for path in paths if path not in found} == {path for path in paths if ".attentions." in path} != set()

"""Factors of least error and what is read for them, against computations that share no code with them."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.families.replacements import LowRank
from compress.model import low_rank
from compress.model.denoiser import Denoiser, predict
from compress.model.low_rank import Readings, Spectrum
from compress.model.paths import watched
from tests.conftest import inputs_for

PATHS = ["time_embedding.linear_1", "down_blocks.0.resnets.0.conv1", "mid_block.attentions.0.to_k", "conv_out"]
CONV = {"kernel_size": 3, "padding": 1}


def make(kind: str) -> nn.Module:
    torch.manual_seed(3)
    layers = {
        "conv": lambda: nn.Conv2d(5, 7, **CONV),
        "strided": lambda: nn.Conv2d(5, 7, 3, stride=2, padding=1),
        "pointwise, tall": lambda: nn.Conv2d(4, 9, 1),
        "linear, wide": lambda: nn.Linear(9, 4),
        "linear, tall": lambda: nn.Linear(4, 9, bias=False),
    }
    return layers[kind]().requires_grad_(False)


KINDS = ["conv", "strided", "pointwise, tall", "linear, wide", "linear, tall"]


def patches(layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """(correlated input, the same as columns [in·k·k, n] in float64)."""
    torch.manual_seed(4)
    if isinstance(layer, nn.Linear):
        x = torch.randn(200, layer.in_features) @ torch.randn(layer.in_features, layer.in_features)
        return x, x.T.double()
    x = torch.randn(8, layer.in_channels, 6, 6).cumsum(2) * torch.arange(1, layer.in_channels + 1)[:, None, None]
    columns = functional.unfold(x, layer.kernel_size, padding=layer.padding, stride=layer.stride)
    return x, columns.transpose(0, 1).flatten(1).double()


def correlation(layer: nn.Module, columns: torch.Tensor) -> torch.Tensor:
    z = low_rank.basis(layer).T @ low_rank.matrix(layer) @ columns
    return z @ z.T / columns.shape[1]


def factors(layer: nn.Module, rank: int, found: low_rank.Spectrum) -> LowRank:
    low = LowRank(layer, rank)
    low_rank.fill(low, layer, found)
    return low.requires_grad_(False)


@pytest.mark.parametrize("aware", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_full_rank_is_exact(kind: str, aware: bool) -> None:
    layer = make(kind)
    x, columns = patches(layer)
    # correlations of a few patches: most directions are never met
    found = low_rank.spectrum(layer, correlation(layer, columns[:, :2]) if aware else None)
    low = factors(layer, low_rank.full_rank(layer), found)
    torch.testing.assert_close(low(x), layer(x), atol=1e-4, rtol=1e-4)
    assert found.kept(low_rank.full_rank(layer)) == pytest.approx(1)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_plain_error_is_the_tail_of_the_singular_values(kind: str, rank: int) -> None:
    layer = make(kind)
    weight = layer.weight.flatten(1).double()
    values = torch.linalg.svdvals(weight)
    found = low_rank.spectrum(layer)
    low = factors(layer, rank, found)
    error = (low_rank.matrix(low) - weight).square().sum()
    assert float(error) == pytest.approx(float(values[rank:].square().sum()), rel=1e-5)
    assert found.kept(rank) == pytest.approx(float(values[:rank].square().sum() / values.square().sum()), rel=1e-9)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_weighted_error_is_that_of_the_whitened_decomposition(kind: str, rank: int) -> None:
    """The oracle: W' = U_r S_r V_r^T L^-1 from the decomposition of W L, E[x x^T] = L L^T."""
    layer = make(kind)
    x, columns = patches(layer)
    weight = layer.weight.flatten(1).double()
    root = torch.linalg.cholesky(columns @ columns.T)
    u, s, v = torch.linalg.svd(weight @ root, full_matrices=False)
    oracle = torch.linalg.solve(root.T, (u[:, :rank] * s[:rank] @ v[:rank]).T).T
    low = factors(layer, rank, low_rank.spectrum(layer, correlation(layer, columns)))
    torch.testing.assert_close(low_rank.matrix(low), oracle, atol=1e-3, rtol=1e-3)
    error = (low(x) - layer(x)).double().square().sum()
    assert float(error) == pytest.approx(float(s[rank:].square().sum()), rel=1e-3)
    plain = factors(layer, rank, low_rank.spectrum(layer))
    assert error <= (plain(x) - layer(x)).double().square().sum()


@pytest.mark.parametrize("kind", ["conv", "linear, tall"])
def test_channels_between_the_factors_have_equal_energy(kind: str) -> None:
    layer = make(kind)
    _, columns = patches(layer)
    low = factors(layer, 3, low_rank.spectrum(layer, correlation(layer, columns)))
    inner = low_rank.matrix(low.down) @ columns
    torch.testing.assert_close(inner @ inner.T / columns.shape[1], torch.eye(3).double(), atol=1e-2, rtol=1e-2)


def test_factors_are_factorized_again() -> None:
    layer = make("conv")
    once = factors(layer, 5, low_rank.spectrum(layer))
    assert (low_rank.full_rank(once), low_rank.size(once)) == (5, 5 * low_rank.rank_size(once))
    twice = factors(once, 2, low_rank.spectrum(once))
    assert twice.edit == {"kind": "low_rank", "rank": 2}
    direct = factors(layer, 2, low_rank.spectrum(layer))
    torch.testing.assert_close(low_rank.matrix(twice), low_rank.matrix(direct), atol=1e-5, rtol=1e-4)


def test_a_layer_of_zeros_stays_finite() -> None:
    layer = make("conv")
    layer.weight.zero_()
    low = factors(layer, 2, low_rank.spectrum(layer, torch.zeros(7, 7).double()))
    assert all(parameter.isfinite().all() for parameter in low.parameters())
    assert low_rank.matrix(low).abs().max() == 0


@pytest.mark.parametrize("share, rank", [(0.5, 1), (0.6, 1), (0.61, 2), (0.9, 2), (1.0, 3), (1e-9, 1)])
def test_least_rank(share: float, rank: int) -> None:
    assert Spectrum(torch.eye(3), torch.tensor([6.0, 3.0, 1.0]).double()).least_rank(share) == rank


@pytest.mark.parametrize("path", PATHS)
def test_response_is_that_of_the_output_to_small_noise(class_model: Denoiser, path: str) -> None:
    layer = class_model.net.get_submodule(path)
    sample, timestep, conditions = inputs_for(class_model, batch=256)
    found = Readings({path: layer})
    with watched(class_model.net, [path], found.read):
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


def test_correlations_are_those_of_the_outputs(class_model: Denoiser) -> None:
    path = "down_blocks.0.resnets.0.conv1"
    layer = class_model.net.get_submodule(path)
    inputs: list[torch.Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _m, given: inputs.append(given[0]))
    found = Readings({path: layer})
    with torch.no_grad(), watched(class_model.net, [path], found.read):
        predict(class_model, *inputs_for(class_model))
        predict(class_model, *inputs_for(class_model, seed=2))
    handle.remove()
    columns = functional.unfold(torch.cat(inputs), 3, padding=1).transpose(0, 1).flatten(1).double()
    y = low_rank.matrix(layer) @ columns
    torch.testing.assert_close(found.correlation(path), y @ y.T / columns.shape[1], atol=1e-5, rtol=1e-4)
    assert found.correlation("absent") is None and found.response(path) == 0
    assert not layer._forward_hooks

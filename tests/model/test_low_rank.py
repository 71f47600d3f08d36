"""Factors of least error and ranks within a budget, against computations that share no code with them."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.families.replacements import LowRank
from compress.model import low_rank
from compress.model.low_rank import Choice, allocate

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


def moments(layer: nn.Module, columns: torch.Tensor) -> torch.Tensor:
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
    # moments of a few patches: most directions are never met
    found = low_rank.spectrum(layer, moments(layer, columns[:, :2]) if aware else None)
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
    low = factors(layer, rank, low_rank.spectrum(layer, moments(layer, columns)))
    torch.testing.assert_close(low_rank.matrix(low), oracle, atol=1e-3, rtol=1e-3)
    error = (low(x) - layer(x)).double().square().sum()
    assert float(error) == pytest.approx(float(s[rank:].square().sum()), rel=1e-3)
    plain = factors(layer, rank, low_rank.spectrum(layer))
    assert error <= (plain(x) - layer(x)).double().square().sum()


@pytest.mark.parametrize("kind", ["conv", "linear, tall"])
def test_channels_between_the_factors_have_equal_energy(kind: str) -> None:
    layer = make(kind)
    _, columns = patches(layer)
    low = factors(layer, 3, low_rank.spectrum(layer, moments(layer, columns)))
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
    assert low_rank.least_rank(torch.tensor([6.0, 3.0, 1.0]).double(), share) == rank


def choices(seed: int, count: int = 3) -> dict[str, Choice]:
    random = np.random.default_rng(seed)
    found = {}
    for i in range(count):
        energies = np.sort(random.exponential(size=4) ** 3)[::-1]
        found[str(i)] = Choice(int(random.integers(30, 60)), int(random.integers(5, 15)), energies / energies.sum())
    return found


def price(some: dict[str, Choice], ranks: dict[str, int]) -> tuple[int, float]:
    cost = sum(c.each * ranks[path] if path in ranks else c.whole for path, c in some.items())
    return cost, sum(some[path].lost(rank) for path, rank in ranks.items())


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6])
@pytest.mark.parametrize("seed", range(20))
def test_allocation_meets_its_target_leaves_nothing_and_is_near_the_best(seed: int, share: float) -> None:
    some = choices(seed)
    whole = sum(choice.whole for choice in some.values())
    saving = int(share * whole)
    options = [[None, *range(1, choice.most + 1)] for choice in some.values()]
    every = [
        price(some, {path: rank for path, rank in zip(some, picked, strict=True) if rank})
        for picked in itertools.product(*options)
    ]
    within = [loss for cost, loss in every if whole - cost >= saving]
    if not within:
        with pytest.raises(ValueError, match="rank 1"):
            allocate(some, saving)
        return
    ranks = allocate(some, saving)
    cost, loss = price(some, ranks)
    assert whole - cost >= saving
    # the lower convex hull is off by one layer's step at most
    assert loss <= min(within) + max(choice.lost(1) for choice in some.values())
    for path, rank in ranks.items():
        raised = {**ranks, path: rank + 1} if rank < some[path].most else {p: r for p, r in ranks.items() if p != path}
        assert whole - price(some, raised)[0] < saving, path


def test_allocation_takes_what_is_free_and_then_the_layer_that_loses_least() -> None:
    flat, steep = np.full(8, 1 / 8), 0.5 ** np.arange(1, 9)
    some = {"flat": Choice(100, 10, flat), "steep": Choice(100, 10, steep / steep.sum())}
    assert allocate(some, 60) == {"flat": 8, "steep": 6}
    assert allocate(some, 90) == {"flat": 8, "steep": 3}
    assert allocate(some, 0) == {}


def test_no_rank_is_cheaper() -> None:
    some = {"a": Choice(10, 10, np.ones(1))}
    assert some["a"].most == 0
    with pytest.raises(ValueError, match="rank 1"):
        allocate(some, 1)

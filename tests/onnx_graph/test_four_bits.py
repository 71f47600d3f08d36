"""Weights on a grid of four bits: what rounding leaves of them, and that packing loses nothing."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from compress.onnx_graph.four_bits import pack_four_bits
from compress.quantization.four_bits import BLOCK, LEVELS, rounded, sizes
from tests.onnx_graph.graphs import graph, kinds, rewritten, run, value


def product(weight: np.ndarray) -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    outputs = [value("y", (2, 5, weight.shape[1]))]
    return graph(nodes, [value("x", (2, 5, weight.shape[0]))], outputs, {"w": weight})


def weights(rows: int = 24, columns: int = 96, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_each_block_has_fifteen_levels_and_less_error_than_at_full_reach(scale: float) -> None:
    weight = weights(scale=scale)
    result = rounded(weight)
    found = sizes(weight).reshape(-1, BLOCK)
    for before, after, size in zip(weight.reshape(-1, BLOCK), result.reshape(-1, BLOCK), found, strict=True):
        assert (size == size[0]).all() and after.abs().max() <= LEVELS * size[0] * 1.0001
        torch.testing.assert_close(after / size, (after / size).round(), rtol=0, atol=1e-4)
        full = before.abs().max() / LEVELS
        assert (after - before).square().sum() <= ((before / full).round() * full - before).square().sum() * 1.0001
    blocks = weight.reshape(-1, BLOCK)
    full = blocks.abs().amax(1, keepdim=True) / LEVELS
    at_full_reach = ((blocks / full).round() * full - blocks).square().sum()
    assert (result - weight).square().sum() < 0.97 * at_full_reach
    error = (result - weight).square().mean() / weight.square().mean()
    assert 18 < -10 * float(error.log10()) < 24


def test_zeros_stay_zero_and_what_is_on_the_grid_stays() -> None:
    weight = weights()
    weight[:4] = 0
    once = rounded(weight)
    assert not once[:4].any()
    torch.testing.assert_close(rounded(once), once)


@pytest.mark.parametrize("largest", range(1, LEVELS + 1))
def test_a_block_whose_outer_levels_are_not_in_use_is_on_the_grid(largest: int) -> None:
    levels = torch.randint(-largest, largest + 1, (16, 2 * BLOCK), generator=torch.Generator().manual_seed(largest))
    levels[:, ::BLOCK] = largest
    weight = 0.37 * levels.float()
    torch.testing.assert_close(rounded(weight), weight)
    before = product(weight.T.contiguous().numpy())
    after, count = rewritten(before, pack_four_bits)
    assert count == 1
    x = np.random.default_rng(0).normal(size=(2, 5, 2 * BLOCK)).astype(np.float32)
    np.testing.assert_allclose(run(after, False, x=x)[0], run(before, False, x=x)[0], rtol=1e-4, atol=1e-4)


def test_packed_products_are_equal_and_small() -> None:
    weight = rounded(weights(rows=64)).T.contiguous().numpy()
    before = product(weight)
    after, count = rewritten(before, pack_four_bits)
    assert count == 1 and kinds(after) == ["DequantizeLinear", "MatMul"]
    assert {tensor.data_type for tensor in after.graph.initializer} == {TensorProto.INT4, TensorProto.FLOAT}
    x = np.random.default_rng(0).normal(size=(2, 5, 96)).astype(np.float32)
    floats, bits = run(before, x=x)[0], run(after, optimize=False, x=x)[0]  # optimized, it rounds x to int8 as well
    np.testing.assert_allclose(bits, floats, rtol=1e-4, atol=1e-4)
    assert after.ByteSize() < before.ByteSize() * 5.2 / 32 + 500


@pytest.mark.parametrize(
    "weight",
    [
        weights().T.contiguous().numpy(),  # on no grid
        rounded(weights()).T.contiguous().numpy()[:80],  # no whole blocks
        np.zeros((32, 4), np.float32),
    ],
    ids=["any", "80 inputs", "zeros"],
)
def test_what_would_lose_or_gain_nothing_stays(weight: np.ndarray) -> None:
    before = product(weight)
    after, count = rewritten(before, pack_four_bits)
    assert count == 0 and kinds(after) == ["MatMul"] and after.opset_import[0].version == 20

"""Every value between nodes is rounded, by grids that NPUs take, and the graph computes what it did."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch

from compress.judge.quality import sqnr
from compress.model.denoiser import Denoiser, example_inputs
from compress.onnx_graph.export import as_exported, lean
from compress.onnx_graph.fully_quantized import part_swish, quantize_fully, ranges, scale_by_convolutions
from compress.onnx_graph.precompute import fold_rows
from compress.onnx_graph.simplify import tidy
from compress.pipeline.manifest import input_names
from compress.runtime.engines import OnnxRuntime
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG, inputs_for, make_denoiser
from tests.families.dit.models import transformer

NODE_BY_NODE = OnnxRuntime(optimized=False)
MODELS = {
    "class": lambda: make_denoiser(CLASS_CONFIG),
    "text": lambda: make_denoiser(TEXT_CONFIG),
    "dit": transformer,
}


def static(model: Denoiser, opset: int) -> ir.Model:
    names = input_names(model)
    with model.family.lean.within(model.net):
        graph = lean(as_exported(model.module, example_inputs(model, 1), names, 1, opset))
    graph = fold_rows(graph, "timestep", [0, 5, 500])
    scale_by_convolutions(graph)
    return graph


def feeds_for(model: Denoiser, count: int = 12) -> list[dict[str, np.ndarray]]:
    found = []
    for i in range(count):
        sample, _, given = inputs_for(model, 1, seed=i)
        feed = {"sample": sample.numpy(), "timestep": np.array([(0, 5, 500)[i % 3]])}
        found.append({**feed, **{name: value.numpy() for name, value in given.items()}})
    return found


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("name", MODELS)
def test_all_is_rounded_and_nothing_else_happens(name: str, bits: int, tmp_path: Path) -> None:
    model = MODELS[name]()
    graph, feeds = static(model, 21), feeds_for(model)
    before, after = tmp_path / "before.onnx", tmp_path / "after.onnx"
    ir.save(graph, before)
    assert quantize_fully(graph, ranges(graph, feeds), bits) > 20
    tidy(graph)
    ir.save(graph, after)
    for node in graph.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for place, value in enumerate(node.inputs):
            if node.op_type == "Resize" and place:
                continue
            made = None if value is None else value.producer()
            constant = value is not None and value.const_value is not None
            assert not constant or value.const_value.dtype != ir.DataType.FLOAT, (node, place)
            assert made is None or made.op_type in ("DequantizeLinear", "Gather", "Cast"), (node, place, made)
    wanted, got = (np.concatenate([NODE_BY_NODE.open(file).run(one)[0] for one in feeds]) for file in (before, after))
    assert sqnr(wanted, got) > {8: 18, 16: 38}[bits]  # weights of 8 bits set the limit of the second


def test_scales_and_shifts_are_the_same_as_convolutions(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    for norm in (one for one in model.net.modules() if isinstance(one, torch.nn.GroupNorm)):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    names = input_names(model)
    with model.family.lean.within(model.net):
        graph = lean(as_exported(model.module, example_inputs(model, 1), names, 1, 20))
    kinds = [node.op_type for node in graph.graph]
    ir.save(graph, tmp_path / "before.onnx")
    assert scale_by_convolutions(graph) == kinds.count("BatchNormalization") > 4
    assert "BatchNormalization" not in [node.op_type for node in graph.graph]
    ir.save(graph, tmp_path / "after.onnx")
    feed = feeds_for(model, 1)[0]
    wanted, got = (NODE_BY_NODE.open(tmp_path / f"{name}.onnx").run(feed)[0] for name in ("before", "after"))
    assert sqnr(wanted, got) > 100


def test_a_sigmoid_and_its_product_are_parted_and_nothing_changes(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    graph, feeds = static(model, 21), feeds_for(model, 3)
    count = [node.op_type for node in graph.graph].count("Sigmoid")
    ir.save(graph, tmp_path / "before.onnx")
    assert part_swish(graph) == count > 5
    assert not any(
        user.op_type == "Mul" for node in graph.graph if node.op_type == "Sigmoid" for user, _ in node.outputs[0].uses()
    )
    ir.save(graph, tmp_path / "after.onnx")
    for feed in feeds:
        one, other = (NODE_BY_NODE.open(tmp_path / f"{name}.onnx").run(feed)[0] for name in ("before", "after"))
        np.testing.assert_array_equal(one, other)
    met = ranges(graph, feeds)
    quantize_fully(graph, met, 16)
    scales = [
        float(value.uses()[0].node.inputs[1].const_value.numpy())
        for node in graph.graph
        if node.op_type in ("Sigmoid", "Relu")
        for value in node.outputs
    ]
    assert set(scales) == {1 / 65536}


def test_what_moves_keeps_its_grid_and_tables_of_npus_have_theirs() -> None:
    model = make_denoiser(CLASS_CONFIG)
    graph = static(model, 21)
    quantize_fully(graph, ranges(graph, feeds_for(model)), 16)
    sigmoids = splits = 0
    for node in graph.graph:
        if node.op_type not in ("Sigmoid", "Split"):
            continue
        rounded = next(use.node for use in node.outputs[0].uses() if use.node.op_type == "QuantizeLinear")
        scale, zero = (value.const_value.numpy() for value in rounded.inputs[1:])
        if node.op_type == "Sigmoid":
            assert (scale, zero) == (np.float32(1 / 65536), 0)
            sigmoids += 1
        else:
            source = node.inputs[0].producer()  # whose ends are wider than those of a part
            assert source is not None and source.op_type == "DequantizeLinear"
            assert (scale, zero) == tuple(value.const_value.numpy() for value in source.inputs[1:])
            splits += 1
    assert sigmoids > 4 and splits > 1


def test_biases_are_on_the_grid_of_their_products() -> None:
    model = make_denoiser(CLASS_CONFIG)
    graph = static(model, 21)
    quantize_fully(graph, ranges(graph, feeds_for(model)), 16)
    layers = [node for node in graph.graph if node.op_type in ("Conv", "Gemm") and len(node.inputs) == 3]
    assert len(layers) > 8
    for node in layers:
        x, weight, bias = (value.producer() for value in node.inputs)
        assert bias.inputs[0].const_value.dtype == ir.DataType.INT32
        product = x.inputs[1].const_value.numpy() * weight.inputs[1].const_value.numpy()
        np.testing.assert_allclose(bias.inputs[1].const_value.numpy(), product, rtol=1e-6)

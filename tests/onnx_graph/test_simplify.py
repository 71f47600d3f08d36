"""Our list of rules finds what onnxscript's own list finds."""

import io
from collections import Counter
from contextlib import redirect_stdout

import onnx_ir as ir
import pytest
import torch
from onnxscript.optimizer import optimize_ir

from compress.model.denoiser import example_inputs
from compress.model.open_sizes import left_open
from compress.onnx_graph.simplify import simplify
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG, make_denoiser


@pytest.mark.parametrize("config", [CLASS_CONFIG, TEXT_CONFIG], ids=["class", "text"])
def test_no_more_nodes_than_by_every_rule(config: dict) -> None:
    model = make_denoiser(config)
    inputs, shapes = left_open(model.module, example_inputs(model, 2), None, None)
    with redirect_stdout(io.StringIO()), torch.no_grad():
        program = torch.onnx.export(
            model.module, inputs, dynamic_shapes=shapes, dynamo=True, verbose=False, optimize=False
        )
    assert program is not None
    every = ir.from_proto(ir.to_proto(program.model))
    before = len(every.graph)
    optimize_ir(every)
    simplify(program.model)
    found, least = (Counter(node.op_type for node in graph) for graph in (program.model.graph, every.graph))
    assert not found - least
    assert len(every.graph) < before

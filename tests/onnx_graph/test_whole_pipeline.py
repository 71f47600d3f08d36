"""One graph from token ids to pixels computes what its parts do, one after the other."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from compress.onnx_graph.whole_pipeline import from_tokens_to_pixels
from compress.runtime.engines import ONNXRUNTIME
from compress.runtime.texts import IDS, MASK, conditions_of

TOKENS, WIDTHS, WORDS = 3, {"one": 4, "two": 2}, 7
RANDOM = np.random.default_rng(0)
TABLES = {name: RANDOM.standard_normal((WORDS, width), np.float32) for name, width in WIDTHS.items()}
PIXELS = RANDOM.standard_normal((2, 5), np.float32)
ENCODERS = {
    name: {"model": f"{name}.onnx", "tokens": TOKENS, "inputs": [IDS], "outputs": {"states": [TOKENS, width]}}
    for name, width in WIDTHS.items()
}
DECODER = {"model": "decoder.onnx", "scale": 0.5, "shift": 3.0}


def graph(inputs: dict[str, tuple[ir.DataType, list[Any]]], output: tuple[str, list[Any]], *nodes: Any) -> ir.Model:
    """nodes: functions of the tape and of what was computed so far, by name."""
    found = {name: ir.Value(name=name, type=ir.TensorType(t), shape=ir.Shape(s)) for name, (t, s) in inputs.items()}
    given, tape = list(found.values()), ir.tape.Tape()
    for node in nodes:
        last = node(tape, found)
    last.name, last.type, last.shape = output[0], ir.TensorType(ir.DataType.FLOAT), ir.Shape(output[1])
    made = ir.Graph(
        given, [last], nodes=tape.nodes, initializers=tape.initializers, opset_imports={"": 20}, name=output[0]
    )
    return ir.Model(made, ir_version=10)


def weight(tape: ir.tape.Tape, array: np.ndarray) -> ir.Value:
    return tape.initializer(ir.tensor(array), name="w")  # the same name in every part


def write_parts(folder: Path) -> None:
    for name, table in TABLES.items():
        given = {IDS: (ir.DataType.INT64, ["batch", TOKENS])}
        model = graph(
            given,
            ("states", ["batch", TOKENS, WIDTHS[name]]),
            lambda tape, found, table=table: tape.op("Gather", [weight(tape, table), found[IDS]]),
        )
        ir.save(model, folder / f"{name}.onnx")
    given = {"latent_sample": (ir.DataType.FLOAT, ["batch", 2])}
    decoder = graph(
        given,
        ("sample", ["batch", 5]),
        lambda tape, found: tape.op("MatMul", [found["latent_sample"], weight(tape, PIXELS)]),
    )
    ir.save(decoder, folder / DECODER["model"])


def sampler(batch: int | str, tokens: int, width: int) -> ir.Model:
    """noise + label × the sum of the states, twice."""
    given = {
        "noise": (ir.DataType.FLOAT, [batch, 2]),
        "states": (ir.DataType.FLOAT, [batch, tokens, width]),
        "sizes": (ir.DataType.FLOAT, [batch, 1]),
    }

    def total(tape: ir.tape.Tape, found: dict[str, ir.Value]) -> ir.Value:
        axes = weight(tape, np.array([1, 2]))
        summed = tape.op("ReduceSum", [found["states"], axes], {"keepdims": 0})
        scaled = tape.op(
            "Mul", [tape.op("Unsqueeze", [summed, tape.initializer(ir.tensor([1]), name="a")]), found["sizes"]]
        )
        return tape.op("Add", [found["noise"], scaled])

    return graph(given, ("image", [batch, 2]), total)


@pytest.mark.parametrize("batch", [2, "batch"])
@pytest.mark.parametrize(
    ("rows", "width"),
    [
        ([["one.states"]], 4),
        ([["one.states", "two.states"]], 6),
        ([["one.states", "two.states"], 2], 8),
        ([["two.states"], ["one.states"]], 4),
    ],
    ids=["alone", "side by side", "filled up, then zeros", "one after the other"],
)
def test_computes_what_the_parts_do(batch: int | str, rows: list[Any], width: int, tmp_path: Path) -> None:
    write_parts(tmp_path)
    text = {"encoders": ENCODERS, "made": {"states": rows}, "told": {}, "width": width}
    tokens = sum(row if isinstance(row, int) else TOKENS for row in rows)
    whole = from_tokens_to_pixels(sampler(batch, tokens, width), tmp_path, {"text": text, "decoder": DECODER})
    ir.save(whole, tmp_path / "whole.onnx")
    opened = ONNXRUNTIME.open(tmp_path / "whole.onnx")
    assert list(opened.inputs) == ["noise", "one.input_ids", "two.input_ids", "sizes"]
    ids = {name: RANDOM.integers(0, WORDS, (2, TOKENS)) for name in WIDTHS}
    found = {name: {"states": TABLES[name][ids[name]]} for name in WIDTHS}
    states = conditions_of(text, found, 2, (8, 8))["states"]
    noise, sizes = (RANDOM.standard_normal((2, n), np.float32) for n in (2, 1))
    given = {"noise": noise, "sizes": sizes, **{f"{name}.{IDS}": value for name, value in ids.items()}}
    latents = noise + states.sum(axis=(1, 2))[:, None] * sizes
    (got,) = opened.run(given)
    np.testing.assert_allclose(got, (latents / 0.5 + 3.0) @ PIXELS, rtol=1e-4, atol=1e-4)


def test_a_mask_that_is_read_is_an_input(tmp_path: Path) -> None:
    write_parts(tmp_path)
    text = {"encoders": {"one": ENCODERS["one"]}, "made": {"states": [["one.states"]], "sizes": [[f"one.{MASK}"]]}}
    model = sampler(2, TOKENS, 4)
    sizes = next(value for value in model.graph.inputs if value.name == "sizes")
    sizes.shape = ir.Shape([2, TOKENS])
    model.graph.outputs[0].shape = None
    text |= {"told": {}, "width": 4}
    whole = from_tokens_to_pixels(model, tmp_path, {"text": text})
    assert [value.name for value in whole.graph.inputs] == ["noise", f"one.{IDS}", f"one.{MASK}"]

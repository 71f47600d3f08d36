"""Products of bytes are exact on every processor, or the graph is refused."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from compress.errors import ExportError
from compress.onnx_graph.byte_products import LARGEST, check_products, drop_idle_clips, limits
from tests.onnx_graph.graphs import graph, kinds, rewritten, run, value

INT8, UINT8 = np.int8, np.uint8
TYPES = {INT8: TensorProto.INT8, UINT8: TensorProto.UINT8}


def floats(name: str, kind: type, source: str | None = None) -> onnx.NodeProto:
    return helper.make_node("DequantizeLinear", [source or name, "scale", f"zero_{kind.__name__}"], [f"{name}_floats"])


CONSTANTS = {"scale": np.float32(0.03), "zero_int8": INT8(0), "zero_uint8": UINT8(100)}


def layer(kind: str, weight: np.ndarray) -> onnx.ModelProto:
    """One layer between bytes, with this weight."""
    shape = (2, 4) if kind == "Gemm" else (1, 2, 4) if kind == "MatMul" else (1, 4, 5, 5)
    result = [f"y{i}" for i in range(len(shape))]
    nodes = [
        floats("a", UINT8),
        floats("w", weight.dtype.type),
        helper.make_node(kind, ["a_floats", "w_floats"], ["y"], name="mid.conv"),
    ]
    return graph(nodes, [value("a", shape, TensorProto.UINT8)], [value("y", result)], {**CONSTANTS, "w": weight})


def product(first: type, second: type, before: list[onnx.NodeProto], last: str) -> onnx.ModelProto:
    """a [2,3,4] × b [2,4,5]; `before` makes the bytes `last` from the input b."""
    nodes = [
        floats("a", first),
        *before,
        floats("b", second, last),
        helper.make_node("MatMul", ["a_floats", "b_floats"], ["y"], name="mid.attention"),
    ]
    given = TensorProto.FLOAT if before else TYPES[second]
    constants = {
        **CONSTANTS,
        "ends": INT8(-LARGEST),
        "other_end": INT8(LARGEST),
        "probability": np.float32(1 / 128),
        "lowest": INT8(-LARGEST),
        "twice": np.float32(0.06),
        "zero_half": INT8(-14),
        "axes": np.array([2, 5, 4]),
    }
    inputs = [value("a", (2, 3, 4), TYPES[first]), value("b", (2, 4, 5), given)]
    return graph(nodes, inputs, [value("y", (2, 3, 5))], constants)


ROUND = [helper.make_node("QuantizeLinear", ["b", "scale", "zero_int8"], ["bytes"])]
CLIPPED = [*ROUND, helper.make_node("Clip", ["bytes", "ends", "other_end"], ["clipped"])]
MOVED = [
    *CLIPPED,
    helper.make_node("Reshape", ["clipped", "axes"], ["shaped"]),
    helper.make_node("Transpose", ["shaped"], ["moved"], perm=[0, 2, 1]),
]
PROBABILITIES = [
    helper.make_node("Softmax", ["b"], ["soft"]),
    helper.make_node("QuantizeLinear", ["soft", "probability", "lowest"], ["bytes"]),
]
HALF_AS_MANY_LEVELS = [
    helper.make_node("QuantizeLinear", ["b", "scale", "zero_uint8"], ["whole"]),
    helper.make_node("DequantizeLinear", ["whole", "scale", "zero_uint8"], ["again"]),
    helper.make_node("QuantizeLinear", ["again", "twice", "zero_half"], ["bytes"]),
]
FULL = np.full((4, 4), 100, INT8)
GOOD = [
    layer("Gemm", np.full((4, 4), LARGEST, INT8)),
    layer("Conv", np.full((3, 4, 3, 3), -LARGEST, INT8)),
    layer("MatMul", np.full((4, 3), 255, UINT8)),
    product(UINT8, UINT8, [], "b"),
    product(UINT8, INT8, CLIPPED, "clipped"),
    product(UINT8, INT8, MOVED, "moved"),
    product(UINT8, INT8, PROBABILITIES, "bytes"),
    product(UINT8, INT8, HALF_AS_MANY_LEVELS, "bytes"),
]
BAD = [
    layer("Gemm", np.full((4, 4), LARGEST + 1, INT8)),
    layer("Conv", np.full((3, 4, 3, 3), -LARGEST - 1, INT8)),
    layer("MatMul", FULL),
    product(UINT8, INT8, [], "b"),
    product(INT8, INT8, [], "b"),
    product(INT8, UINT8, [], "b"),
    product(UINT8, INT8, ROUND, "bytes"),
    product(UINT8, INT8, [PROBABILITIES[0], helper.make_node("QuantizeLinear", ["soft", "scale", "zero_int8"], ["x"]),
                          helper.make_node("QuantizeLinear", ["b", "scale", "zero_int8"], ["bytes"])], "bytes"),
]  # fmt: skip


@pytest.mark.parametrize("model", GOOD)
def test_exact_products_pass(model: onnx.ModelProto) -> None:
    assert check_products(ir.from_proto(model)) == 1


@pytest.mark.parametrize("model", BAD)
def test_others_are_refused_by_name(model: onnx.ModelProto) -> None:
    with pytest.raises(ExportError, match=r"go.* beyond ±64.*: mid\.(conv|attention) \("):
        check_products(ir.from_proto(model))


def test_products_of_floats_are_none() -> None:
    nodes = [floats("w", INT8), helper.make_node("MatMul", ["a", "w_floats"], ["y"])]
    model = graph(nodes, [value("a", (2, 4))], [value("y", (2, 4))], {**CONSTANTS, "w": FULL})
    assert check_products(ir.from_proto(model)) == 0


@pytest.mark.parametrize("zero", range(0, 256, 5))
def test_every_second_level_keeps_to_the_limit(zero: int) -> None:
    """As keys are rounded: limits that are computed are those that every byte keeps, and not by much."""
    half = int(np.ceil((zero - 128) / 2))
    constants = {"s": np.float32(0.037), "z": UINT8(zero), "t": np.float32(0.074), "h": INT8(half)}
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "s", "z"], ["f"]),
        helper.make_node("QuantizeLinear", ["f", "t", "h"], ["y"]),
    ]
    model = graph(nodes, [value("x", (256,), TensorProto.UINT8)], [value("y", (256,), TensorProto.INT8)], constants)
    got = run(model, optimize=False, x=np.arange(256).astype(UINT8))[0].astype(int)
    low, high = limits(ir.from_proto(model).graph.outputs[0])
    assert -LARGEST <= low <= got.min() and got.max() <= high <= LARGEST
    assert got.min() - low <= 1 and high - got.max() <= 1  # of a half it is not known where it goes


def test_clips_that_change_nothing_go() -> None:
    nodes = [*PROBABILITIES, helper.make_node("Clip", ["bytes", "ends", "other_end"], ["clipped"])]
    after, count = rewritten(product(UINT8, INT8, nodes, "clipped"), drop_idle_clips)
    assert count == 1 and "Clip" not in kinds(after)
    after, count = rewritten(product(UINT8, INT8, CLIPPED, "clipped"), drop_idle_clips)
    assert count == 0 and kinds(after).count("Clip") == 1


PROGRAM = """
import sys
sys.path[:0] = sys.argv[1].split(":")
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
options.add_session_config_entry("session.qdqisint8allowed", "1")
for name in sys.argv[2:]:
    session = onnxruntime.InferenceSession(name, options, providers=["CPUExecutionProvider"])
    numpy.save(name + ".npy", session.run(None, dict(numpy.load(name + ".npz")))[0])
"""


@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="Debian's qemu-user is not installed")
def test_a_processor_without_vnni_agrees(tmp_path: Path) -> None:
    """Emulated: what passes the check comes out as computed exactly, and what does not pass comes out wrong."""
    random = np.random.default_rng(0)
    a = random.integers(200, 256, (2, 3, 4)).astype(UINT8)
    bytes_b = random.integers(100, 128, (2, 4, 5)).astype(INT8)
    floats_b = (10 * random.standard_normal((2, 4, 5))).astype(np.float32)
    cases = {
        "good": (product(UINT8, INT8, CLIPPED, "clipped"), {"a": a, "b": floats_b}),
        "half": (product(UINT8, INT8, HALF_AS_MANY_LEVELS, "bytes"), {"a": a, "b": floats_b}),
        "bad": (product(UINT8, INT8, [], "b"), {"a": a, "b": bytes_b}),
    }
    for name, (model, feeds) in cases.items():
        onnx.save(model, tmp_path / name)
        np.savez(tmp_path / f"{name}.npz", **feeds)
    python = str(Path(sys.executable).resolve())
    files = [str(tmp_path / name) for name in cases]
    command = ["qemu-x86_64", "-cpu", "Haswell", python, "-c", PROGRAM, ":".join(sys.path[1:]), *files]
    subprocess.run(command, check=True, capture_output=True)
    wrong = {}
    for name, (model, feeds) in cases.items():
        got = np.load(tmp_path / f"{name}.npy")
        wrong[name] = float(np.abs(got - run(model, optimize=False, **feeds)[0]).max() / np.abs(got).max())
    assert wrong["good"] < 1e-5 and wrong["half"] < 1e-5
    assert wrong["bad"] > 0.1, "the emulated processor has the fault that this test is about"

"""`clean` takes notes away and nothing else."""

import copy

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from compress.onnx_graph.clean import clean


def run(model: onnx.ModelProto, **feeds: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 4, 3, padding=1)
        self.norm = torch.nn.GroupNorm(2, 4)
        self.out = torch.nn.Linear(4, 3)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        hidden = torch.nn.functional.silu(self.norm(self.conv(sample)) + timestep.float()[:, None, None, None] / 7)
        return self.out(hidden.mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def exported() -> onnx.ModelProto:
    torch.manual_seed(0)
    inputs = torch.zeros(2, 2, 4, 4), torch.zeros(2, dtype=torch.int64)
    names = ["sample", "timestep"]
    program = torch.onnx.export(
        Net().eval(),
        inputs,
        input_names=names,
        output_names=["out_sample"],
        opset_version=20,
        dynamo=True,
        verbose=False,
    )
    return program.model_proto


def cleaned(model: onnx.ModelProto) -> onnx.ModelProto:
    parsed = ir.from_proto(copy.deepcopy(model))
    clean(parsed)
    return ir.to_proto(parsed)


def feeds(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    sample = random.standard_normal((2, 2, 4, 4)).astype(np.float32)
    return {"sample": sample, "timestep": random.integers(1000, size=2)}


def test_output_stays_equal_to_the_last_bit(exported):
    lean = cleaned(exported)
    for seed in range(3):
        before, after = run(exported, **feeds(seed))[0], run(lean, **feeds(seed))[0]
        assert np.abs(before).max() > 0.01 and np.array_equal(before, after)


def test_file_shrinks_to_less_than_half(exported):
    assert len(cleaned(exported).SerializeToString()) < 0.5 * len(exported.SerializeToString())


def test_graph_stays_valid_and_keeps_its_interface(exported):
    lean = cleaned(exported)
    onnx.checker.check_model(lean, full_check=True)
    assert [value.name for value in lean.graph.input] == ["sample", "timestep"]
    assert [value.name for value in lean.graph.output] == ["out_sample"]
    assert list(lean.graph.input) == [plain(value) for value in exported.graph.input]
    assert lean.opset_import == exported.opset_import


def plain(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    value = copy.deepcopy(value)
    del value.metadata_props[:]
    value.ClearField("doc_string")
    return value


def test_weights_and_operations_are_untouched(exported):
    lean = cleaned(exported)
    assert [node.op_type for node in lean.graph.node] == [node.op_type for node in exported.graph.node]
    for before, after in zip(exported.graph.initializer, lean.graph.initializer, strict=True):
        assert np.array_equal(numpy_helper.to_array(before), numpy_helper.to_array(after))


def test_no_note_is_left(exported):
    model = copy.deepcopy(exported)
    model.graph.node[0].doc_string = "SECRET-NOTE"
    model.graph.input[0].doc_string = "SECRET-NOTE"
    helper.set_model_props(model, {"where": "SECRET-NOTE"})
    content = cleaned(model).SerializeToString()
    assert b"SECRET-NOTE" not in content
    assert b".py" not in content  # of stack traces


def test_cleaning_twice_changes_nothing_more(exported):
    once = cleaned(exported)
    assert cleaned(once).SerializeToString() == once.SerializeToString()


def value(name: str, shape: list[int], kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model_of(nodes, inputs, outputs, initializers=()) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_left_out_optional_inputs_stay_left_out():
    node = helper.make_node("Clip", ["x", "", "a_long_name_of_the_upper_bound"], ["y"])
    bound = numpy_helper.from_array(np.float32(0.5), "a_long_name_of_the_upper_bound")
    model = model_of([node], [value("x", [3])], [value("y", [3])], [bound])
    x = np.array([-9, 0, 9], np.float32)
    assert run(cleaned(model), x=x)[0].tolist() == [-9, 0, 0.5]


def test_initializer_that_is_an_output_keeps_its_name():
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    weight = numpy_helper.from_array(np.float32([7]), "w")
    model = cleaned(model_of(nodes, [value("x", [1])], [value("y", [1]), value("w", [1])], [weight]))
    assert [found.tolist() for found in run(model, x=np.float32([2]))] == [[2], [7]]


@pytest.mark.parametrize("name", ["v0", "v1", "v2"])
def test_short_names_do_not_collide_with_an_input(name):
    nodes = [
        helper.make_node("Add", [name, "first_weight"], ["between"]),
        helper.make_node("Mul", ["between", "second_weight"], ["product"]),
        helper.make_node("Sub", ["product", name], ["y"]),
    ]
    weights = [numpy_helper.from_array(np.float32([w]), n) for w, n in ((3, "first_weight"), (5, "second_weight"))]
    model = cleaned(model_of(nodes, [value(name, [1])], [value("y", [1])], weights))
    assert run(model, **{name: np.float32([2])})[0].tolist() == [(2 + 3) * 5 - 2]


def test_branches_still_find_the_values_around_them():
    def branch(operation: str) -> onnx.GraphProto:
        node = helper.make_node(operation, ["doubled_outside", "weight_outside"], ["inside"])
        return helper.make_graph([node], operation, [], [value("inside", [1])])

    nodes = [
        helper.make_node("Add", ["x", "x"], ["doubled_outside"]),
        helper.make_node("If", ["which"], ["y"], then_branch=branch("Mul"), else_branch=branch("Sub")),
    ]
    inputs = [value("x", [1]), value("which", [], TensorProto.BOOL)]
    model = model_of(nodes, inputs, [value("y", [1])], [numpy_helper.from_array(np.float32([5]), "weight_outside")])
    assert run(model, x=np.float32([2]), which=np.array(True))[0].tolist() == [20]
    lean = cleaned(model)
    assert run(lean, x=np.float32([2]), which=np.array(True))[0].tolist() == [20]
    assert run(lean, x=np.float32([2]), which=np.array(False))[0].tolist() == [-1]

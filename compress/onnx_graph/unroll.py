"""The whole sampler as one graph: every evaluation with the solver's arithmetic between, weights stored once."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compress.onnx_graph.known import fold_known, fold_rows
from compress.runtime.sampling import Step

NOISE, IMAGE = "noise", "image"


class _Builder:
    """A graph that grows node by node, with names of its own."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def constant(self, array: np.ndarray) -> str:
        name = f"given{len(self.constants)}"
        self.constants[name] = array
        return name

    def add(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        output = f"sampler{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def linear(self, terms: Sequence[tuple[float, str]]) -> str:
        """The sum of factor × tensor; terms of factor 0 are left out."""
        total = None
        for factor, name in terms:
            if factor == 0:
                continue
            scaled = name if factor == 1 else self.add("Mul", [name, self.constant(np.array(factor, dtype=np.float32))])
            total = scaled if total is None else self.add("Add", [total, scaled])
        assert total is not None
        return total


def unroll(
    denoiser: onnx.ModelProto,
    steps: Sequence[Step],
    clip_range: float | None,
    scale: float | None,
    null: Mapping[str, np.ndarray],
    steps_input: bool,
    classes: int | None,
) -> onnx.ModelProto:
    """(noise, conditions) -> image, in one graph.

    denoiser: (sample, timestep, conditions, scalars) -> out_sample. scale: of classifier-free guidance, which takes a
    second evaluation with the `null` conditions; None: one evaluation is guided. steps_input: whether it is told the
    number of steps. classes: labels there are. Where the batch size is fixed, what follows from the timestep becomes a
    constant; where it is 1, what follows from timestep and label becomes a table.
    """
    graph = denoiser.graph
    inputs = {value.name: value for value in graph.input}
    first = inputs["sample"].type.tensor_type.shape.dim[0]
    batch = first.dim_value if first.HasField("dim_value") else None
    time = helper.tensor_dtype_to_np_dtype(inputs["timestep"].type.tensor_type.elem_type).type
    builder = _Builder()
    conditions = [name for name in inputs if name not in ("sample", "timestep", "steps")]
    size = None
    if batch is None:
        size = builder.add("Shape", [NOISE], start=0, end=1)

    def filled(value: np.ndarray) -> str:
        """A constant for every item of the batch."""
        if batch is not None:
            return builder.constant(np.broadcast_to(value, (batch, *value.shape)).copy())
        assert size is not None
        shape = size
        if value.ndim:
            shape = builder.add("Concat", [size, builder.constant(np.array(value.shape, dtype=np.int64))], axis=0)
        return builder.add("Expand", [builder.constant(value[None]), shape])

    def evaluate(sample: str, step: Step, given: Mapping[str, str], known: dict[str, str]) -> str:
        for name, value in (("timestep", time(step.timestep)), ("steps", np.float32(len(steps)))):
            if name not in known and (name != "steps" or steps_input):
                known[name] = filled(np.asarray(value))
        renamed = {"sample": sample, **known, **given}
        return _copy(builder, graph, renamed)

    nulls = {name: filled(np.asarray(value)) for name, value in null.items()} if scale is not None else {}
    plain = {name: name for name in conditions}
    sample, kept = NOISE, list[str]()
    for step in steps:
        known: dict[str, str] = {}
        output = evaluate(sample, step, plain, known)
        if scale is not None:
            without = evaluate(sample, step, {**plain, **nulls}, known)
            output = builder.linear([(scale, output), (1 - scale, without)])
        if clip_range is None and not any(other.next_from_previous or other.next_from_earlier for other in steps):
            whole = step.next_from_sample + step.next_from_clean * step.clean_from_sample
            sample = builder.linear([(whole, sample), (step.next_from_clean * step.clean_from_output, output)])
            continue
        clean = builder.linear([(step.clean_from_sample, sample), (step.clean_from_output, output)])
        if clip_range is not None:
            ends = [builder.constant(np.array(end, dtype=np.float32)) for end in (-clip_range, clip_range)]
            clean = builder.add("Clip", [clean, *ends])
        kept = [clean, *kept[:2]]  # the last first
        factors = (step.next_from_clean, step.next_from_previous, step.next_from_earlier)
        sample = builder.linear([(step.next_from_sample, sample), *zip(factors, kept, strict=False)])
    builder.nodes.append(helper.make_node("Identity", [sample], [IMAGE]))
    sampler = _model(denoiser, builder, conditions)
    if batch is not None:
        fold_known(sampler, set(builder.constants))
        if classes is not None and batch == 1 and "class_labels" in conditions:
            fold_rows(sampler, "class_labels", range(classes))
    return sampler


def _copy(builder: _Builder, graph: onnx.GraphProto, renamed: Mapping[str, str]) -> str:
    """Another evaluation: all nodes with values of their own, on the same weights."""
    weights = {tensor.name for tensor in graph.initializer}
    prefix = f"e{len(builder.nodes)}."
    names = {"": "", **renamed, **{weight: weight for weight in weights}}
    for node in graph.node:
        for output in node.output:
            names.setdefault(output, prefix + output)
        copied = onnx.NodeProto()
        copied.CopyFrom(node)
        copied.name = prefix + node.name
        copied.input[:] = [names[name] for name in node.input]
        copied.output[:] = [names[name] for name in node.output]
        builder.nodes.append(copied)
    return names["out_sample"]


def _model(denoiser: onnx.ModelProto, builder: _Builder, conditions: Sequence[str]) -> onnx.ModelProto:
    values = {value.name: value for value in denoiser.graph.input}

    def renamed(value: onnx.ValueInfoProto, name: str) -> onnx.ValueInfoProto:
        other = onnx.ValueInfoProto()
        other.CopyFrom(value)
        other.name = name
        return other

    initializers = list(denoiser.graph.initializer)
    initializers += [numpy_helper.from_array(np.asarray(array), name) for name, array in builder.constants.items()]
    graph = helper.make_graph(
        builder.nodes,
        "sampler",
        [renamed(values["sample"], NOISE), *(values[name] for name in conditions)],
        [renamed(values["sample"], IMAGE)],
        initializers,
    )
    assert graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    model = helper.make_model(graph, opset_imports=list(denoiser.opset_import), ir_version=denoiser.ir_version)
    model.functions.extend(denoiser.functions)
    return model

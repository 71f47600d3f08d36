"""What compilers for NPUs refuse, by their own documentation: a reason for each node.

Qualcomm: the operators of onnxruntime's QNN provider. Rockchip: RKNN-Toolkit2, which takes operator sets to 19 and
tensors of four axes. Intel: OpenVINO's plugin, which takes fixed sizes alone. The compilers themselves, where they are
installed, have the last word.
"""

from collections.abc import Callable, Iterator

import onnx_ir as ir

Rule = Callable[[ir.Node], str | None]  # why a node is refused; None: it is not
# fmt: off
QUALCOMM = {
    "Abs", "Add", "And", "ArgMax", "ArgMin", "Asin", "Atan", "AveragePool", "BatchNormalization", "Cast", "Ceil",
    "Clip", "Concat", "Conv", "ConvTranspose", "Cos", "CumSum", "DepthToSpace", "DequantizeLinear", "Div", "Einsum",
    "Elu", "Equal", "Exp", "Expand", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm",
    "GlobalAveragePool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "GridSample", "GroupNormalization",
    "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization", "Inverse", "IsNaN", "LRN", "LSTM",
    "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "LpNormalization", "MatMul", "Max",
    "MaxPool", "Mean", "Min", "Mod", "Mul", "Neg", "NonZero", "Not", "Or", "PRelu", "Pad", "Pow", "QuantizeLinear",
    "Reciprocal", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Relu",
    "RMSNormalization", "Reshape", "Resize", "RoiAlign", "Round", "ScatterElements", "ScatterND", "Sigmoid", "Sign",
    "Sin", "Slice", "Softmax", "Softplus", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tan", "Tanh",
    "ThresholdedRelu", "Tile", "TopK", "Transpose", "Unsqueeze", "Upsample", "Where",
}
# fmt: on
BRANCHES = {"If", "Loop", "Scan"}
WIDE = {ir.DataType.UINT16, ir.DataType.INT16}


def refusals(model: ir.Model, compiler: str) -> list[str]:
    """A sentence for each node that a compiler refuses, and for the graph. model: with inferred shapes."""
    opset = model.opset_imports.get("", 0)
    most = OPSETS.get(compiler)
    found = [] if most is None or opset <= most else [f"operator set {opset}: {compiler} takes {most} at most"]
    for node in model.graph.all_nodes():
        reasons = (why for rule in RULES[compiler] if (why := rule(node)))
        if (why := next(reasons, None)) is not None:
            found.append(f"{node.name or node.outputs[0].name} ({node.op_type}): {why}")
    return found


def _branches(node: ir.Node) -> str | None:
    return "a graph that branches" if node.op_type in BRANCHES else None


def _sizes(node: ir.Node) -> str | None:
    open_ = (value.name for value in _tensors(node) if value.shape is not None and not value.shape.is_static())
    return next((f"the sizes of {name} are open" for name in open_), None)


def _foreign(node: ir.Node) -> str | None:
    return None if node.domain in ("", "ai.onnx") else f"is of the domain {node.domain}"


def _qualcomm_lacks(node: ir.Node) -> str | None:
    return None if node.op_type in QUALCOMM else "it has no such operator"


def _more_axes_than(most: int) -> Rule:
    def rule(node: ir.Node) -> str | None:
        deep = (value.name for value in _tensors(node) if value.shape is not None and value.shape.rank() > most)
        return next((f"{name} has more than {most} axes" for name in deep), None)

    return rule


def _wide(node: ir.Node) -> str | None:
    return "16 bits" if any(value.dtype in WIDE for value in _tensors(node)) else None


def _tensors(node: ir.Node) -> Iterator[ir.Value]:
    yield from (value for value in (*node.inputs, *node.outputs) if value is not None)


RULES: dict[str, tuple[Rule, ...]] = {
    "qualcomm": (_branches, _foreign, _qualcomm_lacks, _sizes, _more_axes_than(5)),
    "rockchip": (_branches, _foreign, _sizes, _wide, _more_axes_than(4)),
    "intel": (_branches, _foreign, _sizes),
}
OPSETS = {"rockchip": 19}

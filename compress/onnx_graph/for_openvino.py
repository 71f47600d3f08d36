"""Attention between bytes in the form that OpenVINO computes in bytes.

Files are written for onnxruntime, whose fastest product is of a uint8 and an int8 factor: values stand before
probabilities, keys and probabilities have half as many levels, bytes are transposed. OpenVINO computes such attention
in float. It wants probabilities before values, no zero point in a second factor, and factors transposed as floats, as
its product of bytes takes them.
"""

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

from compress.onnx_graph.byte_products import LARGEST, MOVES
from compress.onnx_graph.simplify import collapse

FEWEST = 0.75  # of its levels that a factor may keep where its zero point goes
MIDDLE = 127


def for_openvino(model: ir.Model) -> int:
    """Change `model`, a lean graph; returns how many products it found in onnxruntime's form.

    Values are rounded to other levels than before, as many or more.
    """
    products = [node for node in model.graph if node.op_type == "MatMul" and _probabilities_first(model.graph, node)]
    for node in list(model.graph):
        if node.op_type == "DequantizeLinear":
            _on_the_finer_grid(node)
    for node in model.graph:
        if node.op_type == "QuantizeLinear":
            _around_zero(node)
    for node in list(model.graph):
        if node.op_type == "MatMul":
            _transposes(model.graph, node)
    collapse(model)
    return len(products)


def _probabilities_first(graph: ir.Graph, product: ir.Node) -> bool:
    """V Pᵀ, with P the rounded probabilities, becomes (P Vᵀ)ᵀ, and P uint8."""
    values, factor = product.inputs
    path = list(_back(factor, {"DequantizeLinear", "Transpose", "Clip", "QuantizeLinear"}))
    kinds = [node.op_type for node in path]
    swaps = [node for node in path if node.op_type == "Transpose"]
    before = path[-1].inputs[0].producer() if path else None
    if before is None or before.op_type != "Softmax" or len(swaps) != 1 or kinds.count("QuantizeLinear") != 1:
        return False
    swap = list(swaps[0].attributes.get_ints("perm"))
    rounded = path[kinds.index("QuantizeLinear")]
    _, scale, zero = rounded.inputs
    rank = len(swap)
    if swap != [*range(rank - 2), rank - 1, rank - 2] or zero.const_value is None:
        return False
    new = tape.Tape()
    zero = new.op("Constant", [], {"value": ir.tensor(np.uint8(zero.const_value.numpy().astype(np.int32) + LARGEST))})
    bytes_ = new.op("QuantizeLinear", [before.outputs[0], scale, zero])
    probabilities = new.op("DequantizeLinear", [bytes_, scale, zero])
    turned = new.op("Transpose", [values], {"perm": swap})
    out = new.op("Transpose", [new.op("MatMul", [probabilities, turned])], {"perm": swap})
    ir.convenience.replace_nodes_and_values(graph, product, [product], new.nodes, product.outputs, [out])
    return True


def _on_the_finer_grid(node: ir.Node) -> None:
    """Bytes that were rounded a second time, to int8, are read as they were before that."""
    path = list(_back(node.inputs[0], {"Clip", "QuantizeLinear"}))
    before = path[-1].inputs[0].producer() if path and path[-1].op_type == "QuantizeLinear" else None
    if before is not None and before.op_type == "DequantizeLinear" and _numbers(before) is not None:
        for place, value in enumerate(before.inputs):
            node.replace_input_with(place, value)


def _around_zero(node: ir.Node) -> None:
    """A factor that stands second in a product is rounded to int8 around zero, not to uint8 around another number."""
    numbers, readers = _numbers(node), list(_readers(node.outputs[0]))
    if numbers is None or any(reader.op_type != "DequantizeLinear" for reader in readers):
        return
    scale, zero = numbers
    largest = max(int(zero), 255 - int(zero))
    if zero.dtype != np.uint8 or largest * FEWEST > MIDDLE or not any(_is_second_factor(one) for one in readers):
        return
    size = ir.Value(name=f"{node.outputs[0].name}.scale", const_value=ir.tensor(np.float32(scale * largest / MIDDLE)))
    middle = ir.Value(name=f"{node.outputs[0].name}.zero", const_value=ir.tensor(np.int8(0)))
    assert node.graph is not None
    for value in (size, middle):
        node.graph.register_initializer(value)
    for one in (node, *readers):
        one.replace_input_with(1, size)
        one.replace_input_with(2, middle)


def _transposes(graph: ir.Graph, product: ir.Node) -> None:
    """A factor is transposed behind its DequantizeLinear, not before."""
    for place, value in enumerate(product.inputs):
        floats = value.producer() if value is not None else None
        if floats is None or floats.op_type != "DequantizeLinear" or _numbers(floats) is None:
            continue
        swap = floats.inputs[0].producer()
        if swap is None or swap.op_type != "Transpose":
            continue
        new = tape.Tape()
        before = new.op("DequantizeLinear", [swap.inputs[0], *floats.inputs[1:]])
        turned = new.op("Transpose", [before], {"perm": swap.attributes.get_ints("perm")})
        graph.insert_before(product, new.nodes)
        product.replace_input_with(place, turned)


def _back(value: ir.Value | None, kinds: set[str]) -> Iterator[ir.Node]:
    """Nodes of these kinds from a value towards the graph's inputs, along first inputs."""
    while value is not None and (node := value.producer()) is not None and node.op_type in kinds:
        yield node
        value = node.inputs[0]


def _readers(value: ir.Value) -> Iterator[ir.Node]:
    """Nodes that compute with a value, moved or not."""
    for use in value.uses():
        if use.node.op_type in MOVES and use.idx == 0:
            for output in use.node.outputs:
                yield from _readers(output)
        else:
            yield use.node


def _is_second_factor(node: ir.Node) -> bool:
    after = [use for output in node.outputs for use in output.uses()]
    return any(
        (use.node.op_type == "MatMul" and use.idx == 1)
        or (use.node.op_type == "Transpose" and _is_second_factor(use.node))
        for use in after
    )


def _numbers(node: ir.Node) -> tuple[np.ndarray, np.ndarray] | None:
    """(scale, zero point) of a node, if they are one constant number each."""
    tensors = [value.const_value for value in node.inputs[1:3] if value is not None]
    if len(tensors) < 2 or any(tensor is None or tensor.size != 1 for tensor in tensors):
        return None
    scale, zero = (tensor.numpy().reshape(()) for tensor in tensors)
    return scale, zero

"""Half precision: a graph whose values are float16, but for layers where they would not fit.

float16 ends at 65,504; what is beyond is infinity there, and a picture that meets it black. `beyond` finds the layers
that meet such values, `halved` computes all others in float16. What comes of a timestep or of another number stays
float32 up to the first weights, as diffusers computes it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from compress.quantization.quantizer import matches, module_path

LARGEST = torch.finfo(torch.float16).max
ROOM = 2.0  # how much larger values may be than those that were met
BATCH = 20  # items at once, of at most 63


@torch.no_grad()
def beyond(
    graph: fx.GraphModule, points: Sequence[torch.Tensor], advance: Callable[[int], object] = lambda _: None
) -> dict[str, float]:
    """Path of each layer that meets a value at which float16 ends, or half of it → the largest of them.

    graph: of float32, from torch.export. points: its inputs, each [n,…]. advance: is told how many of them are done.
    """
    halves = [node for node, half in _halves(graph, ()).items() if half]
    watched = _Watched(graph)
    for part in zip(*(value.split(BATCH) for value in points), strict=True):
        watched.run(*part)
        advance(len(part[0]))
    found: dict[str, float] = {}
    for node in (one for one in halves if one.op == "call_function"):
        largest = max(watched.largest.get(one, 0.0) for one in (node, *node.all_input_nodes))
        if not largest * ROOM <= LARGEST:
            path = module_path(node)
            found[path] = max(found.get(path, 0.0), largest)
    return found


def stay_float(found: Mapping[str, float]) -> str:
    """What to say of layers that were found to be beyond."""
    most = f"float16 ends at {LARGEST:,.0f} and they met values of up to {max(found.values()):,.0f}"
    return f"stay float, as {most}: {', '.join(found)}"


def halved(graph: fx.GraphModule, float_layers: tuple[str, ...]) -> fx.GraphModule:
    """The graph in float16, but for layers whose paths match a glob; it takes and gives float32. Changes `graph`."""
    halves, casts = _halves(graph, float_layers), dict[tuple[fx.Node, torch.dtype], fx.Node]()

    def converted(value: fx.Node, dtype: torch.dtype) -> fx.Node:
        half = halves.get(value)
        if half is None or (half and value.op == "call_function") == (dtype is torch.float16):
            return value
        if (value, dtype) not in casts:
            with graph.graph.inserting_after(value):
                casts[value, dtype] = graph.graph.call_function(torch.ops.aten.to.dtype, (value, dtype))
        return casts[value, dtype]

    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.graph.erase_node(node)  # that it is float32
        elif node.op == "output" or (node.op == "call_function" and _is_floating(node)):
            dtype = torch.float16 if halves.get(node) else torch.float32
            for operand in node.all_input_nodes:
                node.replace_input_with(operand, converted(operand, dtype))
    for (value, _), node in casts.items():
        if value.op == "get_attr":
            _store_half(graph, value, node)
    graph.recompile()
    return graph


class _Watched(fx.Interpreter):
    """Runs a graph and notes the largest value of every node, of attention also that of its scores."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph)
        self.largest: dict[fx.Node, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        values = [one for one in tree_leaves(result) if isinstance(one, torch.Tensor)]
        if n.target is torch.ops.aten.scaled_dot_product_attention.default:
            queries, keys, *_ = self.fetch_args_kwargs_from_env(n)[0]
            scale = cast(Any, n.kwargs.get("scale")) or queries.shape[-1] ** -0.5
            values.append(scale * queries @ keys.transpose(-1, -2))
        for value in values:
            if value.is_floating_point() and value.numel():
                self.largest[n] = max(self.largest.get(n, 0.0), float(value.abs().amax()))
        return result


def _halves(graph: fx.GraphModule, float_layers: tuple[str, ...]) -> dict[fx.Node, bool]:
    """Node of floats → whether it is computed in float16: where it follows on weights, on samples or on their like."""
    found: dict[fx.Node, bool] = {}
    for node in graph.graph.nodes:
        if node.op == "placeholder" and _is_floating(node):
            found[node] = node.meta["val"].ndim > 1
        elif node.op == "get_attr":
            value = _attribute(graph, node)
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                found[node] = isinstance(value, torch.nn.Parameter)
        elif node.op == "call_function" and _is_floating(node):
            asks = torch.float32 in tree_leaves((node.args, dict(node.kwargs)))
            float_ = asks or matches(module_path(node), float_layers)
            found[node] = not float_ and any(found.get(one, False) for one in node.all_input_nodes)
    return found


def _is_floating(node: fx.Node) -> bool:
    values = [one for one in tree_leaves(node.meta.get("val")) if isinstance(one, torch.Tensor)]
    return any(value.is_floating_point() for value in values)


def _attribute(graph: fx.GraphModule, node: fx.Node) -> Any:
    owner, _, name = str(node.target).rpartition(".")
    return getattr(graph.get_submodule(owner), name)


def _store_half(graph: fx.GraphModule, value: fx.Node, converted: fx.Node) -> None:
    """Keep weights as they are computed with, in place of a conversion at every call."""
    name = f"half_{str(value.target).replace('.', '_')}"
    weights = _attribute(graph, value).detach().half()
    graph.register_parameter(name, torch.nn.Parameter(weights, requires_grad=False))
    with graph.graph.inserting_before(value):
        stored = graph.graph.get_attr(name)
    stored.meta = {**value.meta, "val": weights}
    converted.replace_all_uses_with(stored)
    graph.graph.erase_node(converted)
    if not value.users:
        target = str(value.target)
        graph.graph.erase_node(value)
        if not any(node.op == "get_attr" and node.target == target for node in graph.graph.nodes):
            owner, _, own = target.rpartition(".")
            delattr(graph.get_submodule(owner), own)

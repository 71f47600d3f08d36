"""What of a net is rounded, and to how many levels: annotations of its graph for torchao's PT2E."""

import re
from fnmatch import fnmatch
from typing import Any

import torch
from torchao.quantization.pt2e import HistogramObserver, MinMaxObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantizer import (
    DerivedQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
)

from compress.families.family import Layers, Lean
from compress.model.denoiser import Denoiser
from compress.runtime.schemes import Scheme

# Largest second factor of a product of bytes, a weight or an activation: `onnx_graph.byte_products` says why. The
# eighth bit of weights costs 0.3 dB and was worth up to 8 on processors that cannot add such products.
SECOND = 64
LINEAR = torch.ops.aten.linear.default
LAYERS = (torch.ops.aten.conv1d.default, torch.ops.aten.conv2d.default, LINEAR)
TABLE = torch.ops.aten.embedding.default
PROBABILITIES, KEYS = ".probabilities", ".keys"  # of lean attention: second factors of its products


def largest_weight(scheme: Scheme) -> int:
    """How many levels of weights a scheme has on either side of zero."""
    if scheme.activation_bits is not None:
        return SECOND
    assert scheme.weight_bits is not None, "half precision has no levels"
    return int(2 ** (scheme.weight_bits - 1)) - 1


class BytesQuantizer(Quantizer):
    """Annotates convolutions and linear layers as their int8 kernels in onnxruntime want them.

    Inputs and outputs uint8 per tensor, weights int8 per output channel and symmetric; outputs of linear layers stay
    float, but for those that attention multiplies in bytes, and of `small_inputs` all but the weights. Keys and
    probabilities of lean attention are int8 in ±64, because products of bytes are fastest between uint8 and int8; keys
    have half as many levels as the queries and values beside them. Layers whose path in the net matches a pattern of
    `float_layers` stay float, and all activations of a scheme of weights alone. histogram: of activations; else their
    ends alone are noted.
    """

    def __init__(
        self, scheme: Scheme, layers: Layers, lean: Lean, float_layers: tuple[str, ...], histogram: bool
    ) -> None:
        super().__init__()
        self.layers, self.lean, self.float_layers = layers, lean, float_layers
        observer = HistogramObserver if histogram else MinMaxObserver
        self.activation = self.probabilities = None
        if scheme.activation_bits is not None:
            self.activation = QuantizationSpec(torch.uint8, observer, 0, 255, torch.per_tensor_affine)
            self.probabilities = QuantizationSpec(torch.int8, observer, -SECOND, SECOND, torch.per_tensor_affine)
        self.weight, self.table = (
            QuantizationSpec(
                torch.int8, PerChannelMinMaxObserver, -largest, largest, torch.per_channel_symmetric, ch_axis=0
            )
            for largest in (largest_weight(scheme), 127)  # rows of a table are multiplied by nothing
        )

    def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        """Mark every convolution and linear layer that is to be quantized, and the attention between them."""
        multiplied = {_layer_before(node.args[1]) for node in model.graph.nodes if _is_scores(node)}
        for node in model.graph.nodes:
            path = module_path(node) + (KEYS if _is_scores(node) else "")
            owner, _, part = path.rpartition(".")
            names = [path, *(f"{owner}.{name}" for name in self.lean.parts.get(part, ()))]
            if any(matches(name, self.float_layers) for name in names):
                continue
            inputs: dict[Any, Any] = {}
            output = None
            if node.target in LAYERS:
                inputs[node.args[1]] = self.weight
                if self.activation is not None and not matches(path, self.layers.small_inputs):
                    inputs[node.args[0]] = self.activation
                    output = self.activation if node.target is not LINEAR or node in multiplied else None
            elif node.target is TABLE and matches(path, self.layers.tables):
                inputs[node.args[0]] = self.table
            elif _is_probabilities(node):
                output = self.probabilities
            elif self.activation is not None and _is_scores(node):
                inputs[node.args[1]] = _half_as_many_levels(_layer_before(node.args[1]))
            if inputs or output:
                node.meta["quantization_annotation"] = QuantizationAnnotation(
                    input_qspec_map=inputs, output_qspec=output, _annotated=True
                )
        return model

    def validate(self, model: torch.fx.GraphModule) -> None:
        """Every annotation is one that prepare_pt2e accepts."""


def matches(path: str, patterns: tuple[str, ...]) -> bool:
    """Whether a layer's path matches one of the globs."""
    return any(fnmatch(path, pattern) for pattern in patterns)


def module_path(node: torch.fx.Node) -> str:
    """Path in the net of the layer that a graph node came from."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return re.sub(r"^(L\['self'\]\.?)?(net(\.|$))?", "", str(paths[-1])) if paths else ""


def _is_probabilities(node: torch.fx.Node) -> bool:
    return node.target is torch.ops.aten.softmax.int and module_path(node).endswith(PROBABILITIES)


def _is_scores(node: torch.fx.Node) -> bool:
    """Whether a node is the product of queries and keys in lean attention."""
    return node.target is torch.ops.aten.matmul.default and any(map(_is_probabilities, node.users))


def _layer_before(node: Any) -> torch.fx.Node:
    """The layer whose output a node is a part of."""
    while node.target not in LAYERS:
        node = node.args[0]
    return node


def _half_as_many_levels(layer: torch.fx.Node) -> DerivedQuantizationSpec:
    """Of what is a uint8 output of a layer: every second level, as int8 in ±64."""

    def parameters(observers: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        scale, zero_point = observers[0].calculate_qparams()
        return 2 * scale, torch.ceil((zero_point - 128) / 2).int()  # then 0…255 becomes -64…64

    return DerivedQuantizationSpec([layer], parameters, torch.int8, -SECOND, SECOND, torch.per_tensor_affine)


def attentions(model: Denoiser) -> dict[str, int]:
    """Pattern of each attention's layers → the channels that its narrowest projection takes."""
    layer: Any = model.net.get_submodule
    return {
        f"{path}.*": min(layer(projection).in_features for projection in block.paths)
        for path, block in sorted(model.family.attention(model.net).items())
    }


def float_layers(model: Denoiser, named: tuple[str, ...] | None, least_width: int) -> tuple[str, ...]:
    """Patterns of the layers that stay float in any case: those that are named, or else the net's ends, and attention
    of fewer input channels."""
    narrow = (pattern for pattern, width in attentions(model).items() if width < least_width)
    return tuple(dict.fromkeys((*(model.family.layers.ends if named is None else named), *narrow)))


def int8_layers(graph: torch.fx.Graph) -> dict[str, list[str]]:
    """Names of the observers of every layer that computes in int8, by the layer's path, in a graph that has them.

    In order: of input, weight and, where it is rounded, output; of attention's first layer also that of the keys, of
    its last also that of the probabilities.
    """
    found: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.target in LAYERS:
            around = [arg for arg in node.args[:2] if arg.op == "call_module"]
            outputs = [user for user in node.users if user.op == "call_module"]
            if len(around) == 2:
                found[module_path(node)] = [str(each.target) for each in (*around, *outputs)]
    for node in graph.nodes:
        if _is_probabilities(node):
            last = module_path(node).removesuffix(PROBABILITIES) + ".out"
            found.get(last, []).extend(str(user.target) for user in node.users if user.op == "call_module")
            keys = node.args[0].args[1]
            if keys.op == "call_module":
                found[module_path(_layer_before(keys))].append(str(keys.target))
    return found

"""Quantized models: int8, or weights alone, by torchao's PT2E path, fp16 by conversion; rebuilt from saved ranges."""

import copy
import dataclasses
from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any

import torch
from torch import nn
from torch.export import Dim
from torchao.quantization.pt2e import (
    DerivedObserverOrFakeQuantize,
    HistogramObserver,
    MinMaxObserver,
    PerChannelMinMaxObserver,
)
from torchao.quantization.pt2e.observer import UniformQuantizationObserverBase
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import (
    DerivedQuantizationSpec,
    QuantizationAnnotation,
    QuantizationSpec,
    Quantizer,
)

from compress.families.family import Family
from compress.model.denoiser import Denoiser, Precision, Quantized, example_inputs
from compress.quantization import four_bits, rounding
from compress.runtime.schemes import SCHEMES

# Largest second factor of a product of bytes, a weight or an activation: `onnx_graph.exact` says why. The eighth bit
# of weights costs 0.3 dB and was worth up to 8 on processors that cannot add such products.
SECOND = 64
WEIGHT_ALONE = 127  # where arithmetic is float
LAYERS = (torch.ops.aten.conv1d.default, torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)
PROBABILITIES, KEYS = ".probabilities", ".keys"  # of lean attention: second factors of its products


class Histogram(HistogramObserver):
    """A histogram whose range of least squared error is searched for as many levels as there will be.

    settled: the range is known already.
    """

    settled = False

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.dst_nbins = int(self.quant_max) - int(self.quant_min) + 1

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(scale, zero point)."""
        ends = (self.min_val, self.max_val) if self.settled else self._non_linear_param_search()
        return self._calculate_qparams(*ends)


class Int8Quantizer(Quantizer):
    """Annotates convolutions and linear layers as their int8 kernels in onnxruntime want them.

    Inputs and outputs uint8 per tensor, weights int8 in ±63 per output channel and symmetric; outputs of the
    family's `float_outputs` stay float, and of its `small_inputs` all but the weights. Keys and probabilities of lean
    attention are int8 in ±64, because products of bytes are fastest between uint8 and int8; keys have half as many
    levels as the queries and values beside them. Layers whose path in the net matches a pattern of `float_layers` stay
    float.
    observer: of activations; None: all activations stay float, and weights have eight bits.
    """

    def __init__(
        self, family: Family, float_layers: tuple[str, ...], observer: type[Histogram] | type[MinMaxObserver] | None
    ) -> None:
        super().__init__()
        self.family = family
        self.float_layers = float_layers
        largest = WEIGHT_ALONE if observer is None else SECOND
        self.activation = observer and QuantizationSpec(torch.uint8, observer, 0, 255, torch.per_tensor_affine)
        self.probabilities = observer and QuantizationSpec(
            torch.int8, observer, -SECOND, SECOND, torch.per_tensor_affine
        )
        self.weight = QuantizationSpec(
            torch.int8, PerChannelMinMaxObserver, -largest, largest, torch.per_channel_symmetric, ch_axis=0
        )

    def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        """Mark every convolution and linear layer that is to be quantized, and the attention between them."""
        for node in model.graph.nodes:
            path = module_path(node) + (KEYS if _is_scores(node) else "")
            owner, _, part = path.rpartition(".")
            names = [path, *(f"{owner}.{name}" for name in self.family.lean.parts.get(part, ()))]
            if any(matches(name, self.float_layers) for name in names):
                continue
            inputs: dict[Any, Any] = {}
            output = None
            if node.target in LAYERS:
                inputs[node.args[1]] = self.weight
                if self.activation is not None and not matches(path, self.family.layers.small_inputs):
                    inputs[node.args[0]] = self.activation
                    output = None if matches(path, self.family.layers.float_outputs) else self.activation
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
    return str(paths[-1]).removeprefix("L['self'].").removeprefix("net.") if paths else ""


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


def exported(model: Denoiser) -> torch.fx.GraphModule:
    """The model as a graph with a dynamic batch dimension, its attention in lean form."""
    inputs = example_inputs(model, batch=2)
    batch = Dim("batch", min=1, max=63)  # torch.export rejects a bound of 64 on this path
    with model.family.lean.within(model.net):
        program = torch.export.export(model.module, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs))
    return program.module()


def observed(model: Denoiser, float_layers: tuple[str, ...], histogram: bool) -> Quantized:
    """The model with observers that note values while it runs: histograms of them, or their ends alone."""
    observer = Histogram if histogram else MinMaxObserver
    prepared = prepare_pt2e(exported(model), Int8Quantizer(model.family, float_layers, observer))
    return _quantized(model, "int8", prepared, float_layers=float_layers)


@torch.no_grad()
def weights_ranges(model: Denoiser, scheme: str, float_layers: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """What `rebuild` needs for a scheme of float activations; it takes no calibration."""
    prepared = _weights_prepared(model, scheme, float_layers)
    prepared(*example_inputs(model, batch=2))  # observers look at weights when the model runs
    return ranges(prepared)


def grids(model: Denoiser, scheme: str, float_layers: tuple[str, ...]) -> dict[str, tuple[torch.Tensor, int]]:
    """(size [out,1 or in] of the levels, how many on either side of zero) of each layer whose weights are rounded.

    By path; left out are weights that lean attention folds into others first.
    """
    four = four_bits.layers(model, float_layers) if SCHEMES[scheme].four_bits else ()
    largest = WEIGHT_ALONE if SCHEMES[scheme].activation_bits is None else SECOND
    found = {}
    for path, layer in rounding.layers(model).items():
        weight = layer.weight.detach().flatten(1)
        if path in four:
            found[path] = four_bits.sizes(weight), four_bits.LEVELS
        elif not matches(path, float_layers):
            found[path] = weight.abs().amax(1, keepdim=True) / largest, largest
    return found


def _weights_prepared(model: Denoiser, scheme: str, float_layers: tuple[str, ...]) -> torch.fx.GraphModule:
    if SCHEMES[scheme].four_bits:
        paths = four_bits.layers(model, float_layers)
        model, float_layers = four_bits.on_grid(model, paths), (*float_layers, *paths)
    return prepare_pt2e(exported(model), Int8Quantizer(model.family, float_layers, None))


def ranges(observed: nn.Module) -> dict[str, torch.Tensor]:
    """The range [2, channels or 1] of every observer of an observed module, by its name; of least squared error where
    it keeps a histogram."""
    found = {}
    for name, observer in observed.named_modules():
        if isinstance(observer, HistogramObserver):
            low, high = observer._non_linear_param_search()
        elif isinstance(observer, UniformQuantizationObserverBase):
            low, high = observer.min_val, observer.max_val
        else:
            continue
        found[name] = torch.stack([low.flatten(), high.flatten()]).float().cpu()
    return found


class FakeQuantize(nn.Module):
    """Rounds as the int8 kernels will, and lets gradients through where nothing is clipped.

    Activations: in the range that an observer settled on. Weights: in the range that they have at the moment.
    active: whether it rounds at all.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    active = True

    def __init__(self, observer: Any) -> None:
        super().__init__()
        self.weights = isinstance(observer, PerChannelMinMaxObserver)
        self.limits = (int(observer.quant_min), int(observer.quant_max))
        if not self.weights:
            scale, zero_point = observer.calculate_qparams()
            self.register_buffer("scale", scale, persistent=False)
            self.register_buffer("zero_point", zero_point.int(), persistent=False)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Values of the same shape, each one of 2⁸ levels, or of 2⁷ − 1 for a weight."""
        if not self.active:
            return values
        if not self.weights:
            return torch.fake_quantize_per_tensor_affine(values, self.scale, self.zero_point, *self.limits)
        largest = values.detach().flatten(1).abs().amax(1)
        scale = (largest / self.limits[1]).clamp_min(torch.finfo(torch.float32).eps)
        zero_point = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(values, scale, zero_point, 0, *self.limits)


def attentions(model: Denoiser) -> dict[str, int]:
    """Pattern of each attention's layers → the channels that its narrowest projection takes."""
    layer: Any = model.net.get_submodule
    return {
        f"{path}.*": min(layer(projection).in_features for projection in block.paths)
        for path, block in sorted(model.family.attention(model.net).items())
    }


def int8_layers(model: Quantized) -> dict[str, list[str]]:
    """Names of the observers of every layer of an `observed` model that computes in int8, by the layer's path.

    In order: of input, weight and output; of attention's first layer also that of the keys, of its last also that of
    the probabilities.
    """
    graph: torch.fx.Graph = model.module.graph  # type: ignore[assignment]
    found: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.target in LAYERS:
            around = [arg for arg in node.args[:2] if arg.op == "call_module"]
            outputs = [user for user in node.users if user.op == "call_module"]
            if len(around) == 2 and outputs:
                found[module_path(node)] = [str(each.target) for each in (*around, *outputs)]
    for node in graph.nodes:
        if _is_probabilities(node):
            last = module_path(node).removesuffix(PROBABILITIES) + ".out"
            found.get(last, []).extend(str(user.target) for user in node.users if user.op == "call_module")
            keys = node.args[0].args[1]
            if keys.op == "call_module":
                found[module_path(_layer_before(keys))].append(str(keys.target))
    return found


def fake_quantized(model: Quantized) -> Quantized:
    """Put rounding in the place of the observers of an `observed` model that has met its calibration.

    Its weights are those of the float model that it was made of, so that training it trains that.
    """
    _settle(model.module, ranges(model.module))
    for name, observer in list(model.module.named_modules()):
        if isinstance(observer, UniformQuantizationObserverBase | DerivedObserverOrFakeQuantize):
            parent, _, own = name.rpartition(".")
            setattr(model.module.get_submodule(parent), own, FakeQuantize(observer))
    return model


def rebuild(
    source: Denoiser, scheme: str, saved: Mapping[str, torch.Tensor], float_layers: tuple[str, ...] = ()
) -> Quantized:
    """The quantized model that a float model, a scheme and saved ranges determine. Raises ValueError."""
    row = SCHEMES[scheme]
    if row.weight_bits is None:
        return _quantized(source, scheme, source.family.positional(copy.deepcopy(source.net).half()))
    if row.activation_bits is not None:
        prepared = prepare_pt2e(exported(source), Int8Quantizer(source.family, float_layers, MinMaxObserver))
    else:
        prepared = _weights_prepared(source, scheme, float_layers)
    _settle(prepared, saved)
    return _quantized(source, scheme, convert_pt2e(prepared), dict(saved), float_layers)


def _quantized(
    source: Denoiser,
    scheme: str,
    module: nn.Module,
    saved: Mapping[str, torch.Tensor] | None = None,
    float_layers: tuple[str, ...] = (),
) -> Quantized:
    return Quantized(dataclasses.replace(source, precision=Precision(scheme, module, saved or {}, float_layers)))


def _settle(prepared: nn.Module, settled: Mapping[str, torch.Tensor]) -> None:
    """Give every observer its range [2, channels or 1], by its name. Raises ValueError."""
    names = set()
    for name, observer in prepared.named_modules():
        if isinstance(observer, UniformQuantizationObserverBase):
            if name not in settled:
                raise ValueError(f"quantization.safetensors: the range of {name} is missing")
            low, high = settled[name].to(observer.eps.device)
            per_channel = isinstance(observer, PerChannelMinMaxObserver)
            observer.min_val, observer.max_val = (low, high) if per_channel else (low[0], high[0])
            observer.settled = True
            names.add(name)
    if names != set(settled):
        raise ValueError("quantization.safetensors: does not belong to this model")

"""Quantized models: bytes, or weights alone, by torchao's PT2E path, fp16 by conversion; made again from ranges.

A float model is `observed`; of the ranges that its observers met, a model is made that computes so (`rebuild`), or one
that can be trained (`fake_quantized`).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torchao.quantization.pt2e import DerivedObserverOrFakeQuantize, HistogramObserver, PerChannelMinMaxObserver
from torchao.quantization.pt2e.observer import UniformQuantizationObserverBase
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

from compress.model.denoiser import Denoiser, Precision, Quantized, example_inputs
from compress.model.open_sizes import left_open
from compress.quantization import four_bits, half, rounding
from compress.quantization.quantizer import BytesQuantizer, largest_weight, matches
from compress.runtime.schemes import SCHEMES

Ranges = Mapping[str, torch.Tensor]  # [2, channels or 1] of every observer, by its name


def exported(model: Denoiser, multiple: int | None = None) -> torch.fx.GraphModule:
    """The model as a graph of any batch size, its attention in lean form.

    multiple: of what the sides of a sample may be any; None: they are the model's own.
    """
    inputs, shapes = left_open(model.module, example_inputs(model, batch=2), None, multiple)
    with model.family.lean.within(model.net):
        program = torch.export.export(model.module, inputs, dynamic_shapes=shapes)
    return program.module()


def observed(
    model: Denoiser,
    scheme: str,
    float_layers: tuple[str, ...],
    histogram: bool = False,
    multiple: int | None = None,
) -> Quantized:
    """The model with observers that note values while it runs: histograms of activations, or their ends alone.

    multiple: as for `exported`.
    """
    row, kept = SCHEMES[scheme], float_layers
    if row.four_bits:
        paths = four_bits.layers(model, float_layers)
        model, kept = four_bits.on_grid(model, paths), (*float_layers, *paths)
    quantizer = BytesQuantizer(row, model.family.layers, model.family.lean, kept, histogram)
    return _quantized(model, scheme, prepare_pt2e(exported(model, multiple), quantizer), {}, float_layers)


def ranges(observed: nn.Module) -> dict[str, torch.Tensor]:
    """The range of every observer; of least squared error where it keeps a histogram."""
    found = {}
    for name, observer in _observers(observed).items():
        low, high = observer.min_val, observer.max_val
        if isinstance(observer, HistogramObserver):
            observer.dst_nbins = int(observer.quant_max) - int(observer.quant_min) + 1  # not those of its type
            low, high = observer._non_linear_param_search()
        found[name] = torch.stack([low.flatten(), high.flatten()]).float().cpu()
    return found


def put(observed: nn.Module, saved: Ranges) -> None:
    """Let observers have met the ends of these ranges."""
    for name, observer in _observers(observed).items():
        low, high = saved[name].to(observer.eps.device)
        per_channel = isinstance(observer, PerChannelMinMaxObserver)
        observer.min_val, observer.max_val = (low, high) if per_channel else (low[0], high[0])


def rebuild(
    source: Denoiser,
    scheme: str,
    saved: Ranges,
    float_layers: tuple[str, ...] = (),
    multiple: int | None = None,
) -> Quantized:
    """The quantized model that a float model, a scheme and saved ranges determine. Raises ValueError.

    multiple: as for `exported`.
    """
    if SCHEMES[scheme].weight_bits is None:
        return _quantized(source, scheme, half.halved(exported(source, multiple), float_layers), {}, float_layers)
    module = convert_pt2e(_settled(source, scheme, saved, float_layers, multiple))
    return _quantized(source, scheme, module, dict(saved), float_layers)


def in_half(
    source: Denoiser,
    points: Sequence[torch.Tensor],
    float_layers: tuple[str, ...],
    advance: Callable[[int], object] = lambda _: None,
) -> tuple[Quantized, dict[str, float]]:
    """(the model in float16, the layers that stay float beside `float_layers` → the largest value that they met).

    points: (sample, timestep, *inputs), each [n,…]. advance: is told how many of them are done.
    """
    found = half.beyond(exported(source), points, advance)
    return rebuild(source, "fp16", {}, (*float_layers, *found)), found


def fake_quantized(source: Denoiser, scheme: str, saved: Ranges, float_layers: tuple[str, ...]) -> Quantized:
    """As `rebuild`, with rounding that lets gradients through.

    Its weights are those of the float model, so that training it trains that.
    """
    module = _settled(source, scheme, saved, float_layers)
    for name, observer in list(module.named_modules()):
        if isinstance(observer, UniformQuantizationObserverBase | DerivedObserverOrFakeQuantize):
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, FakeQuantize(observer))
    return _quantized(source, scheme, module, dict(saved), float_layers)


def grids(model: Denoiser, scheme: str, float_layers: tuple[str, ...]) -> dict[str, tuple[torch.Tensor, int]]:
    """(size [out,1 or in] of the levels, how many on either side of zero) of each layer whose weights are rounded.

    By path; left out are weights that lean attention folds into others first.
    """
    four = four_bits.layers(model, float_layers) if SCHEMES[scheme].four_bits else ()
    largest = largest_weight(SCHEMES[scheme])
    found = {}
    for path, layer in rounding.layers(model).items():
        weight = layer.weight.detach().flatten(1)
        if path in four:
            found[path] = four_bits.sizes(weight), four_bits.LEVELS
        elif not matches(path, float_layers):
            found[path] = weight.abs().amax(1, keepdim=True) / largest, largest
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
        """Values of the same shape, each one of 2⁸ levels, or of 2⁷ + 1 for a weight."""
        if not self.active:
            return values
        if not self.weights:
            return torch.fake_quantize_per_tensor_affine(values, self.scale, self.zero_point, *self.limits)
        largest = values.detach().flatten(1).abs().amax(1)
        scale = (largest / self.limits[1]).clamp_min(torch.finfo(torch.float32).eps)
        zero_point = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(values, scale, zero_point, 0, *self.limits)


def _quantized(
    source: Denoiser, scheme: str, module: nn.Module, saved: Ranges, float_layers: tuple[str, ...]
) -> Quantized:
    return Quantized(dataclasses.replace(source, precision=Precision(scheme, module, saved, float_layers)))


def _observers(module: nn.Module) -> dict[str, Any]:
    return {name: each for name, each in module.named_modules() if isinstance(each, UniformQuantizationObserverBase)}


def _settled(
    source: Denoiser, scheme: str, saved: Ranges, float_layers: tuple[str, ...], multiple: int | None = None
) -> torch.fx.GraphModule:
    """The model with observers that have met the ends of these ranges. Raises ValueError."""
    module: Any = observed(source, scheme, float_layers, multiple=multiple).module
    missing = sorted(set(_observers(module)) - set(saved))
    if missing:
        raise ValueError(f"quantization.safetensors: the range of {missing[0]} is missing")
    if set(saved) - set(_observers(module)):
        raise ValueError("quantization.safetensors: does not belong to this model")
    put(module, saved)
    return module

"""A net is built and run on the meta device, where nothing is allocated or computed, before its weights are read.

So a config that asks for too much ends at once, and one that cannot work says so before an hour of training does.
"""

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from compress.models.denoiser import Denoiser, example_inputs
from compress.models.family import Family

# The largest U-Nets (SDXL, DeepFloyd IF) have some 2,000 tensors and 4·10⁹ values.
TENSORS, VALUES = 6000, 2 * 10**10
SAMPLE = 2**26  # values of one sample: 4096 × 4096 with four channels


def build(family: Family, config: Mapping[str, Any]) -> nn.Module:
    """The net of a config, on the meta device.

    Raises ValueError, with the end of a sentence, for a config that cannot be built or that is beyond the limits above.
    """
    for key, value in _numbers(config):
        if not math.isfinite(value) or not 0 <= value < 2**31:
            raise ValueError(f"{family.name} cannot be built: {key} is {str(value)[:40]}")
    budget = _Budget()
    try:
        with register_module_parameter_registration_hook(budget), torch.device("meta"):
            net: nn.Module = family.build(config)
    except _TooLargeError as error:
        raise ValueError(f"{family.name} {error}") from None
    except Exception as error:  # a config can be wrong in more ways than diffusers names
        raise ValueError(f"{family.name} cannot be built: {_first_line(error)}") from None
    for key, default in _defaults(net).items():
        given = config.get(key)
        if isinstance(given, bool) and isinstance(default, int | float) and not isinstance(default, bool):
            raise ValueError(f"{family.name} cannot be built: {key} is {given} and should be a number")
    return net


def run(model: Denoiser) -> None:
    """One evaluation of a model whose net is on the meta device.

    Raises ValueError, with the end of a sentence, for one that does not run, or gives something else than its sample's
    shape.
    """
    name, config = model.family.name, model.config
    size = config["sample_size"]
    sides = [size, size] if isinstance(size, int) else size
    if not isinstance(sides, list | tuple) or len(sides) != 2 or not all(_is_size(side) for side in sides):
        raise ValueError(f"sample_size is {str(size)[:40]}; should be the side of a sample, or [height, width]")
    taken, channels = config["in_channels"], config["out_channels"]
    if math.prod((taken, *sides)) > SAMPLE:
        raise ValueError(f"sample_size {size}: a sample of {taken} channels may hold at most {SAMPLE:,} values")
    if taken != channels:
        raise ValueError(
            f"in_channels {taken}, out_channels {channels}: {_interface(taken, channels)} is not supported yet; "
            "the net should give as many channels as it takes"
        )
    try:
        with torch.no_grad():
            output = model.module(*example_inputs(model, 1))
    except Exception as error:  # as for `build`
        reason = f"{_first_line(error)}{_suspects(model)}"
        raise ValueError(f"{name} is built, but cannot run on samples {list(model.sample_shape)}: {reason}") from None
    if tuple(output.shape) != (1, *model.sample_shape):
        given = f"{list(output.shape[1:])}{_suspects(model)}"
        raise ValueError(f"{name} should give as large samples as it takes, {list(model.sample_shape)}; gives {given}")


class _TooLargeError(Exception):
    """A net is beyond the limits."""


class _Budget:
    """Counts parameters as modules get them."""

    def __init__(self) -> None:
        self.tensors = self.values = 0

    def __call__(self, module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        self.tensors += 1
        self.values += 0 if parameter is None else parameter.numel()
        if self.tensors > TENSORS or self.values > VALUES:
            raise _TooLargeError(f"is too large: more than {TENSORS:,} tensors or {VALUES:,} values")


def _interface(taken: int, given: int) -> str:
    """What a net is that gives other channels than it takes."""
    if given == 2 * taken:
        return "a net that predicts a variance beside the noise (learned variance)"
    kinds = {(9, 4): "inpainting", (7, 4): "upscaling", (8, 4): "image editing"}
    if (taken, given) in kinds:
        return f"a net for {kinds[taken, given]}, which takes an image beside the sample,"
    if taken > given:
        return "a net that takes a condition as channels beside the sample"
    return "a net that gives more than it takes"


def _suspects(model: Denoiser) -> str:
    """Keys of the config that may be why a net does not run, as the end of a sentence."""
    unset = [
        key
        for key, default in _defaults(model.net).items()
        if model.config.get(key, default) is None and default is not None
    ]
    steps = 2 ** (len(model.config["block_out_channels"]) - 1)
    uneven = any(side % steps for side in model.sample_shape[1:])
    found = [f"{key} is null" for key in unset] + [f"sample_size is no multiple of {steps}"] * uneven
    return f" ({', '.join(found)})" if found else ""


def _defaults(net: nn.Module) -> dict[str, Any]:
    parameters = inspect.signature(type(net).__init__).parameters
    return {name: one.default for name, one in parameters.items() if one.default is not inspect.Parameter.empty}


def _numbers(config: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Every number of a config, with the key that it belongs to."""
    for key, value in config.items():
        waiting = [value]
        while waiting:
            one = waiting.pop()
            if isinstance(one, int | float) and not isinstance(one, bool):
                yield key, one
            elif isinstance(one, list | tuple):
                waiting += one


def _is_size(side: Any) -> bool:
    return isinstance(side, int) and not isinstance(side, bool) and side > 0


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]

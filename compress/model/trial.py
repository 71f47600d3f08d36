"""A net is built where nothing is allocated before its weights are read, and tried before anything is made of it.

So a config that asks for too much ends at once, and one that cannot work says so before an hour of training does.
"""

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from compress.families.family import Family
from compress.model.denoiser import Denoiser, example_inputs
from compress.randomness import Draw, generator

# The largest U-Nets (SDXL, DeepFloyd IF) have some 2,000 tensors and 4·10⁹ values.
TENSORS, VALUES = 6000, 2 * 10**10
NUMBER = 2**20  # diffusers makes lists as long as some numbers are large
SAMPLE = 2**26  # values of one sample: 4096 × 4096 with four channels


def build(family: Family, config: Mapping[str, Any]) -> nn.Module:
    """The net of a config, on the meta device.

    Raises ValueError, with the end of a sentence, for a config that the family refuses, that cannot be built, or that
    is beyond the limits above.
    """
    reason = family.refuse(config)
    if reason:
        raise ValueError(reason)
    failed = f"{family.name} cannot be built"
    for key, value in config.items():
        for number in _numbers(value):
            if not 0 <= number <= NUMBER:  # NaN neither
                raise ValueError(f"{failed}: {key} is {str(number)[:40]}; should lie in 0…{NUMBER:,}")
    tensors = values = 0

    def count(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> None:
        nonlocal tensors, values
        tensors += 1
        values += 0 if parameter is None else parameter.numel()
        if tensors > TENSORS or values > VALUES:
            raise ValueError(f"it is too large: more than {TENSORS:,} tensors or {VALUES:,} values")

    try:
        with register_module_parameter_registration_hook(count), torch.device("meta"):
            net: nn.Module = family.build(config)
    except Exception as error:  # a config can be wrong in more ways than diffusers names
        raise ValueError(f"{failed}: {_first_line(error)}") from None
    for key, default in _defaults(net).items():
        given = config.get(key)
        if isinstance(given, bool) and isinstance(default, int | float) and not isinstance(default, bool):
            raise ValueError(f"{failed}: {key} is {given} and should be a number")
    return net


def check_samples(family: Family, net: Any) -> None:
    """Raise ValueError, with the end of a sentence, unless a net takes and gives samples of one shape that it names."""
    size, taken, channels = net.config["sample_size"], net.config["in_channels"], family.channels(net.config)
    given = net.config.get("out_channels") or taken
    sides = [size] * family.dimensions if isinstance(size, int) else size
    whole = isinstance(sides, list | tuple) and all(type(side) is int and side > 0 for side in sides)
    if not whole or len(sides) != family.dimensions:
        wanted = {1: "length", 2: "side of a sample, or [height, width]"}[family.dimensions]
        raise ValueError(f"sample_size is {str(size)[:40]}; should be the {wanted}")
    if math.prod((taken, *sides)) > SAMPLE:
        raise ValueError(f"sample_size {size}: a sample of {taken} channels may hold at most {SAMPLE:,} values")
    beside = 0
    if taken > channels:
        beside = sum(one.shape[0] for one in family.conditions(net, 1).values() if one.concatenated)
    if taken != channels + beside or given not in (channels, 2 * channels):
        raise ValueError(
            f"in_channels {taken}, out_channels {given}: a {family.name} takes a sample"
            f"{', channels beside it' * bool(beside)} and gives as many channels as the sample has, or twice as many"
        )


@torch.no_grad()
def run(model: Denoiser) -> None:
    """Evaluate a model at the first and the last of its timesteps, on a noisy sample that is as small as it can be.

    Raises ValueError, with the end of a sentence, if it does not run, or gives another shape or NaN.
    """
    _check_sizes(model.net)
    name, steps = model.family.name, model.family.multiple(model.config)
    # what does not divide stays so
    sides = [min(side, 2 * steps + side % steps) for side in model.sample_shape[1:]]
    sample = torch.randn(1, model.sample_shape[0], *sides, generator=generator(0, Draw.TRIAL)).to(model.device)
    for timestep in (model.sampling.timesteps[0], model.sampling.timesteps[-1]):
        told = model.sampling.told(torch.tensor([timestep], device=model.device))
        try:
            _, _, *others = example_inputs(model, 1)
            for i, condition in enumerate(model.conditions.values()):
                if condition.concatenated:
                    others[i] = others[i][..., : sides[0], : sides[-1]]
            output = model.module(sample, told, *others)
        except Exception as error:  # as for `build`
            reason = f"{_first_line(error)}{_suspects(model, steps)}"
            raise ValueError(f"{name} is built, but cannot run on samples {list(sample.shape[1:])}: {reason}") from None
        if output.shape != sample.shape:
            given = f"{list(output.shape[1:])}{_suspects(model, steps)}"
            raise ValueError(f"{name} gives {given} for samples {list(sample.shape[1:])}")
        if not torch.isfinite(output).all():
            raise ValueError(
                f"{name} gives NaN or infinity at timestep {timestep}; its weights or a number are damaged"
            )


def _check_sizes(net: nn.Module) -> None:
    """Raise ValueError for a convolution that may give images far larger than it takes."""
    for path, layer in net.named_modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            kernel = tuple(layer.weight.shape[2:])
            for name in ("padding", "stride", "dilation"):
                value = getattr(layer, name)
                pair = isinstance(value, tuple) and len(value) == 2
                if not pair or any(type(n) is not int or n > most for n, most in zip(value, kernel, strict=True)):
                    raise ValueError(f"{path}: {name} {str(value)[:40]} does not fit its kernel {kernel}")


def _suspects(model: Denoiser, steps: int) -> str:
    """Keys of the config that may be why a net does not run, as the end of a sentence."""
    defaults = {key: default for key, default in _defaults(model.net).items() if default is not None}
    found = [f"{key} is null" for key in defaults if model.config.get(key, "") is None]
    found += [f"sample_size is no multiple of {steps}"] * any(side % steps for side in model.sample_shape[1:])
    return f" ({', '.join(found)})" if found else ""


def _defaults(net: nn.Module) -> dict[str, Any]:
    parameters = inspect.signature(type(net).__init__).parameters
    return {name: one.default for name, one in parameters.items() if one.default is not inspect.Parameter.empty}


def _numbers(value: Any) -> Iterator[float]:
    """Every number of a value of a config."""
    if isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield value


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]

"""How much error the rounding of each layer adds, and which layers are to be left in float for it."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch

from compress.model.denoiser import Denoiser, Quantized
from compress.quantization.calibration import answers
from compress.quantization.quantized import FakeQuantize
from compress.quantization.quantizer import attentions, int8_layers, matches

FEW = 20  # points at which layers are looked at one by one


class Sensitivity:
    """A model under rounding that can be left out unit by unit.

    units: paths of the layers that are float or int8 together, by unit: those of an attention; every other one by
    itself.
    """

    def __init__(self, model: Denoiser, rounded: Quantized, points: Sequence[torch.Tensor]) -> None:
        self.rounded = rounded
        layers = int8_layers(rounded.module.graph)  # type: ignore[arg-type]
        self.layers = {path: names for path, names in layers.items() if not matches(path, model.family.layers.merged)}
        self.units = _units(model, self.layers)
        place = torch.arange(FEW) * len(points[0]) // FEW
        few = [value[place] for value in points]
        self.all, self.few = ((given, answers(model, given)) for given in (points, few))

    def alone(self, unit: str) -> float:
        """Relative squared error of the output, at few points, with one unit alone in int8."""
        return self._error([unit], *self.few)

    def together(self, units: Sequence[str]) -> float:
        """Relative squared error of the output, at all points, with these units alone in int8."""
        return self._error(units, *self.all)

    def _error(self, units: Sequence[str], points: Sequence[torch.Tensor], wanted: torch.Tensor) -> float:
        active = {name for unit in units for path in self.units[unit] for name in self.layers[path]}
        for name in {name for names in self.layers.values() for name in names}:
            rounding = self.rounded.module.get_submodule(name)
            assert isinstance(rounding, FakeQuantize)
            rounding.active = name in active
        return float((answers(self.rounded, points) - wanted).square().sum() / wanted.square().sum())


def _units(model: Denoiser, layers: Iterable[str]) -> dict[str, list[str]]:
    patterns = attentions(model)
    found: dict[str, list[str]] = {}
    for path in layers:
        unit = next((pattern for pattern in patterns if matches(path, (pattern,))), path)
        found.setdefault(unit, []).append(path)
    return found


def left_in_float(
    errors: Mapping[str, float], gains: Mapping[str, float], budget: float, measure: Callable[[list[str]], float]
) -> dict[str, str]:
    """Layers that are not to be int8, and why.

    errors: relative squared error that a layer adds alone. gains: milliseconds that it saves; layers that save none are
    left. Of the rest those are left first that save least for the error they add, until `measure`, the error of all
    that remain together, is within the budget. Errors add up roughly, so as many go at once as the sum says.
    """
    left = {name: "int8 is not faster" for name in errors if gains[name] <= 0}
    rest = [name for name in errors if name not in left]
    rest.sort(key=lambda name: gains[name] / max(errors[name], 1e-30))
    found = measure(rest) if rest else 0.0
    while not found <= budget:  # also where it is not a number
        total = max(sum(errors[name] for name in rest), 1e-30)
        allowed = total * budget / found
        while rest:
            name = rest.pop(0)
            left[name] = f"saves {gains[name]:.3f} ms and adds {errors[name] / total:.1%} of the error"
            if sum(errors[other] for other in rest) <= allowed:
                break
        found = measure(rest) if rest else 0.0
    return left

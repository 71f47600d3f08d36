"""Other ways of sampling that a bundle serves: another guidance scale, another number of steps."""

import math
from pathlib import Path
from typing import Any

from compress.errors import BundleError


def at_scale(path: Path, sampling: dict[str, Any], scale: float) -> dict[str, Any]:
    """`sampling` of the bundle.json in a folder with another guidance scale. Raises BundleError if it has none."""
    guidance = sampling["guidance"]
    if guidance["kind"] == "none":
        raise BundleError(f"{path}: is not guided, so it has no guidance scale")
    if guidance["kind"] == "baked" and scale != guidance["scale"]:
        raise BundleError(f"{path}: was distilled for the guidance scale {guidance['scale']} alone")
    if not math.isfinite(scale):
        raise BundleError(f"{path}: the guidance scale should be a finite number; got {scale}")
    low, high = guidance.get("scales", (-math.inf, math.inf))
    if not low <= scale <= high:
        raise BundleError(f"{path}: was distilled for guidance scales {low} … {high}; got {scale}")
    return {**sampling, "guidance": {**guidance, "scale": scale}}


def at_steps(path: Path, sampling: dict[str, Any], count: int) -> dict[str, Any]:
    """`sampling` of the bundle.json in a folder in another number of steps. Raises BundleError if it has no such."""
    served = {len(steps): steps for steps in (sampling["steps"], *sampling.get("others", []))}
    if count not in served:
        known = ", ".join(map(str, sorted(served)))
        raise BundleError(f"{path}: serves {known} steps, not {count}")
    if count == len(sampling["steps"]):
        return sampling
    others = [steps for number, steps in served.items() if number != count]
    found = {**sampling, "steps": served[count], "others": others}
    found.pop("levels", None)  # are those of the steps before
    return found

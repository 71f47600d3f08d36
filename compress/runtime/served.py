"""Other ways of sampling that a bundle serves: another guidance scale, another number of steps, from a picture on."""

import math
from pathlib import Path
from typing import Any

import numpy as np

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


def from_strength(path: Path, sampling: dict[str, Any], strength: float) -> dict[str, Any]:
    """`sampling` of the bundle.json in a folder, begun where this share of its steps is left, from what is `noised`.

    As diffusers' pipelines for image-to-image count them; the first step looks at nothing behind it. Raises BundleError
    where sampling cannot begin there.
    """
    steps = sampling["steps"]
    left = int(len(steps) * strength) if 0 < strength <= 1 else 0
    if not left:
        raise BundleError(f"{path}: strength should be from {1 / len(steps):g}, one step, to 1; got {strength:g}")
    hindered = {
        "unipc corrects what is behind": sampling["solver"] == "unipc",
        "it holds no levels of these steps": "levels" not in sampling,
        "its net is told the number of steps, of which some would be left out": sampling.get("others"),
    }
    for why in (why for why, found in hindered.items() if found):
        raise BundleError(
            f"{path}: cannot begin with a picture: {why}; export it with another solver, or its own steps"
        )
    first, *others = steps[-left:]
    alone = first["next_from_clean"] + first["next_from_previous"] + first.get("next_from_earlier", 0.0)
    first = {**first, "next_from_clean": alone, "next_from_previous": 0.0, "next_from_earlier": 0.0}
    cut = {name: values[-left - 1 :] for name, values in sampling["levels"].items()}
    return {**sampling, "steps": [first, *others], "levels": cut, "others": []}


def noised(sampling: dict[str, Any], samples: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Clean samples [n,…] with as much standard normal noise [n,…] as there is where sampling begins."""
    alpha, sigma = (np.float32(sampling["levels"][name][0]) for name in ("alpha", "sigma"))
    return np.asarray(alpha * samples + sigma * noise)

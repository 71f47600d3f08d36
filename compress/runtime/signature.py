"""What a graph takes and gives, and what it is asked, against what `bundle.json` says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compress.errors import BundleError
from compress.runtime.engine import Feeds, Graph, Specs


def check_signature(file: Path, graph: Graph, inputs: Specs, outputs: Specs, any_sides: bool = False) -> None:
    """Raises BundleError where names, types, ranks or sizes differ.

    Sizes that the graph leaves open fit any. any_sides: those of images must be open.
    """
    for what, values, specs in (("input", graph.inputs, inputs), ("output", graph.outputs, outputs)):
        if sorted(values) != sorted(specs):
            raise _error(file, f"{what}s are {list(values)}", f"{list(specs)}")
        for name, value in values.items():
            found, wanted = value["shape"], specs[name]["shape"]
            fits = len(found) == len(wanted) and all(
                a == b for a, b in zip(found, wanted, strict=True) if isinstance(a, int)
            )
            if any_sides and len(found) == 4 and any(isinstance(side, int) for side in found[2:]):
                raise _error(file, f"{what} {name!r} is {found}", "of open sides")
            if value["dtype"] != specs[name]["dtype"] or not fits:
                said = f"{what} {name!r} is {value['dtype']} {found}"
                raise _error(file, said, f"{specs[name]['dtype']} {wanted}")


def check_asked(path: Path, manifest: Mapping[str, Any], wanted: Specs, noise: np.ndarray, conditions: Feeds) -> None:
    """Raises BundleError unless noise [n,…] and conditions [n,…] are what the bundle in `path` takes.

    wanted: its conditions.
    """
    inputs, batch, classes = manifest["inputs"], manifest["batch"], manifest["classes"]
    if set(conditions) != set(wanted):
        given = sorted(conditions) or "none"
        raise BundleError(f"{path}: the model takes the conditions {sorted(wanted) or 'none'}; got {given}")
    shape = inputs["sample"]["shape"][1:]
    if not len(noise) or not _fits(list(noise.shape[1:]), shape, manifest):
        raise BundleError(f"{path}: noise must be {['batch', *shape]}{_takes(manifest)}; got {list(noise.shape)}")
    if batch and len(noise) % batch:
        raise BundleError(f"{path}: was exported for batches of {batch}; got {len(noise)} samples")
    for name, value in conditions.items():
        expected = [len(noise), *wanted[name]["shape"][1:]]
        if len(expected) == 4:  # an image, of the sample's sides
            expected[2:] = noise.shape[2:]
        if list(value.shape) != expected:
            raise BundleError(f"{path}: {name} must be {expected}; got {list(value.shape)}")
    labels = conditions.get("class_labels")
    if labels is not None and classes and (np.min(labels) < 0 or np.max(labels) >= classes):
        raise BundleError(f"{path}: class labels must lie in 0…{classes - 1}")


def _error(file: Path, found: str, wanted: str) -> BundleError:
    return BundleError(f"{file}: its {found}, and not {wanted} as bundle.json says; export it again")


def sides_for(path: Path, manifest: Mapping[str, Any], size: list[int]) -> list[int]:
    """Sides of the samples whose pictures are of this size, [height, width]. Raises BundleError if there are none."""
    channels, *own = manifest["inputs"]["sample"]["shape"][1:]
    decoder = manifest.get("decoder")
    factor = decoder["pixels"][1] // own[0] if decoder else 1
    found = [side // factor for side in size]
    if [side * factor for side in found] != size or not _fits([channels, *found], [channels, *own], manifest):
        drawn = [side * factor for side in own]
        raise BundleError(f"{path}: draws pictures of {drawn}{_takes(manifest, factor)}; got {size}")
    return found


def _takes(manifest: Mapping[str, Any], factor: int = 1) -> str:
    """What sizes a bundle takes beside its own, in words; empty: none. factor: by which pictures are larger."""
    sizes = manifest.get("sizes")
    if not sizes:
        return ""
    if (listed := sizes.get("listed")) is None:
        return f" (or sides that are multiples of {factor * sizes['multiple']})"
    return f" (or sides of {[[factor * side for side in sides] for sides in listed]})"


def _fits(found: list[int], shape: list[int], manifest: Mapping[str, Any]) -> bool:
    """Whether samples [c,h,w] are of the bundle's own shape, or of another that it takes."""
    sizes = manifest.get("sizes")
    if found == shape or not sizes or len(found) != 3 or found[0] != shape[0]:
        return found == shape
    if sizes.get("listed") is not None:
        return found[1:] in sizes["listed"]
    return all(side and side % sizes["multiple"] == 0 for side in found[1:])

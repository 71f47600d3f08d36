"""What a graph takes and gives, against what `bundle.json` says of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime

from compress.errors import BundleError

TYPES = {
    "float32": "tensor(float)",
    "float16": "tensor(float16)",
    "int64": "tensor(int64)",
    "int32": "tensor(int32)",
}
Specs = Mapping[str, Mapping[str, Any]]  # name -> dtype, shape


def check_signature(file: Path, session: onnxruntime.InferenceSession, inputs: Specs, outputs: Specs) -> None:
    """Raises BundleError where names, types, ranks or sizes differ. Sizes that the graph leaves open fit any."""
    for what, values, specs in (("input", session.get_inputs(), inputs), ("output", session.get_outputs(), outputs)):
        names = [value.name for value in values]
        if sorted(names) != sorted(specs):
            raise _error(file, f"{what}s are {names}", f"{list(specs)}")
        for value in values:
            spec = specs[value.name]
            sizes = list(zip(value.shape, spec["shape"], strict=False))
            fits = len(value.shape) == len(spec["shape"]) and all(a == b for a, b in sizes if isinstance(a, int))
            if value.type != TYPES[spec["dtype"]] or not fits:
                found = f"{what} {value.name!r} is a {value.type} {value.shape}"
                raise _error(file, found, f"{spec['dtype']} {spec['shape']}")


def _error(file: Path, found: str, wanted: str) -> BundleError:
    return BundleError(f"{file}: its {found}, and not {wanted} as bundle.json says; export it again")

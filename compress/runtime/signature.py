"""What a graph takes and gives, against what `bundle.json` says of it."""

from pathlib import Path

from compress.errors import BundleError
from compress.runtime.engines import Graph, Specs


def check_signature(file: Path, graph: Graph, inputs: Specs, outputs: Specs) -> None:
    """Raises BundleError where names, types, ranks or sizes differ. Sizes that the graph leaves open fit any."""
    for what, values, specs in (("input", graph.inputs, inputs), ("output", graph.outputs, outputs)):
        if sorted(values) != sorted(specs):
            raise _error(file, f"{what}s are {list(values)}", f"{list(specs)}")
        for name, value in values.items():
            found, wanted = value["shape"], specs[name]["shape"]
            fits = len(found) == len(wanted) and all(
                a == b for a, b in zip(found, wanted, strict=True) if isinstance(a, int)
            )
            if value["dtype"] != specs[name]["dtype"] or not fits:
                said = f"{what} {name!r} is {value['dtype']} {found}"
                raise _error(file, said, f"{specs[name]['dtype']} {wanted}")


def _error(file: Path, found: str, wanted: str) -> BundleError:
    return BundleError(f"{file}: its {found}, and not {wanted} as bundle.json says; export it again")

"""What is between the nodes of a graph while it runs."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir

from compress.runtime.engine import Engine, Feeds
from compress.runtime.engines import OnnxRuntime

NODE_BY_NODE = OnnxRuntime(optimized=False)


def shown(
    model: ir.Model,
    values: Iterable[ir.Value],
    feeds: Sequence[Feeds],
    engine: Engine = NODE_BY_NODE,
    scheme: str = "float",
) -> Iterator[dict[str, np.ndarray]]:
    """Inputs, outputs and `values` by name, whose types are known, at each of `feeds`. Changes `model`, which gives
    these values as well from then on.
    """
    known = {value.name for value in (*model.graph.inputs, *model.graph.outputs)}
    model.graph.outputs.extend({value.name: value for value in values if value.name not in known}.values())
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "shown.onnx")
        ir.save(model, file, external_data="weights.bin")
        graph = engine.open(file, 1, scheme)
        for given in feeds:
            yield {**given, **dict(zip(graph.outputs, graph.run(given), strict=True))}

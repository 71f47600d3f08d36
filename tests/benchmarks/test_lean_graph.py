"""A graph without one rewrite is the same function in more kernels or bytes."""

import numpy as np

from benchmarks import lean_graph
from tests.conftest import CLASS_CONFIG, assert_close_db, inputs_for, make_denoiser
from tests.onnx_graph.graphs import run


def test_every_rewrite_is_left_out_once() -> None:
    model = make_denoiser(CLASS_CONFIG)
    found = lean_graph.graphs(model)
    sample, timestep, conditions = inputs_for(model, 1)
    timestep.fill_(model.sampling.timesteps[1])
    feeds = {"sample": sample, "timestep": timestep, **conditions}
    outputs = {name: run(graph, **{k: v.numpy() for k, v in feeds.items()})[0] for name, graph in found.items()}
    nodes = {name: len(graph.graph.node) for name, graph in found.items()}
    assert len(found) == 3 + len(lean_graph.REWRITES)
    assert found[lean_graph.ALL] == found[lean_graph.AGAIN]
    for name in found:
        assert_close_db(outputs[lean_graph.ALL], outputs[name], lean_graph.LEAST_SQNR_DB["float"])
        assert name == lean_graph.OWN or nodes[name] >= nodes[lean_graph.ALL]
    assert nodes[lean_graph.OWN] < nodes[lean_graph.ALL]
    for name in ("merge_linears", "merge_affine"):  # the others find nothing in this small net
        assert nodes[f"without {name}"] > nodes[lean_graph.ALL], name


def test_the_table_has_a_line_for_every_row() -> None:
    row = {"ms": 2.0, "ratio": np.float64(1.05), "interval": (1.01, 1.09), "nodes": 10, "bytes": 12345}
    text = lean_graph.table({"digits float": {"title": "digits", "rows": {lean_graph.ALL: row, "without x": row}}})
    assert "| all rewrites | 2.00 |  | 10 | 12,345 |" in text
    assert "| without x | 2.00 | 1.050 (1.010 … 1.090) | 10 | 12,345 |" in text

"""`python -m benchmarks.lean_graph`: what each rewrite of an exported graph gains.

A net is exported once; each row is its graph without one rewrite, timed beside the graph with all of them, interleaved
in one run, two threads, batch 1. Outputs must be equal: bytes and kernels are all that a rewrite may change. Rows with
the nodes and bytes of the first are the same graph: what they differ by is the noise floor.
"""

import argparse
import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from benchmarks.bars import finish
from benchmarks.int8 import PAUSE, ROUNDS, THREADS
from benchmarks.peer_models import OPSET, SUBJECTS, context_of
from compress import terminal
from compress.families.unet.attention import channels_first
from compress.files import write_json, write_text
from compress.judge import quality
from compress.measure import latency
from compress.model.denoiser import Denoiser, example_inputs
from compress.onnx_graph.export import REWRITES, as_exported, lean
from compress.passes import quantize
from compress.runtime.engines import ONNXRUNTIME

RESULT = Path(__file__).parent / "results" / "lean_graph.json"
ALL, AGAIN = "all rewrites", "all rewrites, once more"
OWN = "all rewrites, and its own timesteps as a table"
NOTES = """\
- `pack_four_bits` is for `int4_weights`: here it has nothing to do.
- `fold_shapes`, `drop_ones`, `merge_pads` and `fold_constants` are rules of `simplify` since, which every row has.
- `quantize_early` (quantize before a Reshape or an upsampling) gained nothing, and is gone.
- Rows came in one order each round here, and the first suffers from it by 1 to 1.5%; since then the order is drawn anew
  each round and the graph with all rewrites is timed twice. A run like that met a machine so busy that the same graph
  differed from itself by 15%: it was thrown away.
- The model's own timesteps as a table (`export_onnx: {timesteps: own}`): 0.988 (0.976 … 0.996) of the time of the int8
  CIFAR-10 net, beside 1.004 (0.992 … 1.024) of the same graph once more, and 34,112,142 bytes for its 50 timesteps.
"""
LEAST_SQNR_DB = {"float": 100.0, "int8": 30.0}  # int8: a fold moves a few roundings by one level


def graphs(model: Denoiser) -> dict[str, onnx.ModelProto]:
    """By name, the lean graph with all rewrites and without each of them."""
    names = ["sample", "timestep", *model.inputs]
    with channels_first(model.net):
        raw = as_exported(model.module, example_inputs(model, 1), names, 1, OPSET)
    left_out: dict[str, Callable[..., int] | None] = {ALL: None, AGAIN: None}
    left_out |= {f"without {rewrite.__name__}": rewrite for rewrite in REWRITES}
    found = {name: lean(raw.clone(), rewrite) for name, rewrite in left_out.items()}
    found[OWN] = lean(raw.clone(), timesteps=sorted(map(int, model.sampling.timesteps)))
    return {name: ir.to_proto(graph) for name, graph in found.items()}


def measure(name: str, scheme: str) -> dict[str, Any]:
    """The rows of one net in one arithmetic. Raises AssertionError where outputs differ."""
    subject = SUBJECTS[name]
    model = subject.load()
    with tempfile.TemporaryDirectory() as folder:
        context = context_of(model, Path(folder))
        points = subject.points(model, context, subject.calibration)
        if scheme == "int8":
            model = quantize.quantized_at(model, quantize.Config(), context, points).model
    made = graphs(model)
    feeds = {key: value[:1].numpy() for key, value in zip(["sample", "timestep", *model.inputs], points, strict=True)}
    opened = {key: ONNXRUNTIME.open(graph.SerializeToString(), THREADS, scheme) for key, graph in made.items()}
    outputs = {key: graph.run(feeds)[0] for key, graph in opened.items()}
    for key, output in outputs.items():
        agreement = quality.sqnr(outputs[ALL], output)
        assert agreement >= LEAST_SQNR_DB[scheme], f"{name}, {scheme}, {key}: {agreement:.1f} dB"
    calls = {key: functools.partial(graph.run, feeds) for key, graph in opened.items()}
    taken = latency.interleaved(calls, ROUNDS[1], terminal.progress, f"{name}, {scheme}", PAUSE)
    rows = {}
    for key, graph in made.items():
        ratio, ends = latency.speedup(taken[key], taken[ALL])
        rows[key] = {
            "ms": float(np.median(taken[key])),
            "ratio": ratio,
            "interval": ends,
            "nodes": len(graph.graph.node),
            "bytes": graph.ByteSize(),
        }
    return {"title": f"{subject.title}, {scheme}", "rows": rows}


def table(found: dict[str, Any]) -> str:
    """Markdown: one table a net and arithmetic."""
    parts = ["# What each rewrite of the graph gains\n", (__doc__ or "").partition("\n\n")[2]]
    for one in found.values():
        parts.append(f"## {one['title']}\n\n| | ms | time ÷ all rewrites | nodes | bytes |\n|---|---:|---|---:|---:|")
        for key, row in one["rows"].items():
            low, high = row["interval"]
            ratio = "" if key == ALL else f"{row['ratio']:.3f} ({low:.3f} … {high:.3f})"
            parts.append(f"| {key} | {row['ms']:.2f} | {ratio} | {row['nodes']} | {row['bytes']:,} |")
        parts.append("")
    return "\n".join([*parts, f"{latency.processor()}, {THREADS} threads; 95% intervals.\n", NOTES])


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lean_graph", description=__doc__)
    parser.add_argument("--subjects", nargs="*", choices=list(SUBJECTS), default=list(SUBJECTS))
    parser.add_argument("--schemes", nargs="*", choices=["float", "int8"], default=["float", "int8"])
    asked = parser.parse_args()
    found: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    for name in asked.subjects:
        for scheme in asked.schemes:
            found[f"{name} {scheme}"] = measure(name, scheme)
            write_json(RESULT, found)
            write_text(RESULT.with_suffix(".md"), table(found))
    print(table(found))
    finish({})


if __name__ == "__main__":
    main()

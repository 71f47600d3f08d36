"""`python -m benchmarks.candidates`: files of other people's tools, and spoilt ones, judged by `verify --candidate`.

The U-Net of the emoji teacher as optimum-onnx exports it, that file in int8 by NNCF and by onnxruntime's quantizers,
each made in an environment of its own; and three of these files with a fault put in. Every fault should be named, and
nothing else found wrong. NNCF's file has one of its own: by default it rounds the timestep too, to a grid that ends at
574 of 999.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from benchmarks.bars import finish
from benchmarks.clients import CLIENTS
from benchmarks.peer_process import cache_folder, environment
from compress import terminal
from compress.files import write_json, write_npz, write_text
from compress.quantization.calibration import trajectory_points
from compress.recipe.inputs import Inputs, Options
from compress.recipe.recipe import Recipe, read
from compress.verify_candidate import verify_candidate

ROOT = Path(__file__).parents[1]
TEACHER = ROOT / "benchmarks" / "teachers" / "emoji"
RESULTS = ROOT / "benchmarks" / "results" / "candidates.json"
WORKER = Path(__file__).with_name("candidate_worker.py")
ENVIRONMENTS = {"optimum": CLIENTS["optimum"], "nncf": ("nncf==3.4.0", "onnx", "onnxruntime")}
POINTS = 32  # inputs to calibrate on


@dataclass(frozen=True)
class Made:
    """A tool's file. environment: where the tool runs; source: whose file it reads, by its name; None: the teacher.
    fault: the finding that it should lead to; None: it is sound."""

    tool: str
    environment: str
    source: str | None = "optimum-onnx"
    fault: str | None = None


TOOLS = {
    "optimum-onnx": Made("optimum", "optimum", None),
    "NNCF int8": Made("nncf", "nncf", fault="saturated_layer"),
    "onnxruntime quantize_static": Made("quantize_static", "optimum"),
    "onnxruntime quantize_dynamic": Made("quantize_dynamic", "optimum"),
}


def times(model: ir.Model, value: ir.Value, factor: float) -> None:
    """Multiply a value by a factor for all that read it."""
    uses = value.uses()
    known = ir.Value(name="factor", const_value=ir.tensor(np.float32(factor), name="factor"))
    model.graph.initializers.add(known)
    product = ir.node("Mul", [value, known])
    if (place := value.producer()) is None:
        model.graph.insert_before(model.graph[0], product)
    else:
        model.graph.insert_after(place, product)
    for node, index in uses:
        node.replace_input_with(index, product.outputs[0])


def saturate(model: ir.Model, place: int) -> str:
    """Make the scale of what a convolution reads ten times too small; the name of that convolution."""
    node = [node for node in model.graph if node.op_type == "Conv"][place]
    dequantize = node.inputs[0].producer()
    assert dequantize is not None and dequantize.op_type == "DequantizeLinear"
    quantize = dequantize.inputs[0].producer()
    assert quantize is not None and quantize.op_type == "QuantizeLinear"
    for scale in {each.inputs[1].name: each.inputs[1] for each in (quantize, dequantize)}.values():
        assert scale is not None and scale.const_value is not None
        scale.const_value = ir.tensor(scale.const_value.numpy() / np.float32(10), name=scale.name)
    return str(node.name)


def _input(name: str, factor: float) -> Callable[[ir.Model], object]:
    return lambda model: times(model, next(value for value in model.graph.inputs if value.name == name), factor)


# What is spoilt, how, and what the judge should find.
SPOILT: dict[str, tuple[str, Callable[[ir.Model], object], str]] = {
    "texts × 0.01 within the graph": (
        "optimum-onnx",
        _input("encoder_hidden_states", 0.01),
        "encoder_hidden_states_left",
    ),
    "timestep ÷ 1,000 within the graph": ("optimum-onnx", _input("timestep", 0.001), "timestep"),
    "a scale ten times too small": ("onnxruntime quantize_static", lambda model: saturate(model, 5), "saturated_layer"),
}


def _recipe(folder: Path) -> Recipe:
    content = {
        "name": "candidates",
        "checkpoint": str(TEACHER),
        "data": {"source": "teacher", "prompts": str(TEACHER / "prompts.txt"), "count": 12},
        "guidance": {"scale": 3.0},
        "sampling": {"solver": "dpmpp_2m", "steps": 10},
        "passes": [{"export_onnx": {}}, {"verify": {"gates": {"output_error": {"max": 0.1}}}}],
    }
    file = folder / "recipe.yaml"
    file.write_text(json.dumps(content), encoding="utf-8")
    return read(file)


def _calibration(recipe: Recipe, options: Options, folder: Path) -> Path:
    inputs = Inputs(recipe, options)
    model = inputs.teacher()
    points = trajectory_points(model, 8, POINTS, 1, inputs.dataset)
    file = folder / "calibration.npz"
    names = ("sample", "timestep", *model.inputs)
    write_npz(file, {name: value.numpy() for name, value in zip(names, points, strict=True)})
    return file


def _make(made: Made, source: Path, calibration: Path, target: Path) -> str:
    """Let a tool write its file; its version and those of what it stands on."""
    base = cache_folder().parent / "clients"
    python, versions = environment(made.environment, ENVIRONMENTS[made.environment], base)
    target.parent.mkdir()
    called = [str(python), "-I", str(WORKER), made.tool, str(source), str(calibration), str(target)]
    done = subprocess.run(called, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{made.tool}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return ", ".join(f"{name} {versions[name]}" for name in ("optimum-onnx", "nncf", "onnxruntime") if name in versions)


def make_all(folder: Path, recipe: Recipe, options: Options) -> dict[str, tuple[Path, str, str | None]]:
    """By its name each file, the versions that made it, and the finding that its fault is to be; None: it has none."""
    calibration = _calibration(recipe, options, folder)
    files: dict[str, tuple[Path, str, str | None]] = {}
    for name, made in TOOLS.items():
        file = folder / made.tool / "net.onnx"
        source = TEACHER if made.source is None else files[made.source][0]
        files[name] = file, _make(made, source, calibration, file), made.fault
    for number, (name, (whose, spoil, wanted)) in enumerate(SPOILT.items()):
        model = ir.load(files[whose][0])
        spoil(model)
        file = folder / f"spoilt-{number}.onnx"
        ir.save(model, file)
        files[f"{whose}, {name}"] = file, files[whose][1], wanted
    return files


def measure(files: dict[str, tuple[Path, str, str | None]], recipe: Recipe, options: Options) -> list[dict[str, Any]]:
    """A row for each file: what was found, and whether that is what is wrong with it."""
    rows = []
    for name, (file, versions, fault) in files.items():
        report = verify_candidate(file, str(TEACHER), recipe, (), options, None)
        found, said = [one.name for one in report.findings], [one.said for one in report.findings]
        rows.append(
            {
                "file": name,
                "versions": versions,
                "verdict": report.verdict,
                "found": found,
                "said": said,
                "right": found[:1] == ([] if fault is None else [fault]),
                "output_error": report.figures["output_error"].value,
                "guidance_ratio": report.figures["guidance_ratio"].value,
                "left": {condition: figure.value for condition, figure in report.left.items()},
            }
        )
        terminal.log(f"{name}: {report.verdict} {'; '.join(said)}")
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The page of results."""
    lines = [
        "# Files of other people's tools, judged",
        "",
        *(__doc__ or "").split("\n\n", 1)[1].splitlines(),
        "",
        "| file | verdict | relative output error | left of the text | found |",
        "|---|---|---:|---:|---|",
    ]
    for row in rows:
        left = row["left"]["encoder_hidden_states"]
        said = "; ".join(row["said"]) or "nothing"
        lines.append(f"| {row['file']} | {row['verdict']} | {row['output_error']:.3g} | {left:.3g} | {said} |")
    made = ", ".join(dict.fromkeys(part for row in rows for part in row["versions"].split(", ")))
    return "\n".join([*lines, "", f"The gate is a relative output error of at most 0.1. {made}.", ""])


def main() -> None:
    """Make the files, judge them, write the table; ends with 1 if one is judged wrongly."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        options, recipe = Options.on("cpu", terminal.progress, terminal.log), _recipe(Path(folder))
        rows = measure(make_all(Path(folder), recipe, options), recipe, options)
    report(rows)


def report(rows: list[dict[str, Any]]) -> None:
    """Write the table and hold it to its bar."""
    write_json(RESULTS, {"rows": rows})
    write_text(RESULTS.with_suffix(".md"), table(rows))
    finish({"candidates_misjudged": float(sum(not row["right"] for row in rows))})


if __name__ == "__main__":
    main()

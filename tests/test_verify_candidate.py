"""Files of other tools, sound ones and ones with a fault, each judged and the fault named."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from benchmarks.candidates import saturate, times
from compress.errors import BundleError, RecipeError
from compress.model.denoiser import example_inputs
from compress.model.reference import silent
from compress.onnx_graph.export import as_exported
from compress.pipeline import checkpoint
from compress.pipeline.manifest import input_names
from compress.recipe.inputs import Options
from compress.recipe.recipe import read
from compress.report.candidate import Candidate
from compress.verify_candidate import verify_candidate
from tests.command import compress
from tests.conftest import SHALLOW_CONFIG, TEXT_CONFIG, make_denoiser, read_json, write_recipe

Edit = Callable[[ir.Model], None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a teacher, its file and that file in int8, as onnxruntime's quantizer makes it."""
    folder = tmp_path_factory.mktemp("made")
    model = make_denoiser(SHALLOW_CONFIG)
    checkpoint.save(model, folder / "teacher")
    graph = as_exported(model.module, example_inputs(model, 2), input_names(model), None, opset=20)
    ir.save(graph, folder / "net.onnx")

    random = np.random.default_rng(0)
    feeds = [
        {
            "sample": random.standard_normal((4, 1, 8, 8), dtype=np.float32),
            "timestep": np.full(4, timestep),
            "class_labels": random.integers(0, 11, 4),
        }
        for timestep in (999, 749, 499, 249)
    ]

    class Calibration(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            return feeds.pop() if feeds else None

    int8 = folder / "int8.onnx"
    quantize_static(folder / "net.onnx", int8, Calibration(), quant_format=QuantFormat.QDQ, per_channel=True)
    return folder


def judged(made: Path, file: str = "net.onnx", edit: Edit = lambda model: None, *said: str) -> Candidate:
    """The report on a file after an edit."""
    model = ir.load(made / file)
    edit(model)
    changed = made / "changed.onnx"
    ir.save(model, changed)
    return verify_candidate(changed, str(made / "teacher"), None, said, options(), None)


def options() -> Options:
    return Options(torch.device("cpu"), silent, lambda _: None)


def read_by(model: ir.Model, name: str) -> ir.Value:
    """What the first node gives that reads an input of the graph."""
    return next(node for node in model.graph if name in {value.name for value in node.inputs if value}).outputs[0]


def test_a_sound_file_is_not_blamed(made: Path, tmp_path: Path) -> None:
    report = judged(made)
    assert report.verdict == "not judged" and not report.findings
    assert report.figures["output_error"].value < 1e-9
    assert {*report.left} == {"class_labels", "timestep"}
    assert all(abs(figure.value - 1) < 1e-3 for figure in report.left.values())
    done = compress(
        "verify", "--candidate", made / "net.onnx", "--teacher", made / "teacher", "--output", tmp_path, folder=made
    )
    assert done.returncode == 3 and "verdict: not judged" in done.stdout, done.stderr
    assert read_json(tmp_path / "candidate.json")["inputs"]["sample"] == "sample"


def test_int8_of_onnxruntimes_quantizer_is_not_blamed_and_gates_are_held(made: Path) -> None:
    gates = "{output_error: {max: 0.1}, bytes: {max: 1}}"
    passes = f"  - export_onnx: {{}}\n  - verify: {{gates: {gates}}}\n"
    recipe = read(write_recipe(made, f"name: one\ncheckpoint: teacher\npasses:\n{passes}"))
    report = verify_candidate(made / "int8.onnx", str(made / "teacher"), recipe, (), options(), None)
    assert report.verdict == "pass" and not report.findings
    assert {gate.name: gate.passed for gate in report.gates} == {
        "output_error": True,
        "bytes": None,
        "finite_output": True,
    }
    assert 1e-6 < report.figures["output_error"].value < 0.1 and report.figures["kernel_loss"].value < 1
    assert 0.8 < report.left["class_labels"].value < 1.2


def test_lost_guidance_is_named(made: Path) -> None:
    report = judged(made, "net.onnx", lambda model: times(model, read_by(model, "class_labels"), 0.01))
    assert report.findings[0].name == "class_labels_left" and report.verdict == "fail"
    assert 0 < report.findings[0].value < 0.1


def test_a_saturated_layer_is_named(made: Path) -> None:
    names: list[str] = []
    report = judged(made, "int8.onnx", lambda model: names.append(saturate(model, 2)))
    assert report.verdict == "fail" and report.findings[0].name == "saturated_layer"
    assert names[0] in report.findings[0].said


def float_time(model: ir.Model) -> ir.Value:
    return read_by(model, str(read_by(model, "timestep").name))


@pytest.mark.parametrize(("factor", "said"), [(0.001, "÷ 1,000"), (1000.0, "× 1,000")])
def test_a_scaled_timestep_is_named(made: Path, factor: float, said: str) -> None:
    report = judged(made, "net.onnx", lambda model: times(model, float_time(model), factor))
    assert [finding.name for finding in report.findings] == ["timestep"] and report.verdict == "fail"
    assert said in report.findings[0].said


def test_what_is_not_finite_is_named(made: Path) -> None:
    report = judged(made, "net.onnx", lambda model: times(model, read_by(model, "class_labels"), np.inf))
    assert [finding.name for finding in report.findings] == ["finite_output"] and report.verdict == "fail"
    assert report.gates[0].passed is False and "output_error" not in report.figures


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--candidate", "net.onnx", "bundle"), "give a bundle, or --candidate"),
        ((), "give a bundle, or --candidate"),
        (("bundle", "--inputs", "a=b"), "give a bundle, or --candidate"),
        (("--candidate", "net.onnx", "--inputs", "sample"), "--inputs sample: should be theirs=ours"),
        (("--candidate", "net.onnx", "--inputs", "x=sample"), "'x' is no input of net.onnx or of its teacher"),
        (("--candidate", "none.onnx"), "none.onnx: onnxruntime cannot open it"),
    ],
)
def test_bad_input_is_one_message(made: Path, words: tuple[str, ...], said: str) -> None:
    done = compress("verify", "--teacher", "teacher", *words, folder=made)
    assert done.returncode == 2 and done.stderr.count("error:") == 1 and said in done.stderr


TEXTS = """<ir_version: 10, opset_import: ["" : 20]>
net (float[b,4,8,8] sample, int64 timestep, float[b,5,12] encoder_hidden_states) => (float[b,4,8,8] out_sample) {
    out_sample = Identity(sample)
}"""


def test_texts_without_a_text_encoder_take_a_recipe(made: Path, tmp_path: Path) -> None:
    checkpoint.save(make_denoiser(TEXT_CONFIG), tmp_path / "teacher")
    teacher = str(tmp_path / "teacher")
    ir.save(ir.from_onnx_text(TEXTS), tmp_path / "net.onnx")
    with pytest.raises(RecipeError, match="takes encoder_hidden_states; name a recipe with --recipe"):
        verify_candidate(tmp_path / "net.onnx", teacher, None, (), options(), None)
    np.savez(tmp_path / "texts.npz", embeddings=np.random.default_rng(0).standard_normal((12, 5, 12), dtype=np.float32))
    data = "data: {source: teacher, embeddings: texts.npz}"
    recipe = read(write_recipe(tmp_path, f"name: one\ncheckpoint: teacher\n{data}\npasses:\n  - export_onnx: {{}}\n"))
    report = verify_candidate(tmp_path / "net.onnx", teacher, recipe, (), options(), None)
    assert {finding.name for finding in report.findings} == {"encoder_hidden_states_left", "timestep_left"}
    with pytest.raises(BundleError, match=r"found sample .*; expected, for each item, .*encoder_hidden_states real"):
        verify_candidate(made / "net.onnx", teacher, recipe, (), options(), None)

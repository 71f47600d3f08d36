"""A bundle verified on its own: by its own manifest and by the gates of the report beside it."""

import dataclasses
from pathlib import Path

import pytest
import torch

from compress import passes
from compress.errors import BundleError, OutputError, RecipeError, ReportError
from compress.files import write_json
from compress.folders import alone
from compress.model.reference import silent
from compress.pipeline import checkpoint
from compress.recipe.inputs import Options
from compress.report.parts import Decision
from compress.report.report import read
from compress.verify_bundle import verify_bundle
from tests import sample_report
from tests.conftest import TEXT_CONFIG, UNCONDITIONAL_CONFIG, make_context, make_denoiser, read_json


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, str]:
    """(result folder with a bundle, its teacher)."""
    teacher = make_denoiser(UNCONDITIONAL_CONFIG, scale=None)
    checkpoint.save(teacher, tmp_path / "teacher")
    context = dataclasses.replace(make_context(teacher, tmp_path), data=None)
    exporter = passes.module("export_onnx")
    exporter.run(teacher, exporter.Config(), context)
    return tmp_path / "files", str(tmp_path / "teacher")


def options() -> Options:
    return Options(torch.device("cpu"), silent, lambda _: None)


def beside(folder: Path, gates: tuple[Decision, ...], paired: int, count: int) -> None:
    """An earlier report beside the bundle."""
    reference = sample_report.full().reference.model_copy(update={"paired": paired, "count": count})
    sample_report.but(sample_report.full(), gates=gates, reference=reference).write(folder)


def test_gates_and_counts_are_those_of_the_report_beside_it(made: tuple[Path, str], tmp_path: Path) -> None:
    folder, teacher = made
    gates = (
        sample_report.gate("psnr", "min", 40.0, 50.0, 49.0),
        sample_report.gate("bytes", "max", 0.01, 1.0, 1.0, False),
    )
    beside(folder, gates, paired=20, count=30)
    report = verify_bundle(folder, teacher, None, tmp_path / "out", options())
    assert [(gate.name, gate.limit, gate.passed) for gate in report.gates if not gate.always] == [
        ("psnr", 40, True),
        ("bytes", 0.01, False),
    ]
    assert report.verdict == "fail"
    assert report.reference.paired == 20 and report.reference.count == 30
    assert not report.stages and report.quantization is None
    assert read(tmp_path / "out") == report


@pytest.mark.parametrize("content", ["not json", "[" * 100_000, "[]", '{"format": 4, "gates": 7}'])
def test_damaged_report_is_named(made: tuple[Path, str], tmp_path: Path, content: str) -> None:
    folder, teacher = made
    (folder / "report.json").write_text(content)
    with pytest.raises(ReportError, match=r"report\.json: is damaged \((?!.*pydantic).*, with --recipe"):
        verify_bundle(folder, teacher, None, tmp_path / "out", options())


@pytest.mark.parametrize(("gate", "said"), [("beauty", "gates.beauty"), ("kid", "at least 640 samples")])
def test_a_report_of_gates_that_cannot_be_held_is_named(
    made: tuple[Path, str], tmp_path: Path, gate: str, said: str
) -> None:
    folder, teacher = made
    beside(folder, (sample_report.gate(gate, "min", 1.0, 1.0, 1.0),), paired=20, count=20)
    with pytest.raises(ReportError, match=rf"report\.json: is damaged \(.*{said}.*name the bundle's recipe"):
        verify_bundle(folder, teacher, None, tmp_path / "out", options())


def test_a_bundle_that_does_not_hold_its_texts_names_its_recipe(tmp_path: Path) -> None:
    teacher = make_denoiser(TEXT_CONFIG)
    checkpoint.save(teacher, tmp_path / "teacher")
    exporter = passes.module("export_onnx")
    exporter.run(teacher, exporter.Config(), make_context(teacher, tmp_path))
    with pytest.raises(RecipeError, match=r"takes encoder_hidden_states, .* name its recipe with --recipe"):
        verify_bundle(tmp_path / "files", str(tmp_path / "teacher"), None, tmp_path / "out", options())


def test_gates_that_always_hold_are_not_the_recipes(made: tuple[Path, str], tmp_path: Path) -> None:
    """They are held again by today's limits, and without one on quality nothing was judged."""
    folder, teacher = made
    always = sample_report.gate("sampling_error", "max", 5.0, 0.0, 0.0).model_copy(update={"always": True})
    beside(folder, (sample_report.ALWAYS[1], always), paired=20, count=20)
    report = verify_bundle(folder, teacher, None, tmp_path / "out", options())
    assert [(gate.name, gate.limit, gate.passed, gate.always) for gate in report.gates] == [
        ("finite_output", 1.0, True, True),
        ("listed_files", 1.0, True, True),
        ("sampling_error", 1e-5, True, True),
    ]
    assert report.verdict == "not judged"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"teacher_sampling": {"steps": "many"}}, "bundle.json: is damaged: sampling.steps"),
        ({"teacher_sampling": {"stepz": 3}}, "bundle.json: is damaged: sampling.stepz"),
        ({"name": ""}, "bundle.json: is damaged: name"),
    ],
)
def test_what_the_manifest_says_of_its_recipe_is_checked(
    made: tuple[Path, str], tmp_path: Path, change: dict, said: str
) -> None:
    folder, teacher = made
    file = folder / "onnx" / "bundle.json"
    write_json(file, read_json(file) | change)
    with pytest.raises(BundleError, match=said):
        verify_bundle(folder, teacher, None, tmp_path, options())


def test_a_second_run_in_the_same_folder_is_refused(made: tuple[Path, str], tmp_path: Path) -> None:
    folder, teacher = made
    (tmp_path / "out").mkdir()
    with alone(tmp_path / "out"), pytest.raises(OutputError, match="another run is at work in it"):
        verify_bundle(folder, teacher, None, tmp_path / "out", options())
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]


def test_a_folder_that_cannot_be_made_is_named(made: tuple[Path, str], tmp_path: Path) -> None:
    folder, teacher = made
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/out: cannot be written"):
        verify_bundle(folder, teacher, None, tmp_path / "file" / "out", options())

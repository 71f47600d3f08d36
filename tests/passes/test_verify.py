"""`verify` from end to end on tiny models: the teacher itself passes and is not told apart; faults are."""

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from compress import data, passes
from compress.contract import Finished
from compress.data import Digits
from compress.errors import BundleError, CompressError, VerifyError
from compress.files import write_json
from compress.judge import baseline, cost
from compress.measure import fastest
from compress.model import reference
from compress.model.denoiser import Denoiser
from compress.pages import findings, targets
from compress.pages.publish import write_page
from compress.report.report import Report, read
from compress.runtime import Bundle
from compress.runtime.engines import ONNXRUNTIME, OpenVino
from tests.conftest import CLASS_CONFIG, SHALLOW_CONFIG, TEXT_CONFIG, UNCONDITIONAL_CONFIG, make_context, make_denoiser

EXPORT, VERIFY = passes.module("export_onnx"), passes.module("verify")
COUNT = 720
GATES = {
    "psnr": {"min": 50},
    "output_error": {"max": 1e-6},
    "sampling_error": {"max": 1e-6},
    "guidance_ratio": {"min": 0.99, "max": 1.01},
    "kid": {"max": 0.2},
    "coverage": {"min": 0.6},
    "class_variance": {"min": 0.8},
}


def exported(model: Denoiser, folder: Path) -> Bundle:
    context = make_context(model, folder)
    return EXPORT.run(model, EXPORT.Config(), context).model


def judged(bundle: Bundle, teacher: Denoiser, folder: Path, allow_pickle: bool = False, **settings: Any) -> Report:
    context = dataclasses.replace(make_context(teacher, folder), allow_pickle=allow_pickle)
    config = VERIFY.Config.model_validate({"rounds": 10, "batches": [2], "starts": 0, "judge_accuracy": 0, **settings})
    VERIFY.run(bundle, config, context)
    return read(folder / "files")


@pytest.fixture(scope="module")
def of_itself(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("itself")
    teacher = make_denoiser(CLASS_CONFIG)
    return judged(
        exported(teacher, folder / "export"),
        teacher,
        folder,
        samples=COUNT,
        gates=GATES,
        guidance_scales=[1, 3],
        starts=1,
    )


def test_teacher_itself_passes_and_nothing_is_resolved(of_itself: Report) -> None:
    assert of_itself.verdict == "pass"
    own = [gate.name for gate in of_itself.gates if not gate.always]
    assert own == [name for name, limits in GATES.items() for _ in limits]
    always = {gate.name: gate.passed for gate in of_itself.gates if gate.always}
    assert always == {"finite_output": True, "listed_files": True}  # of the sampling error the recipe's is stricter
    figures = {name: figure for name, figure in of_itself.quality.items() if name != "classifier_accuracy"}
    assert set(figures) >= {"psnr", "ssim", "class_agreement", "class_accuracy", "output_error", "guidance_ratio"}
    figures |= {f"{space} {name}": figure for name, space, figure in of_itself.figures() if space}
    assert {"classifier frechet", "pixels kid", "pixels coverage", "pixels vendi"} <= set(figures)
    assert {name: figure.resolved for name, figure in figures.items()} == dict.fromkeys(figures, False)
    assert "not told apart" in findings.summary(of_itself)
    assert all(of_itself.agreement.values())


def test_report_holds_what_it_promises(of_itself: Report) -> None:
    assert of_itself.ratios["params"].value == of_itself.ratios["macs"].value == 1
    units = {(row.side, row.engine, row.scheme, row.unit, row.batch) for row in of_itself.latency}
    runs = [("teacher", "PyTorch", "float"), ("teacher", "onnxruntime", "float"), ("student", "onnxruntime", "float")]
    assert units == {(*run, *how) for run in runs for how in (("call", 1), ("guided call", 1), ("call", 2))}
    assert not of_itself.failed, "torch.compile was not asked for"
    for row in of_itself.process:
        assert row.cold_start_s > 0 and row.peak_memory_bytes > 1e7
    assert len(of_itself.probe) == 4
    variance = of_itself.guidance["variance"]
    assert [point.scale for point in variance] == [1, 3]
    assert [p.teacher.value for p in variance] == pytest.approx([p.student.value for p in variance], rel=1e-3)
    assert of_itself.reference.count == of_itself.reference.paired == COUNT


def altered(bundle: Bundle, folder: Path, change: Any) -> Bundle:
    """A copy of a bundle with its manifest changed."""
    manifest = {**bundle.manifest}
    change(manifest)
    shutil.copytree(bundle.path, folder)
    write_json(folder / "bundle.json", manifest)
    return Bundle(folder)


def test_other_guidance_is_found_and_blamed(tmp_path: Path) -> None:
    teacher = make_denoiser(SHALLOW_CONFIG)

    def stronger(manifest: dict[str, Any]) -> None:
        guidance = {**manifest["sampling"]["guidance"], "scale": 2.5}
        manifest["sampling"] = {**manifest["sampling"], "guidance": guidance}

    bundle = altered(exported(teacher, tmp_path / "export"), tmp_path / "altered", stronger)
    report = judged(bundle, teacher, tmp_path, samples=20, gates={"guidance_ratio": {"max": 1.1}})
    assert report.verdict == "fail"
    figure = report.quality["guidance_ratio"]
    assert figure.value == pytest.approx(1.25, abs=1e-3) and figure.resolved


def test_swapped_timesteps_are_found(tmp_path: Path) -> None:
    teacher = make_denoiser(SHALLOW_CONFIG)

    def swap(manifest: dict[str, Any]) -> None:
        steps = [dict(step) for step in manifest["sampling"]["steps"]]
        steps[1]["timestep"], steps[2]["timestep"] = steps[2]["timestep"], steps[1]["timestep"]
        manifest["sampling"] = {**manifest["sampling"], "steps": steps}

    bundle = altered(exported(teacher, tmp_path / "export"), tmp_path / "altered", swap)
    gates = {"worst_timestep_error": {"max": 1e-6}, "sampling_error": {"max": 1e-3}, "kernel_loss": {"max": 0.5}}
    report = judged(bundle, teacher, tmp_path, samples=20, gates=gates)
    assert report.verdict == "fail"
    found = {gate.name: gate.passed for gate in report.gates}
    assert found.pop("kernel_loss") is None, "no recipe, no simulated model"
    assert found == {
        "worst_timestep_error": False,
        "sampling_error": False,
        "finite_output": True,
        "listed_files": True,
    }
    error = [point.error for point in report.probe]
    assert min(error[1], error[2]) > 1000 * max(error[0], error[3])


def test_noised_weights_are_told_apart_everywhere(tmp_path: Path) -> None:
    teacher, student = make_denoiser(SHALLOW_CONFIG), make_denoiser(SHALLOW_CONFIG)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        weight = student.net.conv_out.weight
        weight.add_(weight.std() * torch.randn(weight.shape, generator=random))
    report = judged(
        exported(student, tmp_path / "export"), teacher, tmp_path, samples=COUNT, gates={"kid": {"max": 0.01}}
    )
    assert report.verdict == "fail"
    assert report.quality["output_error"].resolved
    assert all(space.metrics["kid"].resolved for space in report.spaces.values() if space.enough)


def test_unpaired_student_is_judged_without_pairs(tmp_path: Path) -> None:
    teacher = make_denoiser(SHALLOW_CONFIG)

    def unpair(manifest: dict[str, Any]) -> None:
        manifest["paired"] = False

    bundle = altered(exported(teacher, tmp_path / "export"), tmp_path / "altered", unpair)
    report = judged(bundle, teacher, tmp_path, samples=20, gates={"psnr": {"min": 1000}, "bytes": {"max": 2}})
    assert report.verdict == "not judged", "the only gate on quality means nothing"
    left_out, held, *_ = report.gates
    assert "does not map noise" in (left_out.reason or "") and left_out.passed is None
    assert held.passed
    assert "psnr" not in report.quality and "class_accuracy" in report.quality
    assert report.unmeasured["psnr"] == left_out.reason


def test_real_images_give_a_ratio_and_memorisation(tmp_path: Path) -> None:
    teacher = make_denoiser({**SHALLOW_CONFIG, "sample_size": 16})
    bundle = exported(teacher, tmp_path / "export")
    context = dataclasses.replace(make_context(teacher, tmp_path), data=Digits(source="digits"))
    context = dataclasses.replace(context, dataset=lambda: data.load(Digits(source="digits"), (1, 16, 16), 10))
    VERIFY.run(bundle, VERIFY.Config(samples=COUNT, rounds=10, batches=(), starts=0), context)
    metrics = read(tmp_path / "files").spaces["pixels"].metrics
    assert metrics["frechet_ratio"].value == pytest.approx(1, abs=1e-3)  # noise is far from digits
    assert metrics["frechet_real"].value > 1 and metrics["frechet_real"].resolved is False
    assert metrics["memorised"].value == 0 and not metrics["memorised"].resolved


def test_unconditional_model_is_judged_without_classes(tmp_path: Path) -> None:
    teacher = make_denoiser(UNCONDITIONAL_CONFIG, scale=None)
    report = judged(exported(teacher, tmp_path / "export"), teacher, tmp_path, samples=20, gates={"psnr": {"min": 50}})
    assert report.verdict == "pass"
    assert "class_agreement" not in report.quality and not report.by_class and not report.guidance
    with pytest.raises(VerifyError, match="no labels"):
        judged(
            exported(teacher, tmp_path / "again"), teacher, tmp_path, samples=20, gates={"class_accuracy": {"min": 0}}
        )


def test_own_feature_extractor_is_a_space_of_its_own(tmp_path: Path) -> None:
    teacher = make_denoiser(UNCONDITIONAL_CONFIG, scale=None)
    torch.manual_seed(0)
    extractor = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
    torch.jit.script(extractor).save(str(tmp_path / "mine.pt"))
    bundle = exported(teacher, tmp_path / "export")
    with pytest.raises(CompressError, match=r"mine\.pt: is TorchScript, a program that is run"):
        judged(bundle, teacher, tmp_path / "untrusted", samples=80, features=[tmp_path / "mine.pt"])
    report = judged(bundle, teacher, tmp_path, allow_pickle=True, samples=80, features=[tmp_path / "mine.pt"])
    mine, random = report.spaces["mine.pt"], report.spaces["random"]
    assert mine.enough and mine.dimension == 4 and mine.metrics["kid"].resolved is False
    assert not random.enough and not random.metrics


def test_passes_are_blamed(tmp_path: Path) -> None:
    teacher, worse = make_denoiser(SHALLOW_CONFIG), make_denoiser(SHALLOW_CONFIG, seed=7)
    quantize = passes.module("quantize")
    context = make_context(worse, tmp_path / "q")
    quantized = quantize.run(worse, quantize.Config(samples=4, evaluations=20), context).model
    bundle = EXPORT.run(quantized, EXPORT.Config(), context).model
    context = dataclasses.replace(
        make_context(teacher, tmp_path),
        finished=(
            Finished("train", "train", lambda: worse),
            Finished("quantize", "quantize", lambda: quantized),
            Finished("export_onnx", "export_onnx", lambda: bundle),
        ),
    )
    VERIFY.run(bundle, VERIFY.Config(samples=20, rounds=10, batches=(), starts=0), context)
    report = read(tmp_path / "files")
    rows = {row.kind: row for row in report.stages}
    assert list(rows) == ["teacher", "train", "quantize", "export_onnx"]
    assert rows["teacher"].output_error == 0 and (rows["train"].output_error or 0) > 0.1
    assert rows["quantize"].ms_per_call is None and (rows["export_onnx"].ms_per_call or 0) > 0
    assert [row.runtime for row in report.stages] == [
        "PyTorch fp32", "PyTorch fp32", "PyTorch, simulated int8", "onnxruntime int8",
    ]  # fmt: skip
    assert report.quantization is not None and report.quantization.kernels_sqnr_db > 15
    loss = report.quantization.simulated_sqnr_db - report.quantization.kernels_sqnr_db
    assert abs(loss) < 3 and report.quality["kernel_loss"].value == pytest.approx(loss, abs=0.05)


def test_too_few_samples_for_a_gate_are_refused_at_once() -> None:
    with pytest.raises(ValidationError, match="at least 640"):
        VERIFY.Config(samples=300, gates={"kid": {"max": 1}})
    VERIFY.Config(samples=640, gates={"kid": {"max": 1}})


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gates": {"attribute_agreement": {"min": 0.9}}}, "needs `attributes`, a classifier"),
        ({"gates": {"attribute_accuracy": {"margin": 0}}, "attributes": "a.onnx", "prompts": "a.txt"}, "a .jsonl"),
        ({"gates": {"alignment": {"margin": 0.02}}, "prompts": "a.txt"}, "needs `alignment`, a model of texts"),
        ({"alignment": "clip"}, "alignment needs `prompts`"),
    ],
)
def test_judges_that_are_not_named_are_asked_for_at_once(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        VERIFY.Config.model_validate(settings)


def test_forecast_counts_only_what_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    model = make_denoiser(SHALLOW_CONFIG)
    bundle, context = exported(model, tmp_path), make_context(model, tmp_path)
    truly, missing = VERIFY.predicted.seconds, []

    def noted(teacher: Denoiser, around: Any, bundle: Bundle, wanted: Any, *more: Any) -> float:
        missing.append(wanted.missing)
        return float(truly(teacher, around, bundle, wanted, *more))

    monkeypatch.setattr(VERIFY.predicted, "seconds", noted)

    def predicted(count: int) -> float:
        return float(VERIFY.forecast(bundle, VERIFY.Config(samples=count, reference=count), context).seconds)

    assert 0 < 3 * predicted(1000) < predicted(100_000)
    drawer = reference.Drawer(baseline.drawer_name(model), lambda model, noise, *_: noise)
    reference.draw_kept(model, 1200, context.seed, context.dataset, reference.silent, "", drawer)
    predicted(1000)
    predicted(500)
    assert missing == [2000, 200_000, 800, 0]


def test_a_few_step_student_is_judged_by_its_samples(tmp_path: Path) -> None:
    """One evaluation of it is none of the teacher's, so that what compares evaluations is left out, with the reason."""
    teacher = make_denoiser(SHALLOW_CONFIG, steps=4)
    steps, quantize = passes.module("distill_steps"), passes.module("quantize")
    context = make_context(teacher, tmp_path / "made")
    settings = {"sampling_steps": [2], "steps": 3, "batch_size": 8, "trajectories": 20}
    few = steps.run(teacher, steps.Config.model_validate(settings), context).model
    small = quantize.run(few, quantize.Config(samples=4, evaluations=20), context).model
    bundle = EXPORT.run(small, EXPORT.Config(sampler=True, batch=1), context).model
    context = make_context(teacher, tmp_path / "judged")
    before = [Finished("few", "distill_steps", lambda: few), Finished("int8", "quantize", lambda: small)]
    stages = [*before, Finished("onnx", "export_onnx", lambda: bundle)]
    gates = {"output_error": {"max": 0.1}, "image_speedup": {"min": 0.001}, "kernel_loss": {"max": 100}}
    config = VERIFY.Config.model_validate(
        {"rounds": 10, "batches": [], "starts": 0, "judge_accuracy": 0, "samples": 20, "gates": gates}
    )
    VERIFY.run(bundle, config, dataclasses.replace(context, finished=stages))
    report = read(context.output)
    found = {gate.name: gate for gate in report.gates}
    assert found["output_error"].passed is None and "does the work of several" in (found["output_error"].reason or "")
    assert found["kernel_loss"].passed and "output_error" not in report.quality and not report.probe
    assert report.quality["psnr"].value > 0
    (whole,) = (row for row in report.latency if row.unit == "whole image")
    (guided,) = (row for row in report.latency if row.unit == "guided call" and row.engine == "PyTorch")
    assert whole.side == "student" and whole.scheme == "int8" and guided.side == "teacher"
    assert whole.speedup == pytest.approx(4 * guided.ms / whole.ms)
    assert report.ratios["image_speedup"].value == pytest.approx(whole.speedup)
    errors = {row.name: row.output_error for row in report.stages}
    assert errors["teacher"] == 0 and errors["few"] is None and errors["onnx"] is None


def test_a_baked_student_has_no_guidance_response_and_says_so(tmp_path: Path) -> None:
    teacher = make_denoiser(SHALLOW_CONFIG)
    guidance = teacher.sampling.guidance.model_copy(update={"kind": "baked"})
    baked = dataclasses.replace(teacher, sampling=teacher.sampling.model_copy(update={"guidance": guidance}))
    bundle = EXPORT.run(baked, EXPORT.Config(), make_context(teacher, tmp_path / "made")).model
    said: list[str] = []
    context = dataclasses.replace(make_context(teacher, tmp_path / "judged"), log=said.append)
    config = VERIFY.Config(rounds=10, batches=(), starts=0, judge_accuracy=0, samples=20, guidance_scales=(1.0, 2.0))
    VERIFY.run(bundle, config, context)
    assert not read(context.output).guidance
    assert any("knows the scale 2.0 alone" in line for line in said)


def test_samples_that_are_not_finite_fail_and_the_report_says_so(tmp_path: Path) -> None:
    teacher = make_denoiser(SHALLOW_CONFIG)

    def overflow(manifest: dict[str, Any]) -> None:
        *steps, before, last = manifest["sampling"]["steps"]
        huge = [{**step, "next_from_clean": 1e30, "next_from_sample": 1e30} for step in (before, last)]
        manifest["sampling"] = {**manifest["sampling"], "steps": [*steps, *huge]}

    bundle = altered(exported(teacher, tmp_path / "export"), tmp_path / "altered", overflow)
    gates = {"psnr": {"min": 1}, "kid": {"max": 1}, "bytes": {"max": 2}}
    report = judged(bundle, teacher, tmp_path, samples=640, gates=gates, guidance_scales=[1.0])
    assert report.verdict == "fail"
    found = {gate.name: gate for gate in report.gates}
    assert [name for name, gate in found.items() if gate.passed is False] == ["finite_output"]
    assert (found["finite_output"].value or 0) < 1 and found["bytes"].passed
    assert found["psnr"].reason == found["kid"].reason == "not every sample of the student is finite"
    assert set(report.quality) == {"sampling_error", "classifier_accuracy"} and not report.spaces
    write_page(tmp_path / "files", report, [], tmp_path / "files" / "samples.npz")
    text = (tmp_path / "files" / "report.html").read_text(encoding="utf-8")
    assert "gate finite samples, share fails" in text and "data:image/png" in text


def test_a_file_changed_while_it_was_judged_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = make_denoiser(UNCONDITIONAL_CONFIG, scale=None)
    bundle = exported(teacher, tmp_path / "export")
    measured = cost.measure

    def meddling(*given: Any) -> cost.Costs:
        with (bundle.path / "denoiser.onnx").open("ab") as file:
            file.write(b"more")
        return measured(*given)

    monkeypatch.setattr(cost, "measure", meddling)
    report = judged(bundle, teacher, tmp_path, samples=20, gates={"psnr": {"min": 1}})
    assert report.verdict == "fail"
    assert [gate.name for gate in report.gates if gate.passed is False] == ["listed_files"]


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"samples": 200}, 30),
        ({"samples": 20}, 20),
        ({"samples": 640}, 640),
        ({"samples": 200, "reference": 100}, 100),
        ({"samples": 200, "few_steps": [5]}, 200),
    ],
)
def test_no_references_are_drawn_that_nothing_reads(settings: dict[str, Any], count: int) -> None:
    assert VERIFY.Config.model_validate(settings).references == count


def test_kernels_of_weights_alone_are_held_to_their_simulation(tmp_path: Path) -> None:
    model = make_denoiser({**TEXT_CONFIG, "block_out_channels": [32, 64]})
    quantize, context = passes.module("quantize"), make_context(model, tmp_path / "q")
    quantized = quantize.run(model, quantize.Config(scheme="int4_weights"), context).model
    bundle = EXPORT.run(quantized, EXPORT.Config(), context).model
    finished = (
        Finished("quantize", "quantize", lambda: quantized),
        Finished("export_onnx", "export_onnx", lambda: bundle),
    )
    context = dataclasses.replace(make_context(model, tmp_path), finished=finished)
    VERIFY.run(bundle, VERIFY.Config(samples=20, rounds=10, batches=(), starts=0), context)
    report = read(tmp_path / "files")
    (gate,) = (gate for gate in report.gates if gate.name == "kernel_loss")
    assert gate.passed and abs(gate.value or 1) < 0.01 and report.quality["kernel_loss"].value == gate.value


def test_an_engine_is_named_or_the_fastest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastest, "installed", lambda: {"onnxruntime": ONNXRUNTIME, "openvino": OpenVino()})
    monkeypatch.setitem(sys.modules, "openvino", None)
    teacher = make_denoiser({**SHALLOW_CONFIG, "num_class_embeds": None}, scale=None)
    bundle = exported(teacher, tmp_path / "export")
    report = judged(bundle, teacher, tmp_path, engine="fastest", samples=10)
    assert isinstance(report.engines["onnxruntime"], float) and "pip install" in str(report.engines["openvino"])
    assert {row.engine for row in report.latency if row.side == "student"} == {"onnxruntime"}
    assert "left out: openvino: cannot be imported" in str(targets.engines(report).rows)
    with pytest.raises(ValidationError, match="onnxruntime:steam: is no engine"):
        VERIFY.Config(engine="onnxruntime:steam")
    with pytest.raises(BundleError, match=r"onnxruntime:cuda: onnxruntime has no CUDA.* install a build that has it"):
        VERIFY.forecast(bundle, VERIFY.Config(engine="onnxruntime:cuda"), make_context(teacher, tmp_path))

"""Files for OpenVINO and for NPUs: bundles that draw the same, are judged, and are named for what they are worth."""

import importlib.util
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from compress import targets
from compress.contract import PassResult
from compress.errors import BundleError, TargetError
from compress.judge.quality import sqnr
from compress.model.denoiser import Denoiser
from compress.pages.publish import publish
from compress.passes import export_onnx, quantize, verify
from compress.pipeline.manifest import vouch
from compress.runtime import Bundle
from compress.runtime.qnn import Qnn
from compress.targets.needs import Needs
from tests.conftest import CLASS_CONFIG, FLOW, SHALLOW_CONFIG, make_context, make_denoiser, read_json
from tests.families.dit.models import transformer

ALL = ("onnxruntime", "openvino", "npu", "npu_int8")
HERE = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not HERE, reason="openvino is not installed")
QNN = importlib.util.find_spec("onnxruntime_qnn") is not None
needs_qnn = pytest.mark.skipif(not QNN, reason="onnxruntime-qnn is not installed")


@pytest.fixture(scope="module")
def model() -> Denoiser:
    return make_denoiser(CLASS_CONFIG)


@pytest.fixture(scope="module")
def made(model: Denoiser, tmp_path_factory: pytest.TempPathFactory) -> PassResult[Bundle]:
    folder = tmp_path_factory.mktemp("targets")
    config = quantize.Config(samples=4, evaluations=40)
    int8 = quantize.run(model, config, make_context(model, folder / "quantize")).model
    return export_onnx.run(int8, export_onnx.Config(targets=ALL), make_context(model, folder / "export"))


def drawn(bundle: Bundle) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((2, *bundle.sample_shape), np.float32)
    return bundle.sample(noise, class_labels=np.array([1, 7]))


def folders(made: PassResult[Bundle]) -> dict[str, Path]:
    return {name: folder for name, folder, _ in targets.beside(made.model)}


def test_each_is_a_bundle_that_draws_the_same(made: PassResult[Bundle], model: Denoiser, tmp_path: Path) -> None:
    found = folders(made)
    assert list(found) == ["openvino", "npu", "npu_int8"]
    float_bundle = export_onnx.run(model, export_onnx.Config(), make_context(model, tmp_path)).model
    wanted = drawn(float_bundle)
    for name, least in {"openvino": 20, "npu": 26, "npu_int8": 18}.items():
        assert sqnr(wanted, drawn(Bundle(found[name]))) > least, name
    assert found["npu"].joinpath("denoiser.onnx").stat().st_size < float_bundle.size_bytes / 2


def test_what_is_for_npus_has_fixed_sizes_and_its_own_timesteps(made: PassResult[Bundle]) -> None:
    for name in ("npu", "npu_int8"):
        bundle = Bundle(folders(made)[name])
        assert bundle.batch == 1 and bundle.graph.inputs["sample"]["shape"] == [1, 1, 8, 8]
        assert bundle.timesteps == sorted({int(step.timestep) for step in bundle.steps})
        with pytest.raises(BundleError, match="answers at its own timesteps alone"):
            bundle.denoise(np.zeros((1, 1, 8, 8), np.float32), 1, {"class_labels": np.array([0])})


def test_the_record_says_what_was_found(made: PassResult[Bundle]) -> None:
    notes: Mapping[str, Any] = made.notes
    assert notes["npu"]["sqnr_to_float_db"] > 26 > notes["npu_int8"]["sqnr_to_float_db"] > 18
    assert "refused" not in notes["npu"] and "refused" not in notes["npu_int8"]
    for name, least in {"npu": 50, "npu_int8": 15}.items():  # of Qualcomm's simulator to onnxruntime
        if QNN:
            assert notes[name]["qnn_sqnr_db"] > least
        else:
            assert notes[name]["run"].startswith("converted, not run: onnxruntime_qnn: cannot be imported")


def test_a_transformer_of_patches_is_refused_by_nobody(tmp_path: Path) -> None:
    model = transformer()
    config = export_onnx.Config(targets=("onnxruntime", "npu", "npu_int8"))
    notes = export_onnx.run(model, config, make_context(model, tmp_path)).notes
    for name, least, simulated in (("npu", 20, 50), ("npu_int8", 15, 20)):
        assert "refused" not in notes[name] and notes[name]["sqnr_to_float_db"] > least
        assert not QNN or notes[name]["qnn_sqnr_db"] > simulated


def test_no_whole_numbers_are_read_on_two_grids(made: PassResult[Bundle]) -> None:
    """Norms whose factors are all alike in bytes are not: a compiler that knows each constant once takes one scale."""
    for name in ("npu", "npu_int8"):
        graph = ir.load(folders(made)[name] / "denoiser.onnx").graph
        read = [node.inputs[0] for node in graph if node.op_type == "DequantizeLinear"]
        constants = [value.name for value in read if value is not None and value.const_value is not None]
        assert len(constants) > 50 and len(set(constants)) == len(constants)


@needs_qnn
def test_what_is_as_large_as_a_net_is_computed_rightly(tmp_path: Path) -> None:
    """Swish in 16 bits is wrong in Qualcomm's own operator from some thousand numbers on."""
    model = make_denoiser({**CLASS_CONFIG, "sample_size": 16, "block_out_channels": [32, 32]})
    for norm in (one for one in model.net.modules() if isinstance(one, torch.nn.GroupNorm)):
        torch.nn.init.uniform_(norm.weight, 0.8, 1.2)
        torch.nn.init.normal_(norm.bias, std=0.1)
    config = export_onnx.Config(targets=("onnxruntime", "npu"))
    assert export_onnx.run(model, config, make_context(model, tmp_path)).notes["npu"]["qnn_sqnr_db"] > 50


@needs_openvino
def test_openvino_is_held_against_the_model(made: PassResult[Bundle]) -> None:
    found = made.notes["openvino"]
    assert found["sqnr_to_float_db"] > found["simulated_sqnr_to_float_db"] - 1
    assert found["engine"].startswith("openvino 20")


def test_without_the_engine_it_is_converted_and_not_run(
    model: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("openvino", "onnxruntime_qnn"):
        monkeypatch.setitem(sys.modules, name, None)
    context, config = make_context(model, tmp_path), export_onnx.Config(targets=("openvino",))
    made = export_onnx.run(model, config, context)
    assert "converted, not run: openvino: cannot be imported" in made.notes["openvino"]["run"]
    assert drawn(made.model).tobytes() == drawn(Bundle(context.output / "openvino")).tobytes()  # nothing to rewrite
    verify.run(made.model, verify.Config(samples=10, rounds=10, batches=(), starts=0), make_context(model, tmp_path))
    said = read_json(tmp_path / "files" / "report.json")["targets"]["openvino"]
    assert said["verdict"] == "not judged" and said["reason"].startswith("converted, not run: openvino")


def test_each_has_its_own_verdict(made: PassResult[Bundle], model: Denoiser, tmp_path: Path) -> None:
    """One file is spoilt: it alone fails, and the bundle says so."""
    npu = folders(made)["npu"]
    spoilt = ir.load(npu / "denoiser.onnx")
    last = [node for node in spoilt.graph if node.op_type == "QuantizeLinear"][-1]
    wrong = ir.Value(name="wrong", const_value=ir.tensor(10 * last.inputs[1].const_value.numpy(), name="wrong"))
    spoilt.graph.register_initializer(wrong)
    last.replace_input_with(1, wrong)
    output = tmp_path / "out"
    export = output / "passes" / "01-export_onnx"
    (export / "files").mkdir(parents=True)
    for name, folder in folders(made).items():
        shutil.copytree(folder, export / "files" / name)
    shutil.copytree(made.model.path, export / "onnx")
    ir.save(spoilt, export / "files" / "npu" / "denoiser.onnx")
    _vouched(export / "files" / "npu")
    context = make_context(model, tmp_path)
    config = verify.Config.model_validate(
        {"samples": 10, "rounds": 10, "batches": [], "starts": 0, "gates": {"psnr": {"min": 15}, "bytes": {"max": 0.6}}}
    )
    verify.run(Bundle(export / "onnx"), config, context)
    report = read_json(context.output / "report.json")
    verdicts = {name: one["verdict"] for name, one in report["targets"].items()}
    assert report["verdict"] == "pass"
    assert verdicts == {"openvino": "pass" if HERE else "not judged", "npu": "fail", "npu_int8": "pass"}
    assert report["targets"]["npu_int8"]["ms_per_call"] is None
    assert not HERE or report["targets"]["openvino"]["speedup"]["interval"][0] > 0
    failed = [gate["name"] for gate in report["targets"]["npu"]["gates"] if gate["passed"] is False]
    assert failed == ["psnr"]


def _vouched(folder: Path) -> None:
    manifest = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").unlink()
    vouch(folder, manifest)


def test_the_published_bundle_names_what_it_passed_for(
    made: PassResult[Bundle], model: Denoiser, tmp_path: Path
) -> None:
    records = []
    for number, (kind, stored) in enumerate((("export_onnx", "onnx"), ("verify", None)), 1):
        folder = tmp_path / "passes" / f"{number:02d}-{kind}"
        folder.mkdir(parents=True)
        if stored:
            shutil.copytree(made.model.path, folder / "onnx")
            (folder / "files").mkdir()
        else:
            context = make_context(model, folder)
            gates = {"psnr": {"min": 15}}
            settings = {"samples": 10, "rounds": 10, "batches": (), "starts": 0, "gates": gates}
            verify.run(made.model, verify.Config.model_validate(settings), context)
        record = {"pass": kind, "name": kind, "stored": stored, "config": {}, "seconds": 1.0, "changed": bool(stored)}
        notes = dict(made.notes) if stored else {}
        records.append({**record, "notes": notes, "before": None, "after": None, "identity": "0", "versions": {}})
    publish("test", tmp_path, records)
    named = Bundle(tmp_path / "onnx").manifest["targets"]
    assert named["onnxruntime"] == named["npu"] == named["npu_int8"] == "pass"
    assert set(named) == set(ALL)
    assert "On other engines" in (tmp_path / "report.html").read_text()


def test_a_model_that_is_told_other_numbers_is_refused_before_it_is_exported(tmp_path: Path) -> None:
    flow = make_denoiser(SHALLOW_CONFIG, scale=None, scheduler=FLOW)
    with pytest.raises(TargetError, match="w8a16: a file for NPUs answers by a table of timesteps"):
        export_onnx.forecast(flow, export_onnx.Config(targets=("npu",)), make_context(flow, tmp_path))
    assert not Needs([], {}, (1, 8, 8), 1, False).whole_timesteps


def test_samples_that_are_not_finite_fail_and_say_so(
    made: PassResult[Bundle], model: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npu = next(one for one in targets.beside(made.model) if one[0] == "npu")
    monkeypatch.setattr(targets, "beside", lambda bundle: [npu])
    sample = Bundle.sample

    def spoilt(self: Bundle, noise: np.ndarray, **given: np.ndarray) -> np.ndarray:
        return sample(self, noise, **given) * (np.nan if self.path == npu[1] else 1)

    monkeypatch.setattr(Bundle, "sample", spoilt)
    context = make_context(model, tmp_path)
    settings = {"samples": 10, "rounds": 10, "batches": [], "starts": 0, "gates": {"psnr": {"min": 15}}}
    verify.run(made.model, verify.Config.model_validate(settings), context)
    report = read_json(context.output / "report.json")
    assert report["verdict"] == "pass" and report["targets"]["npu"]["verdict"] == "fail"
    reasons = {gate["name"]: gate["reason"] for gate in report["targets"]["npu"]["gates"]}
    assert reasons["psnr"] == "not every sample of the student is finite"


def test_a_simulator_that_computes_otherwise_fails_the_target(
    made: PassResult[Bundle], model: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder, engine = next(one for one in targets.beside(made.model) if one[0] == "npu")
    shutil.copytree(folder, tmp_path / "npu")
    told = read_json(folder / "bundle.json") | {"simulator": {"engine": "qnn 2.7.0", "qnn_sqnr_db": -0.21}}
    (tmp_path / "npu" / "bundle.json").write_text(json.dumps(told))
    monkeypatch.setattr(targets, "beside", lambda bundle: [("npu", tmp_path / "npu", engine)])
    context = make_context(model, tmp_path / "verify")
    settings = {"samples": 10, "rounds": 10, "batches": [], "starts": 0, "gates": {"psnr": {"min": 15}}}
    verify.run(made.model, verify.Config.model_validate(settings), context)
    report = read_json(context.output / "report.json")
    assert report["verdict"] == "pass" and report["targets"]["npu"]["verdict"] == "fail"
    assert report["targets"]["npu"]["reason"] == "qnn 2.7.0 computes otherwise: -0.21 dB to onnxruntime"


@needs_qnn
def test_qualcomms_compiler_names_what_it_refuses(made: PassResult[Bundle]) -> None:
    with pytest.raises(BundleError, match=r"qnn cannot open it: it refuses n\d+ \(DequantizeLinear: .*per-channel"):
        Bundle(made.model.path, engine=Qnn())


def test_points_are_no_other_draws(model: Denoiser, tmp_path: Path) -> None:
    context = make_context(model, tmp_path)
    points = export_onnx._points(model, context)
    assert len({len(value) for value in points}) == 1
    calibration = quantize._points(model, quantize.Config(samples=16, evaluations=128), context)
    assert not torch.equal(points[0], calibration[0])

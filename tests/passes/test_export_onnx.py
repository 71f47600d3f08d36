"""Weights of a net that one file cannot hold lie beside its graph, and nothing else is different."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from compress.contract import Unwritten
from compress.errors import BundleError, ExportError, PassError
from compress.measure import counts
from compress.model.denoiser import Denoiser, draw
from compress.passes import export_onnx, verify
from compress.runtime import Bundle
from compress.runtime.external import external_files
from tests.conftest import SHALLOW_CONFIG, assert_close_db, make_context, make_denoiser

WIDE = {**SHALLOW_CONFIG, "block_out_channels": [96]}
TRULY = ir.serde.serialize_model
LIMIT = 2_500_000  # bytes: less than the weights of the net, more than its graph and the part that is precomputed


@pytest.fixture(scope="module")
def model() -> Denoiser:
    model = make_denoiser(WIDE, steps=2)
    assert sum(4 * parameter.numel() for parameter in model.net.parameters()) > LIMIT
    return model


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files, and whatever else becomes one message, end at LIMIT, as those of protobuf do at 2 GiB."""
    exported = torch.onnx.export  # which the suite keeps in files of its own

    def exporting(*given: object, **settings: object) -> object:
        with monkeypatch.context() as lifted:
            lifted.setattr(ir.serde, "serialize_model", TRULY)
            return exported(*given, **settings)

    def serialized(model: ir.Model) -> onnx.ModelProto:
        message = TRULY(model)
        if message.ByteSize() > LIMIT:
            raise MemoryError(f"{message.ByteSize():,} bytes in one message")
        return message

    monkeypatch.setattr(torch.onnx, "export", exporting)
    monkeypatch.setattr(ir.serde, "serialize_model", serialized)
    monkeypatch.setattr(export_onnx, "INLINE_LIMIT", LIMIT)


def export(model: Denoiser, folder: Path, **settings: object) -> Bundle:
    config = export_onnx.Config.model_validate({"batch": 1, **settings})
    return export_onnx.run(model, config, make_context(model, folder)).model


def test_a_file_beyond_the_limit_has_its_weights_beside_it(model: Denoiser, tmp_path: Path, limited: None) -> None:
    bundle = export(model, tmp_path / "beside", sampler=True)
    sizes = {file.name: file.stat().st_size for file in bundle.path.iterdir()}
    assert set(sizes) == {"bundle.json", "sample.py", "denoiser.onnx", "weights.bin", "sampler.onnx", "sampler.bin"}
    for name, weights in (("denoiser", "weights"), ("sampler", "sampler")):
        assert external_files(bundle.path / f"{name}.onnx") == {f"{weights}.bin"}
        assert sizes[f"{name}.onnx"] < LIMIT < sizes[f"{weights}.bin"]
    noise, labels = np.random.default_rng(0).standard_normal((2, 1, 8, 8), np.float32), np.array([3, 5])
    wanted = draw(model, torch.from_numpy(noise), {"class_labels": torch.from_numpy(labels)}).numpy()
    for found in (bundle.sample(noise, class_labels=labels), bundle.sample_at_once(noise, class_labels=labels)):
        assert_close_db(wanted, found, least=60)
    content = bytearray((bundle.path / "weights.bin").read_bytes())
    content[len(content) // 2] ^= 1
    (bundle.path / "weights.bin").write_bytes(content)
    with pytest.raises(BundleError, match=r"weights\.bin: differs from what was exported"):
        Bundle(bundle.path)


def test_the_layer_of_a_file_beyond_the_limit_is_blamed(
    model: Denoiser, tmp_path: Path, limited: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    truly = Bundle.denoise
    monkeypatch.setattr(Bundle, "denoise", lambda *given: -truly(*given))
    with pytest.raises(ExportError, match="differs from the PyTorch model"):
        export(model, tmp_path)


def test_a_plan_of_a_large_model_writes_nothing(
    model: Denoiser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_onnx, "LARGE", LIMIT)
    monkeypatch.setattr(export_onnx, "to_onnx", lambda *_, **__: pytest.fail("exported"))
    context = make_context(model, tmp_path)
    found = export_onnx.forecast(model, export_onnx.Config(batch=1), context)
    assert found.model == Unwritten(model, 1, 4 * counts.parameters(model)) and found.seconds > 0
    assert list(context.output.iterdir()) == []
    distilled = dataclasses.replace(model, sampling=model.sampling.model_copy(update={"distilled": True}))
    with pytest.raises(PassError, match="adaptive: steps cannot adapt"):
        export_onnx.forecast(distilled, export_onnx.Config(adaptive=True), context)
    judged = verify.forecast(found.model, verify.Config(samples=10, batches=(), rounds=10), context)
    assert judged.model is found.model and judged.seconds > 0

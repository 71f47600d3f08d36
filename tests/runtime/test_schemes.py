"""A scheme is one row, and every room reads it there."""

import importlib
import typing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from compress.judge.quality import sqnr
from compress.model.denoiser import example_inputs
from compress.model.reference import noise_like
from compress.passes import export_onnx, quantize
from compress.pipeline import checkpoint
from compress.runtime.engines import ONNXRUNTIME
from compress.runtime.schemes import SCHEMES, Scheme
from tests.conftest import CLASS_CONFIG, assert_close_db, make_context, make_denoiser


def test_recipes_may_ask_for_every_scheme() -> None:
    asked = typing.get_args(quantize.Config.model_fields["scheme"].annotation)
    assert set(asked) == {"auto", *(name for name, row in SCHEMES.items() if not row.whole_graph)} - {"float"}
    described = str(quantize.Config.model_fields["scheme"].description)
    assert all(f"{name}: " in described for name in asked)


@pytest.mark.parametrize("name", SCHEMES)
def test_sessions_have_the_options_of_their_row(name: str) -> None:
    options = ONNXRUNTIME.options(3, name)
    assert options.intra_op_num_threads == 3
    for key, value in SCHEMES[name].session.items():
        assert options.get_session_config_entry(key) == value
    every = {key for row in SCHEMES.values() for key in row.session}
    for key in every - set(SCHEMES[name].session):
        with pytest.raises(RuntimeError, match="does not have configuration"):
            options.get_session_config_entry(key)


@pytest.fixture
def six_bits(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A scheme from outside the package."""
    monkeypatch.setitem(SCHEMES, "int6_weights", Scheme("six bits", 1, 80.0, 60.0, weight_bits=6))
    importlib.reload(quantize)  # its settings name all schemes
    yield "int6_weights"
    monkeypatch.undo()
    importlib.reload(quantize)


def test_a_scheme_is_a_row(six_bits: str, tmp_path: Path) -> None:
    """It is offered, quantized by either way of rounding, exported, held to PyTorch, drawn from, and loaded again."""
    assert f"{six_bits}: six bits" in str(quantize.Config.model_fields["scheme"].description)
    model = make_denoiser(CLASS_CONFIG)
    context = make_context(model, tmp_path)
    made = [
        quantize.run(model, quantize.Config(scheme=scheme, samples=4, evaluations=20, rounding=way), context).model
        for scheme, way in (("int8_weights", "nearest"), (six_bits, "gptq"), (six_bits, "nearest"))
    ]
    points = example_inputs(model, 8)
    points[0].normal_(generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted, *got = (each.module(*points).numpy() for each in (model, *made))
    eight, learned, six = (sqnr(wanted, each) for each in got)
    assert 8 < eight - six < 16 and learned > six, "two bits are 12 dB"
    bundle = export_onnx.run(made[-1], export_onnx.Config(batch=1, sampler=True), context).model
    tensors = onnx.load(bundle.path / "denoiser.onnx").graph.initializer
    levels = [onnx.numpy_helper.to_array(each) for each in tensors if each.data_type == onnx.TensorProto.INT8]
    assert max(int(np.abs(each.astype(int)).max(initial=0)) for each in levels) == 31
    noise, labels = noise_like(model, 1, 3).numpy(), np.array([7])
    assert_close_db(bundle.sample(noise, class_labels=labels), bundle.sample_at_once(noise, class_labels=labels), 60)
    checkpoint.save(made[-1], tmp_path / "saved")
    with torch.no_grad():
        np.testing.assert_array_equal(checkpoint.load(tmp_path / "saved").module(*points).numpy(), got[-1])

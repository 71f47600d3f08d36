"""The table of ways to quantize: every figure that has a bar is in it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from benchmarks import int8
from benchmarks.bars import BARS
from compress.model.denoiser import Denoiser
from compress.passes import export_onnx
from tests.conftest import assert_close_db, inputs_for, make_context


def row(ms: float, ratio: float) -> dict:
    timed = {"ms": ms, "ratio": ratio, "interval": (ratio - 0.01, ratio + 0.01)}
    return {
        **{f"batch {batch}": timed for batch in int8.BATCHES},
        "sqnr_db": 33.3,
        "sqnr_interval": (33.0, 33.6),
        "psnr_db": 35.0,
        "psnr_interval": (34.0, 36.0),
        "bytes": int(1000 * ratio),
    }


def test_every_bar_is_measured() -> None:
    rows = {int8.FLOAT: row(2, 1.0), int8.INT8: row(1, 0.25), int8.AUTO: row(1, 0.5), int8.TRAINED: row(1, 0.25)}
    parts = {"nothing": 33.3, "weights": 34.1}
    gain = {"value": 0.5, "interval": (0.2, 0.8)}
    learned = {int8.INT8: {"value": 0.3, "interval": (0.1, 0.4)}}
    one = {"rows": rows, "sources": parts, "gptq_gain_db": learned}
    found = {"digits": {"title": "digits", "trained_gain_db": gain, **one}, "cifar10": {"title": "a random net", **one}}
    values = int8.bars(found)
    assert set(values) == {name for name in BARS if name.startswith("int8")}
    assert values["int8_auto_over_float"] == 0.5 and values["int8_trained_gain_db"] == 0.2
    assert values["int8_digits_bytes"] == 0.25
    text = int8.table(found)
    assert "| int8 | 1.00 | 0.25 (0.24 … 0.26) | 1.00 | 0.25 (0.24 … 0.26) | 33.3 (33.0 … 33.6) | 35.0 (34.0" in text
    assert text.count("| weights | 34.1 |") == 2
    assert "| training under rounding | +0.50 (+0.20 … +0.80) |" in text
    assert text.count("| gptq: int8 | +0.30 (+0.10 … +0.40) |") == 2


def test_a_gain_is_of_the_same_inputs() -> None:
    random = np.random.default_rng(0)
    errors = np.stack([random.exponential(1, 200), np.full(200, 1000.0)], axis=1)
    better = errors * [0.9, 1]
    gain = int8._gain(errors, better)
    assert gain["value"] == pytest.approx(10 * np.log10(1 / 0.9))
    assert gain["interval"][0] == pytest.approx(gain["interval"][1]), "each input gains alike, whatever its error"
    assert int8._exactness(errors)["sqnr_db"] == pytest.approx(30, abs=1)


def test_tools_quantize_a_copy_of_the_float_file(text_model: Denoiser, tmp_path: Path) -> None:
    context = dataclasses.replace(make_context(text_model, tmp_path), output=tmp_path / "float")
    bundle = export_onnx.run(text_model, export_onnx.Config(batch=1), context).model
    before = (bundle.path / "denoiser.onnx").read_bytes()
    made = int8._by_tools(bundle, tmp_path)
    assert set(made) == {int8.DYNAMIC, int8.INT4} and (bundle.path / "denoiser.onnx").read_bytes() == before
    sample, timestep, conditions = inputs_for(text_model, batch=1)
    given = {name: value.numpy() for name, value in conditions.items()}
    wanted = bundle.denoise(sample.numpy(), int(timestep[0]), given)
    for way, least in ((int8.DYNAMIC, 15), (int8.INT4, 10)):
        assert_close_db(wanted, made[way].denoise(sample.numpy(), int(timestep[0]), given), least)
        assert (made[way].path / "denoiser.onnx").stat().st_size != len(before)

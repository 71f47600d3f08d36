"""What is told of a bundle on other processors: the graph that stands for the float net, the table, its bars."""

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks import devices
from benchmarks.bars import BARS
from compress.targets.browser import NoBrowser
from tests.onnx_graph.graphs import graph, run, value


def rounded() -> onnx.ModelProto:
    """x · w, in bytes that are clipped and moved on their way."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["bytes"]),
        helper.make_node("Clip", ["bytes", "low", "high"], ["clipped"]),
        helper.make_node("Transpose", ["clipped"], ["turned"], perm=[1, 0]),
        helper.make_node("DequantizeLinear", ["turned", "scale", "zero"], ["floats"]),
        helper.make_node("DequantizeLinear", ["weights", "scale", "zero"], ["w"]),
        helper.make_node("MatMul", ["floats", "w"], ["product"]),
        helper.make_node("Clip", ["product", "least", "most"], ["y"]),
    ]
    constants = {"scale": np.float32(0.25), "zero": np.int8(0), "low": np.int8(-64), "high": np.int8(64)}
    constants |= {"least": np.float32(-9), "most": np.float32(9), "weights": np.array([[4, -8], [1, 12]], np.int8)}
    return graph(nodes, [value("x", (2, 3))], [value("y", (3, 2), TensorProto.FLOAT)], constants)


def test_a_graph_without_rounding_keeps_weights_and_clips_of_floats() -> None:
    x = np.array([[0.1, -0.9, 3.3], [20.0, 0.4, -7.7]], np.float32)
    weights = np.array([[1, -2], [0.25, 3]])
    model = rounded()
    np.testing.assert_allclose(
        run(devices.without_rounding(model), optimize=False, x=x)[0], np.clip(x.T @ weights, -9, 9), rtol=1e-6
    )
    nearest = np.clip(np.round(x / 0.25), -64, 64) * 0.25
    np.testing.assert_allclose(run(model, optimize=False, x=x)[0], np.clip(nearest.T @ weights, -9, 9), rtol=1e-6)


def row(**changes: object) -> dict:
    known = {"bundle": "b", "processor": "p", "onnxruntime": "1.32", "loss_db": 0.2, "loss_interval": (-0.1, 0.5)}
    return {**known, "simulated_db": 30.0, "float_db": 29.8, "images_psnr": 44.0, "own_psnr": 200.0, **changes}


def test_the_worst_cell_is_held_to_its_bar() -> None:
    own = row(images_psnr=None, ms=1.5, peak_bytes=7e7)
    rows = [own, row(), row(loss_db=0.9, own_psnr=90.0, images_psnr=31.0), {**row(), "fault": "not run"}]
    values = devices.bars(rows)
    assert set(values) == {name for name in BARS if name.startswith("devices")}
    assert values == {"devices_lost_db": 0.9, "devices_images_psnr": 31.0, "devices_own_psnr": 90.0}


def test_the_table_says_what_was_not_run_and_why() -> None:
    own = row(images_psnr=None, ms=1.5, peak_bytes=7e7)
    fault = {"bundle": "b", "processor": "browser", "fault": "not run: because"}
    lines = devices.table([own, row(float_db=None), fault]).splitlines()
    assert lines[-3:] == [
        "| b | p | 1.32 | 29.8 | 0.20 (-0.10 … 0.50) |  | 200.0 | 1.50 | 70 MB |",
        "| b | p | 1.32 |  | 0.20 (-0.10 … 0.50) | 44.0 | 200.0 |  |  |",
        "| b | browser | not run: because |  |  |  |  |  |  |",
    ]


def test_what_cannot_be_emulated_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices.shutil, "which", lambda name: None)
    found = devices.machines(None)
    assert [machine.name for machine in found[1:]] == [*devices.X86, *devices.ARM, devices.BROWSER]
    assert not found[0].fault and all(machine.fault.startswith("not run: ") for machine in found[1:-1])

    def absent(*_: object) -> None:
        raise NoBrowser("none is installed")

    monkeypatch.setattr(devices, "in_browser", absent)
    (row,) = devices.measure(devices.BUNDLES[1], found[-1:])
    assert row["fault"] == "not run: none is installed"


def test_this_processor_is_measured_and_draws_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "STATES", 4)
    monkeypatch.setattr(devices, "CALLS", 5)
    this = devices.machines(None)[0]
    (found,) = devices.measure(devices.BUNDLES[1], [this])
    assert this.command == [str(Path(sys.executable).resolve())]
    assert abs(found["loss_db"]) < 2 and found["own_psnr"] > 80 and found["images_psnr"] is None
    assert found["float_db"] == pytest.approx(found["simulated_db"] - found["loss_db"])
    assert found["ms"] > 0 and found["peak_bytes"] > 1e7

"""Classifiers of attributes as people bring them."""

import json
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

LIGHT = {"light": {"classes": ["bright", "dark"], "accuracy": 0.95, "count": 40}}


def save_classifier(path: Path, about: Any = LIGHT, outputs: tuple[str, ...] = ("light",), classes: int = 2) -> Path:
    """Calls a picture bright whose mean is above 0; every other class is as likely as dark. about: its metadata."""
    nodes = [
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["bright"]),
        helper.make_node("Neg", ["bright"], ["dark"]),
        *(helper.make_node("Concat", ["bright"] + ["dark"] * (classes - 1), [name], axis=1) for name in outputs),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", "c", "h", "w"])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", classes]) for name in outputs],
        [helper.make_tensor("one", TensorProto.INT64, [1], [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=9)
    if about is not None:
        helper.set_model_props(model, {"attributes": about if isinstance(about, str) else json.dumps(about)})
    onnx.save(model, path)
    return path

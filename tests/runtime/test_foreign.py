"""Inputs of files that other tools made: by name, by shape and type, as one says."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.errors import BundleError
from compress.runtime.engine import Feeds, Graph
from compress.runtime.foreign import Foreign, Ours, match

FILE = Path("their.onnx")
TEXT = {
    "sample": Ours((4, 8, 8)),
    "timestep": Ours((), whole=True),
    "encoder_hidden_states": Ours((None, 12)),
}
SDXL = TEXT | {"text_embeds": Ours((20,)), "time_ids": Ours((6,))}
CLASSES = {"sample": Ours((1, 8, 8)), "timestep": Ours((), whole=True), "class_labels": Ours((), whole=True)}
Spec = tuple[str, list[Any]]


def opened(inputs: Mapping[str, Spec], output: list[Any] | None = None) -> tuple[Graph, list[Feeds]]:
    """A graph of these inputs that gives zeros, and what it was fed."""
    fed: list[Feeds] = []
    shape = output or next(shape for _, shape in inputs.values() if len(shape) == 4)
    specs = {name: {"dtype": dtype, "shape": shape} for name, (dtype, shape) in inputs.items()}

    def run(feeds: Feeds) -> list[np.ndarray]:
        fed.append(feeds)
        count = max(len(value) for value in feeds.values() if value.ndim == 4)
        filled = np.zeros([count, *shape[1:]])
        filled += np.arange(filled.size).reshape(filled.shape)
        return [filled]

    return Graph(specs, {"out": {"dtype": "float32", "shape": shape}}, run), fed


def pairs(foreign: Foreign) -> dict[str, str]:
    return {one.name: one.ours for one in foreign.inputs}


def asked(foreign: Foreign, count: int = 3) -> np.ndarray:
    """Its answer for samples, a timestep and conditions as TEXT has them."""
    random = np.random.default_rng(0)
    states = random.standard_normal((count, 5, 12), dtype=np.float32)
    return foreign(random.standard_normal((count, 4, 8, 8), dtype=np.float32), 7, {"encoder_hidden_states": states})


def test_optimums_names_and_open_sizes() -> None:
    inputs = {
        "sample": ("float32", ["batch_size", 4, "height", "width"]),
        "timestep": ("int64", ["steps"]),
        "encoder_hidden_states": ("float32", ["batch_size", "sequence_length", 12]),
        "text_embeds": ("float32", ["batch_size", 20]),
        "time_ids": ("float32", ["batch_size", 6]),
    }
    graph, fed = opened(inputs, ["batch_size", 4, 8, 8])
    foreign = match(graph, SDXL, {}, FILE)
    assert pairs(foreign) == {name: name for name in SDXL} and foreign.batch is None
    conditions = {"encoder_hidden_states": (3, 5, 12), "text_embeds": (3, 20), "time_ids": (3, 6)}
    foreign(np.zeros((3, 4, 8, 8)), 7, {name: np.zeros(shape) for name, shape in conditions.items()})
    assert fed[0]["timestep"].tolist() == [7] and fed[0]["timestep"].dtype == np.int64


@pytest.mark.parametrize(
    ("dtype", "shape", "fed"),
    [("int64", [], 7), ("float32", [1], [7.0]), ("int32", ["b"], [7, 7, 7]), ("float16", ["b", 1], [[7.0]] * 3)],
)
def test_a_timestep_of_any_rank_and_type(dtype: str, shape: list[Any], fed: Any) -> None:
    inputs = {"latents": ("float16", ["b", 4, 8, 8]), "t": (dtype, shape), "text_emb": ("float16", ["b", 5, 12])}
    graph, given = opened(inputs)
    asked(match(graph, TEXT, {}, FILE))
    assert given[0]["t"].tolist() == fed and given[0]["t"].dtype == dtype
    assert given[0]["latents"].dtype == np.float16


def test_channels_last_and_states_as_a_phone_has_them() -> None:
    inputs = {"a": ("float32", [1, 8, 8, 4]), "b": ("float32", [1, 1]), "c": ("float32", [1, 12, 1, 5])}
    graph, fed = opened(inputs)
    foreign = match(graph, TEXT, {}, FILE)
    assert pairs(foreign) == {"a": "sample", "b": "timestep", "c": "encoder_hidden_states"} and foreign.batch == 1
    found = asked(foreign)
    assert found.shape == (3, 4, 8, 8) and len(fed) == 3
    assert found[0, :, 0, 0].tolist() == [0, 1, 2, 3]
    random = np.random.default_rng(0)
    states = random.standard_normal((3, 5, 12), dtype=np.float32)
    assert (fed[2]["c"][0, :, 0] == states[2].T).all()


def test_a_fixed_batch_is_filled() -> None:
    inputs = {
        "sample": ("float32", [2, 4, 8, 8]),
        "timestep": ("int64", [2]),
        "encoder_hidden_states": ("float32", [2, 5, 12]),
    }
    graph, fed = opened(inputs, [2, 8, 8, 8])  # a variance behind the prediction
    assert asked(match(graph, TEXT, {}, FILE)).shape == (3, 4, 8, 8) and len(fed) == 2
    assert (fed[1]["sample"][0] != fed[1]["sample"][1]).any()


def test_channels_beside_the_samples_are_one_input_or_several() -> None:
    inpaint = TEXT | {"mask": Ours((1, 8, 8), beside=True)}
    rest = {"timestep": ("int64", ["b"]), "encoder_hidden_states": ("float32", ["b", 5, 12])}
    graph, fed = opened({"sample": ("float32", ["b", 5, 8, 8]), **rest}, ["b", 4, 8, 8])
    given = {"encoder_hidden_states": np.zeros((2, 5, 12)), "mask": np.ones((2, 1, 8, 8))}
    match(graph, inpaint, {}, FILE)(np.zeros((2, 4, 8, 8)), 1, given)
    assert fed[0]["sample"][0, :, 0, 0].tolist() == [0, 0, 0, 0, 1]
    apart = {"sample": ("float32", ["b", 4, 8, 8]), "mask": ("float32", ["b", 1, 8, 8]), **rest}
    assert "mask" in pairs(match(opened(apart)[0], inpaint, {}, FILE))


def test_types_tell_labels_from_timesteps_and_else_one_says() -> None:
    inputs = {"p": ("float32", ["b", 1, 8, 8]), "q": ("float32", ["b"]), "r": ("int64", ["b"])}
    assert pairs(match(opened(inputs)[0], CLASSES, {}, FILE)) == {"p": "sample", "r": "class_labels", "q": "timestep"}
    inputs["q"] = ("int64", ["b"])
    with pytest.raises(BundleError, match=r"their\.onnx: its inputs cannot be matched.*found p .*; expected.*--inputs"):
        match(opened(inputs)[0], CLASSES, {}, FILE)
    said = match(opened(inputs)[0], CLASSES, {"r": "timestep"}, FILE)
    assert pairs(said) == {"r": "timestep", "p": "sample", "q": "class_labels"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sample": ("float32", ["b", 4, 16, 16])}, r"sample=sample \(other sizes\)"),
        ({"encoder_hidden_states": ("float32", ["b", 5, 13])}, r"encoder_hidden_states=encoder_hidden_states \(other"),
        ({"more": ("float32", ["b", 3])}, r"found .*more float32 \[b, 3\]"),
        ({"sample": ("tensor(bfloat16)", ["b", 4, 8, 8])}, r"input sample is of type tensor\(bfloat16\)"),
        ({"encoder_hidden_states": ("float32", [2, 5, 12]), "sample": ("float32", [1, 4, 8, 8])}, "cannot be matched"),
    ],
)
def test_what_does_not_fit_is_said(change: dict[str, Spec], said: str) -> None:
    inputs = {
        "sample": ("float32", ["b", 4, 8, 8]),
        "timestep": ("int64", ["b"]),
        "encoder_hidden_states": ("float32", ["b", 5, 12]),
    }
    with pytest.raises(BundleError, match=said):
        match(opened(inputs | change)[0], TEXT, {}, FILE)


def test_an_output_of_another_shape_is_said() -> None:
    inputs = {"sample": ("float32", ["b", 1, 8, 8]), "t": ("int64", ["b"]), "y": ("int64", ["b"])}
    with pytest.raises(BundleError, match=r"has no output of the sample's shape \[1, 8, 8\]; found out float32 \[b, 3"):
        match(opened(inputs, ["b", 3, 8, 8])[0], CLASSES, {}, FILE)


def test_a_graph_that_cannot_be_run_says_how_it_was_asked() -> None:
    inputs = {"sample": ("float32", ["b", 1, 8, 8]), "t": ("int64", ["b"]), "y": ("int64", ["b"])}
    graph, _ = opened(inputs)

    def fail(feeds: Feeds) -> list[np.ndarray]:
        raise RuntimeError("no\nkernel")

    foreign = match(Graph(graph.inputs, graph.outputs, fail), CLASSES, {}, FILE)
    with pytest.raises(BundleError, match=r"sample=sample, t=timestep, y=class_labels: no kernel"):
        foreign(np.zeros((2, 1, 8, 8)), 1, {"class_labels": np.zeros(2, dtype=np.int64)})

"""Whatever stands in a bundle.json that does not belong there is one error, which names the key."""

import copy
import json
import math
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from compress.diffusion.prediction import PredictionType
from compress.diffusion.sampling import Guidance
from compress.diffusion.solvers import SOLVERS
from compress.errors import BundleError
from compress.files import sha256
from compress.runtime import Bundle, manifest
from compress.runtime.contents import verify_files
from compress.runtime.external import external_files
from compress.runtime.manifest import read_manifest
from compress.runtime.sampling import Step
from tests.conftest import read_json

WRONG = [None, True, 7, -1, 2.5, math.nan, math.inf, 10**400, "", "x", [], [1], ["x"], {}, {"x": 1}]
OR_ELSE = {  # kinds of value that may stand there as well
    "batch": (int,),
    "sampler": (str,),
    "classes": (int,),
    "sampling.clip_range": (int, float),
    "sampling.guidance.null.class_labels": (int, str),  # of a right kind; what contradicts others is tried below
    "sampling.guidance.null.encoder_hidden_states": (int, str),
}
NULLABLE = {"sampler", "batch", "timesteps", "classes", "data", "sampling.clip_range"}
FREE = ("teacher_sampling", "name", "made_by", "scheme", "data")  # any text, or for others to check


def places(content: Any, path: tuple = ()) -> list[tuple]:
    """Every key and place in it, of lists the first place alone."""
    inner = (
        content.items() if isinstance(content, dict) else enumerate(content[:1]) if isinstance(content, list) else ()
    )
    return [path, *(found for key, value in inner for found in places(value, (*path, key)))]


def put(content: Any, path: tuple, value: Any) -> Any:
    changed = copy.deepcopy(content)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


def name_of(path: tuple) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def alike(one: Any, other: Any) -> bool:
    """Whether two values are of one kind, so that one may stand for the other."""
    number = (int, float)
    if type(one) in number and type(other) in number:
        return type(other) is int or (type(one) is float and math.isfinite(other))
    return type(one) is type(other)


@pytest.mark.parametrize("kind", ["class", "text"])
def test_every_value_of_a_wrong_kind_is_refused_by_its_key(exported, tmp_path: Path, kind: str) -> None:
    right = read_json(exported(kind)[1] / "bundle.json")
    tried = 0
    for path in places(right)[1:]:
        old = right
        for key in path:
            old = old[key]
        name = name_of(path)
        for value in WRONG:
            null = value is None and name in NULLABLE
            if name.startswith(FREE) or alike(old, value) or null or type(value) in OR_ELSE.get(name, ()):
                continue
            (tmp_path / "bundle.json").write_text(json.dumps(put(right, path, value)))
            with pytest.raises(BundleError) as caught:
                read_manifest(tmp_path)
            assert str(caught.value).count("\n") == 0 and len(str(caught.value)) < 400 + len(str(tmp_path))
            assert name.split(".")[0].split("[")[0] in str(caught.value), (name, value)
            if not isinstance(value, dict | list):
                said = (f": {name}: should be", f": {name_of(path[:-1])}: should be")
                assert any(words in str(caught.value) for words in said), (name, value)
            tried += 1
    assert tried > 300


STEP = Step(0, 0, 0, 0, 0)
CONTRADICTIONS: dict[str, Any] = {
    "batch": 0,
    "batch ": -4,
    "classes": None,
    "timesteps": [5],
    "outputs": {},
    "inputs.sample.shape": [1, 1, 8, 8],
    "inputs.sample.shape ": ["batch", 1, 8],
    "inputs.sample.shape  ": ["batch", 2**19, 2**19, 2**19],
    "inputs.class_labels.shape": ["batch", "batch"],
    "inputs.class_labels.dtype": "object",
    "inputs.timestep.dtype": "int64[1000000000]",
    "sampling.clip_range": 0,
    "sampling.clip_range ": -1,
    "sampling.steps": [],
    "sampling.steps ": [{**dict.fromkeys(vars(STEP), 0), "next_from_all": 0}],
    "sampling.others": [[]],
    "sampling.levels.alpha": [0.5],
    "sampling.guidance.kind": "classifier",
    "sampling.guidance.null": {},
    "sampling.guidance.null ": {"prompt": 3},
    "sampling.guidance.null.class_labels": -1,
    "sampling.guidance.null.class_labels ": "null.npy",
    "sampling.guidance.scales": [3.0, 1.0],
    "sampling.guidance.null  ": {"class_labels": 3, "timestep": 3},
    "sampling.guidance.null.class_labels  ": "denoiser.onnx",
    "sampling.solver": "euler",
    "sampling.prediction_type": "predicton",
    "model": "other.onnx",
    "model ": "../denoiser.onnx",
    "model  ": "/denoiser.onnx",
    "sampler": "sampler.onnx",
    "files": {},
    "files.denoiser.onnx.bytes": -1,
    "files.denoiser.onnx.sha256": "0" * 63,
}


@pytest.mark.parametrize("key", CONTRADICTIONS)
def test_contradictions_are_refused(exported, tmp_path: Path, key: str) -> None:
    right = read_json(exported("class")[1] / "bundle.json")
    path = tuple(key.strip().replace("denoiser.onnx", "denoiser/onnx").split("."))
    path = tuple(part.replace("/", ".") for part in path)
    (tmp_path / "bundle.json").write_text(json.dumps(put(right, path, CONTRADICTIONS[key])))
    with pytest.raises(BundleError, match=path[0]):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/b/c", "a/../b", "../a/b", "a\\b", "C:x", "..", ".", "", "x" * 300, "\ud800", "a\0"],
)
def test_names_that_lead_out_of_the_folder_are_refused(exported, tmp_path: Path, name: str) -> None:
    content = read_json(exported("class")[1] / "bundle.json")
    content["files"][name] = {"sha256": "0" * 64, "bytes": 1}
    (tmp_path / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"files.*should be of plain names"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"x":' * 100_000, b"9" * 5_000, b'"\\ud800"', b"NaN"])
def test_json_that_is_no_mapping_however_deep_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"bundle.json: is damaged"):
        read_manifest(tmp_path)


@pytest.fixture
def folder(exported, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported("text")[1], tmp_path / "bundle"))


def test_links_out_of_the_folder_are_refused(folder: Path) -> None:
    (folder / "null_embeddings.npy").rename(folder.parent / "outside.npy")
    (folder / "null_embeddings.npy").symlink_to(folder.parent / "outside.npy")
    with pytest.raises(BundleError, match="link out of the folder"):
        Bundle(folder, threads=1)


def test_a_file_of_another_size_than_is_named_is_refused(folder: Path) -> None:
    content = read_json(folder / "bundle.json")
    content["files"]["denoiser.onnx"]["bytes"] -= 1
    (folder / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match="differs from what was exported"):
        verify_files(folder, read_manifest(folder))


@pytest.mark.parametrize(
    "array", [np.zeros((5, 11), np.float32), np.full((5, 12), np.nan, np.float32), np.zeros((5, 12), "U3"), None]
)
def test_null_embeddings_that_do_not_fit_are_refused(folder: Path, array: np.ndarray | None) -> None:
    file = folder / "null_embeddings.npy"
    if array is None:  # says that it holds more than any machine has
        header = {"descr": "<f4", "fortran_order": False, "shape": (2**50, 12)}
        with file.open("wb") as stream:
            np.lib.format.write_array_header_1_0(stream, header)
    else:
        np.save(file, array)
    with pytest.raises(BundleError, match=r"null_embeddings.npy: (should hold|cannot be read)"):
        Bundle(folder, threads=1, check_hashes=False)


def graph_with(nest: int, location: str = "outside.bin") -> bytes:
    """An ONNX file whose weights lie elsewhere, named `nest` subgraphs deep."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    graph = helper.make_graph([], "deepest", [], [], [tensor])
    for depth in range(nest):
        graph = helper.make_graph([helper.make_node("If", ["c"], ["y"], then_branch=graph)], f"g{depth}", [], [])
    return helper.make_model(graph).SerializeToString()


@pytest.mark.parametrize("nest", [0, 1, 20])
def test_weights_elsewhere_are_found_however_deep(tmp_path: Path, nest: int) -> None:
    (tmp_path / "x.onnx").write_bytes(graph_with(nest))
    assert external_files(tmp_path / "x.onnx") == {"outside.bin"}
    content = {"model": "x.onnx", "files": {}}
    with pytest.raises(BundleError, match=r"'outside.bin', which is not among `files`"):
        verify_files(tmp_path, content)


def test_a_location_is_found_however_it_is_written(tmp_path: Path) -> None:
    """Value before key, and lengths in more bytes than they need."""
    plain = graph_with(0)
    entry = b"\x0a\x08location\x12\x0boutside.bin"
    other = b"\x12\x8b\x00outside.bin\x0a\x88\x00location"
    assert entry in plain

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    graph = field(5, field(13, other))
    (tmp_path / "x.onnx").write_bytes(field(7, graph))
    assert onnx.load(tmp_path / "x.onnx", load_external_data=False).graph.initializer[0].external_data[0].value
    assert external_files(tmp_path / "x.onnx") == {"outside.bin"}


def test_a_damaged_graph_that_speaks_of_a_location_is_refused(tmp_path: Path) -> None:
    for content in (
        b"\x3a\xff\xff\xff\xff\x0flocation",
        b"\x3b location",
        b"\x3a\x7flocation",
        b"\xff" * 20 + b"location",
    ):
        (tmp_path / "x.onnx").write_bytes(content)
        with pytest.raises(BundleError, match="is no ONNX graph"):
            external_files(tmp_path / "x.onnx")


def relisted(folder: Path) -> Path:
    content = read_json(folder / "bundle.json")
    content["files"] = {
        name: {"sha256": sha256(folder / name), "bytes": (folder / name).stat().st_size} for name in content["files"]
    }
    (folder / "bundle.json").write_text(json.dumps(content))
    return folder


GRAPHS = {
    "renamed input": lambda values: setattr(values["sample"], "name", "x"),
    "renamed output": lambda values: setattr(values["out_sample"], "name", "y"),
    "other type": lambda values: setattr(values["timestep"].type.tensor_type, "elem_type", TensorProto.INT32),
    "other size": lambda values: setattr(values["sample"].type.tensor_type.shape.dim[1], "dim_value", 7),
    "fixed batch": lambda values: setattr(values["sample"].type.tensor_type.shape.dim[0], "dim_value", 2),
    "other rank": lambda values: values["timestep"].type.tensor_type.shape.dim.add(dim_value=1),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_a_graph_that_is_not_what_the_manifest_says_is_refused(folder: Path, name: str) -> None:
    model = onnx.load(folder / "denoiser.onnx")
    values = {value.name: value for value in (*model.graph.input, *model.graph.output)}
    rename = {value: value for value in values}
    GRAPHS[name](values)
    for old in rename:  # keep the graph whole
        new = values[old].name
        for node in model.graph.node if new != old else ():
            node.input[:] = [new if one == old else one for one in node.input]
            node.output[:] = [new if one == old else one for one in node.output]
    onnx.save(model, folder / "denoiser.onnx")
    with pytest.raises(BundleError, match=r"bundle.json says|onnxruntime cannot open it"):
        Bundle(relisted(folder), threads=1)


def test_a_null_class_that_the_net_has_not_is_one_error(exported, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported("class")[1], tmp_path / "bundle"))
    content = read_json(folder / "bundle.json")
    content["sampling"]["guidance"]["null"] = {"class_labels": 99}
    (folder / "bundle.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match="onnxruntime cannot run it"):
        Bundle(folder, threads=1).sample(np.zeros((1, 1, 8, 8), np.float32), class_labels=np.zeros(1, np.int64))


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf])
def test_a_guidance_scale_is_a_finite_number(exported, scale: float) -> None:
    with pytest.raises(BundleError, match="finite number"):
        Bundle(exported("class")[1], threads=1).at_scale(scale)


@pytest.mark.parametrize(
    "options", [{"psnr": math.nan}, {"psnr": -3}, {"milliseconds": -1}, {"milliseconds": math.inf}]
)
def test_what_adaptive_steps_are_asked_for_is_a_positive_number(exported, options: dict) -> None:
    bundle = Bundle(exported("class")[1], threads=1)
    with pytest.raises(BundleError, match=f"{next(iter(options))} should be a positive, finite number"):
        bundle.sample_adaptively(np.zeros((1, 1, 8, 8), np.float32), class_labels=np.zeros(1, np.int64), **options)


def test_the_table_knows_what_models_can_carry() -> None:
    def refused(check: Any, value: Any) -> bool:
        try:
            check(value, "key")
        except ValueError:
            return True
        return False

    step = dict.fromkeys(("clean_from_sample", "clean_from_output", "next_from_sample", "next_from_clean"), 0.5)
    base: dict[str, Any] = {"solver": "ddim", "prediction_type": "sample", "clip_range": None}
    base["steps"] = [{"timestep": 1, "next_from_previous": 0.0, **step}]
    base["guidance"] = {"kind": "none", "scale": 1.0}
    for key, values in (("prediction_type", get_args(PredictionType)), ("solver", tuple(SOLVERS))):
        assert not [value for value in values if refused(manifest._sampling, {**base, key: value})]
    kinds = set(get_args(Guidance.model_fields["kind"].annotation)) - {"classifier"}  # which no bundle can follow
    assert not [kind for kind in kinds if refused(manifest._guidance, {"kind": kind, "scale": 1})]

"""Bundles: every field of bundle.json, what it lists and what lies beside it, and graphs that are not as it says."""

import hashlib
import math
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from benchmarks.hostile import good, values
from benchmarks.hostile.case import Case, Lay, pipe

SAMPLE = (("sample", "bundle", "--out", "grid.png", "--count", "1", "--class", "3"),)
BENCH = (("bench", "bundle", "--rounds", "10", "--threads", "1"),)
VERIFY = (("verify", "bundle", "--teacher", "model"),)
ALL = (*SAMPLE, *BENCH)
MODEL = "denoiser.onnx"
Manifest = dict[str, Any]


def of(name: str, change: Callable[[Path, Manifest], object], **expected: Any) -> Case:
    """The good bundle, its folder and manifest changed."""
    commands = expected.pop("commands", ALL)

    def lay(folder: Path) -> None:
        manifest = good.manifest()
        good.bundle(folder / "bundle")
        change(folder / "bundle", manifest)
        if not (folder / "bundle" / "bundle.json").is_fifo():
            good.write(folder / "bundle" / "bundle.json", manifest)

    return Case(name, lay, commands, same=expected.pop("same", False), **expected)


def of_field(place: tuple[Any, ...], value: Any, **expected: Any) -> Case:
    """One value of its manifest changed."""

    def change(_: Path, manifest: Manifest) -> None:
        changed = values.put(manifest, place, value)
        manifest.clear()
        manifest.update(changed)

    return of(f"{'.'.join(map(str, place))}: {str(value)[:60]}", change, **expected)


def without(place: tuple[Any, ...], **expected: Any) -> Case:
    """One key of its manifest left out."""

    def change(_: Path, manifest: Manifest) -> None:
        target: Any = manifest
        for key in place[:-1]:
            target = target[key]
        del target[place[-1]]

    return of(f"without {'.'.join(map(str, place))}", change, **expected)


def of_text(name: str, text: str | bytes, **expected: Any) -> Case:
    """Another bundle.json altogether."""

    def lay(folder: Path) -> None:
        good.bundle(folder / "bundle")
        content = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        (folder / "bundle" / "bundle.json").write_bytes(content)

    return Case(name, lay, ALL, same=False, **expected)


def listed(folder: Path, manifest: Manifest, name: str = MODEL) -> None:
    """Put a file's hash and bytes right."""
    file = folder / name
    manifest["files"][name] = {"sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "bytes": file.stat().st_size}


def graph(
    inputs: Mapping[str, tuple[int, Sequence[Any]]],
    output: tuple[int, Sequence[Any]] = (TensorProto.FLOAT, (1, 1, 16, 16)),
    name: str = "out_sample",
) -> onnx.ModelProto:
    """A graph with these inputs that gives zeros."""
    given = [helper.make_tensor_value_info(key, kind, shape) for key, (kind, shape) in inputs.items()]
    sizes = [size if isinstance(size, int) else 1 for size in output[1]]
    shape = helper.make_tensor("shape", TensorProto.INT64, [len(sizes)], sizes)
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("Cast", ["zeros"], [name], to=output[0]),
    ]
    outputs = [helper.make_tensor_value_info(name, output[0], output[1])]
    made = helper.make_graph(nodes, "graph", given, outputs, [shape])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


RIGHT: dict[str, tuple[int, Sequence[Any]]] = {
    "sample": (TensorProto.FLOAT, (1, 1, 16, 16)),
    "timestep": (TensorProto.INT64, (1,)),
    "class_labels": (TensorProto.INT64, (1,)),
}


def of_graph(name: str, made: Callable[[], onnx.ModelProto], **expected: Any) -> Case:
    """Another graph, rightly listed."""

    def change(folder: Path, manifest: Manifest) -> None:
        onnx.save(made(), folder / MODEL)
        listed(folder, manifest)

    return of(f"graph: {name}", change, **{"mentions": (MODEL,), **expected})


def of_model(name: str, write: Lay, **expected: Any) -> Case:
    """Another file in place of the graph, rightly listed."""

    def change(folder: Path, manifest: Manifest) -> None:
        (folder / MODEL).unlink()
        write(folder / MODEL)
        if (folder / MODEL).is_file():
            listed(folder, manifest)

    return of(f"model: {name}", change, **expected)


def _outside(folder: Path, manifest: Manifest) -> None:
    shutil.move(folder / MODEL, folder.parent / "outside.onnx")
    manifest["model"] = "../outside.onnx"


def _outside_listed(folder: Path, manifest: Manifest) -> None:
    _outside(folder, manifest)
    listed(folder, manifest, "../outside.onnx")


def _absolute(folder: Path, manifest: Manifest) -> None:
    shutil.move(folder / MODEL, folder.parent / "outside.onnx")
    manifest["model"] = str((folder.parent / "outside.onnx").resolve())


def _linked(folder: Path, manifest: Manifest) -> None:
    shutil.move(folder / MODEL, folder.parent / "outside.onnx")
    (folder / MODEL).symlink_to("../outside.onnx")


def _unlisted(folder: Path, manifest: Manifest) -> None:
    shutil.copy(folder / MODEL, folder / "other.onnx")
    manifest["model"] = "other.onnx"


def _external(folder: Path, manifest: Manifest) -> None:
    model = onnx.load(folder / MODEL)
    onnx.save(model, folder / MODEL, save_as_external_data=True, location="weights.bin")
    listed(folder, manifest)


def _external_listed(folder: Path, manifest: Manifest) -> None:
    _external(folder, manifest)
    listed(folder, manifest, "weights.bin")


def _external_outside(folder: Path, manifest: Manifest) -> None:
    _external(folder, manifest)
    shutil.move(folder / "weights.bin", folder.parent / "weights.bin")
    model = onnx.load(folder / MODEL, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    onnx.save(model, folder / MODEL)
    listed(folder, manifest)
    listed(folder, manifest, "../weights.bin")


def _null_array(content: bytes) -> Callable[[Path, Manifest], None]:
    def change(folder: Path, manifest: Manifest) -> None:
        (folder / "null.npy").write_bytes(content)
        listed(folder, manifest, "null.npy")
        manifest["sampling"]["guidance"]["null"] = {"class_labels": "null.npy"}

    return change


def _text_conditional(folder: Path) -> None:
    """A bundle of a text-conditional net, which was made with `source: teacher`, and its teacher."""
    good.checkpoint(folder / "model", good.TEXT, tensors=good.weights("text"))
    bundle, manifest = good.bundle(folder / "bundle"), good.manifest()
    shape = (TensorProto.FLOAT, (1, 4, 8, 8))
    inputs = {"sample": shape, "timestep": RIGHT["timestep"], "encoder_hidden_states": (TensorProto.FLOAT, (1, 5, 12))}
    onnx.save(graph(inputs, shape), bundle / MODEL)
    types: dict[int, str] = {TensorProto.FLOAT: "float32", TensorProto.INT64: "int64"}
    manifest |= {
        "scheme": "float",
        "inputs": {name: {"dtype": types[kind], "shape": list(sizes)} for name, (kind, sizes) in inputs.items()},
        "outputs": {"out_sample": {"dtype": "float32", "shape": list(shape[1])}},
        "classes": None,
        "data": "teacher",
        "teacher_sampling": {"steps": 4, "scheduler": good.SCHEDULER},
    }
    manifest["sampling"]["guidance"] = {"kind": "none", "scale": 1.0}
    listed(bundle, manifest)
    good.write(bundle / "bundle.json", manifest)


STEP = ("sampling", "steps", 0)
LYING_ARRAY = (
    b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000,)}".ljust(117) + b"\n"
)
# What the fields of bundle.json cannot be.
BAD: tuple[tuple[tuple[Any, ...], tuple[Any, ...]], ...] = (
    (("format",), (None, 0, 2, 10**9, "1", [], True)),
    (("model",), (None, "", 5, [], ".", "..", "nowhere.onnx", "bundle.json", "/etc/passwd", "x" * 5000, "a\0b")),
    (("name",), (5, [], None)),
    (("scheme",), (5, [], None)),
    (("batch",), (0, -1, "1", 1.5, [], True, 10**9)),
    (("inputs",), (None, [], 5, {}, {"sample": 5})),
    (("inputs", "sample"), (None, 5, [])),
    (("inputs", "sample", "dtype"), (None, "x", 5, "int8", "object", [])),
    (("inputs", "sample", "shape"), (None, 5, [], [1], [1, 1, 16, -16], [1, 1, 16, "x"], [1, 1, 16, 10**9])),
    (("inputs", "timestep", "shape"), ([True], [1.5], {})),
    (("inputs", "class_labels", "shape"), ([1, 5], None, 5)),
    (("inputs", "other"), ({"dtype": "float32", "shape": [1]},)),
    (("classes",), (0, -1, "10", 1.5, [], True)),
    (("timesteps",), (5, "x", [-1], ["x"], [True], {})),
    (("sampling",), (None, [], 5, {})),
    (("sampling", "steps"), (None, [], 5, {}, [5], [{}], "x")),
    (("sampling", "clip_range"), ("x", -1, 0, [], math.nan, math.inf, True)),
    (("sampling", "guidance"), (None, [], 5, {}, {"kind": "x"}, {"kind": "cfg"})),
    (("sampling", "guidance", "kind"), (None, "x", 5, [])),
    (("sampling", "guidance", "scale"), (None, "x", [], math.nan, math.inf, True)),
    (("sampling", "guidance", "null"), (None, 5, [], {"class_labels": "nowhere.npy"}, {"class_labels": "../x"},
                                        {"class_labels": []}, {"class_labels": 1.5}, {"class_labels": 10**30})),
    ((*STEP, "timestep"), (None, "x", 1.5, [], True, -1, 10**30)),
    ((*STEP, "clean_from_sample"), (None, "x", [], math.nan, math.inf, True, 10**400)),
    ((*STEP, "next_from_clean"), (None, "x", [], math.nan, -math.inf)),
    ((*STEP, "other"), (1,)),
    (("files",), (None, {}, [], 5, {MODEL: 5}, {MODEL: {}})),
    (("files", MODEL, "sha256"), (None, "", "0" * 64, 5, [])),
    (("files", MODEL, "bytes"), (-1, None, "x", [], 5, True)),
    (("files", "../bundle.json"), ({"sha256": "0" * 64, "bytes": 1},)),
    (("files", "nowhere.bin"), ({"sha256": "0" * 64, "bytes": 1},)),
    (("files", "/etc/passwd"), ({"sha256": "0" * 64, "bytes": 1},)),
)  # fmt: skip

NAMED: dict[str, Case] = {
    **{
        f"{'.'.join(map(str, place))}: {str(value)[:40]}": of_field(place, value, mentions=("bundle",))
        for place, found in BAD
        for value in found
    },
    **{
        f"without {'.'.join(map(str, place))}": without(place)
        for place in (
            ("format",),
            ("model",),
            ("inputs",),
            ("inputs", "sample"),
            ("sampling",),
            ("files",),
            ("batch",),
            ("sampling", "steps"),
            ("sampling", "guidance"),
            ("sampling", "clip_range"),
            (*STEP, "timestep"),
        )
    },
    "bundle.json nested 100,000 deep": of_text("nested", values.nested(100_000, "mapping"), mentions=("bundle.json",)),
    "bundle.json of open brackets": of_text("brackets", "[" * 100_000, mentions=("bundle.json",)),
    "bundle.json empty": of_text("empty", ""),
    "bundle.json as a list": of_text("list", "[]"),
    "bundle.json as a number": of_text("number", "1"),
    "bundle.json of 5,000 digits": of_text("digits", '{"format": ' + "9" * 5000 + "}"),
    "bundle.json in Latin-1": of_text("Latin-1", b'{"format": "\xe9"}'),
    "bundle.json is a named pipe": of(
        "pipe", lambda folder, _: pipe(folder / "bundle.json"), mentions=("bundle.json",)
    ),
    "the model is a named pipe": of("pipe", lambda folder, _: pipe(folder / MODEL), mentions=(MODEL,)),
    "the model is outside": of("outside", _outside, mentions=("outside.onnx",)),
    "the model is outside and listed": of("outside", _outside_listed, mentions=("outside.onnx",)),
    "the model's path is absolute": of("absolute", _absolute, mentions=("outside.onnx",)),
    "the model is a link to the outside": of("link", _linked, mentions=(MODEL,)),
    "the model is not listed": of("unlisted", _unlisted, mentions=("other.onnx",)),
    "nothing is listed": of_field(("files",), {}, mentions=(MODEL,)),
    "external data that is not listed": of("external", _external, mentions=("weights.bin",)),
    "external data outside": of("external", _external_outside, mentions=("weights.bin",)),
    "the sampler is not listed": of_field(("sampler",), "sampler.onnx", mentions=("sampler.onnx",)),
    "negative bytes": of_field(("files", MODEL, "bytes"), -1),
    "null condition pickled": of("pickle", _null_array(b"\x80\x04K\x05.")),
    "null condition of lies": of("npy", _null_array(LYING_ARRAY)),
    "null condition empty": of("npy", _null_array(b"")),
    "model: empty": of_model("empty", lambda file: file.write_bytes(b"")),
    "model: text": of_model("text", lambda file: file.write_text("hello")),
    "model: truncated": of_model("truncated", lambda file: file.write_bytes((good.BUNDLE / MODEL).read_bytes()[:5000])),
    "model: a folder": of_model("folder", lambda file: file.mkdir()),
    "model: missing": of_model("missing", lambda file: None),
    "graph: other names": of_graph(
        "names", lambda: graph({"x": RIGHT["sample"], "t": RIGHT["timestep"], "y": RIGHT["class_labels"]})
    ),
    "graph: one input less": of_graph("less", lambda: graph({n: v for n, v in RIGHT.items() if n != "class_labels"})),
    "graph: one input more": of_graph("more", lambda: graph({**RIGHT, "other": (TensorProto.FLOAT, (1,))})),
    "graph: another type": of_graph("type", lambda: graph({**RIGHT, "sample": (TensorProto.DOUBLE, (1, 1, 16, 16))})),
    "graph: words": of_graph("words", lambda: graph({**RIGHT, "class_labels": (TensorProto.STRING, (1,))})),
    "graph: another shape": of_graph("shape", lambda: graph({**RIGHT, "sample": (TensorProto.FLOAT, (1, 1, 8, 8))})),
    "graph: another rank": of_graph("rank", lambda: graph({**RIGHT, "sample": (TensorProto.FLOAT, (1, 256))})),
    "graph: another batch": of_graph("batch", lambda: graph({**RIGHT, "sample": (TensorProto.FLOAT, (4, 1, 16, 16))})),
    "graph: another output shape": of_graph("output", lambda: graph(RIGHT, (TensorProto.FLOAT, (1, 3, 16, 16)))),
    "graph: another output rank": of_graph("output", lambda: graph(RIGHT, (TensorProto.FLOAT, (1, 16)))),
    "graph: another output type": of_graph("output", lambda: graph(RIGHT, (TensorProto.INT64, (1, 1, 16, 16)))),
    "graph: another output name": of_graph("output", lambda: graph(RIGHT, name="other")),
    "no such bundle": Case("nowhere", lambda folder: None, ALL, same=False),
    "a checkpoint as bundle": Case("checkpoint", lambda folder: good.checkpoint(folder / "bundle"), SAMPLE),
    "a file as bundle": Case("file", lambda folder: (folder / "bundle").write_text("x"), SAMPLE),
    "verify of a text-conditional bundle": Case("no embeddings", _text_conditional, VERIFY, mentions=("--recipe",)),
    # what is right
    "a good bundle": of("good", lambda folder, manifest: None, valid=True),
    "a good graph": of_graph("right", lambda: graph(RIGHT), valid=True),
    "good external data": of("external", _external_listed, valid=True),
}


def draw(choose: random.Random) -> Case:
    """A manifest with another value or without a key, bytes of it or of the graph that fell over, or none."""
    return choose.choice((_field, _field, _field, _without, _bytes, _good, _named))(choose)


def _named(choose: random.Random) -> Case:
    return NAMED[choose.choice(sorted(NAMED))]


def _good(choose: random.Random) -> Case:
    commands = (
        (
            "sample",
            "bundle",
            "--out",
            f"{choose.choice('abc')}.png",
            "--count",
            "2",
            "--seed",
            str(choose.randrange(1000)),
        ),
    )
    return of_graph("right", lambda: graph(RIGHT), commands=commands, valid=True)


def _field(choose: random.Random) -> Case:
    """Any value of any field: it is refused, or it means something, or it says nothing to these commands."""
    place = choose.choice(list(values.places(good.manifest())))
    pool: tuple[Any, ...] = (
        None,
        "",
        "x",
        -1,
        0,
        7,
        10**9,
        10**400,
        1e300,
        math.nan,
        math.inf,
        True,
        [],
        [-1],
        [10**9],
        {},
        [[1]],
        "../x",
    )
    return of_field(place, choose.choice(pool), commands=SAMPLE, valid=None)


def _without(choose: random.Random) -> Case:
    return without(choose.choice([p for p in values.places(good.manifest()) if isinstance(p[-1], str)]), valid=None)


def _bytes(choose: random.Random) -> Case:
    """Bytes turned, or the end cut off: of the graph, which its hash tells, or of the manifest."""
    name = choose.choice((MODEL, "bundle.json"))
    cut, place, byte = choose.random() < 0.5, choose.random(), choose.randrange(256)

    def lay(folder: Path) -> None:
        file = good.bundle(folder / "bundle") / name
        content = bytearray(file.read_bytes())
        at = int(place * (len(content) - 10))  # the last may be a line's end, which nobody misses
        if cut:
            del content[at:]
        else:
            content[at] ^= byte or 1
        file.write_bytes(content)

    surely = False if cut or name == MODEL else None
    return Case(f"{name}, {'cut' if cut else 'turned'} at {place:.3f}", lay, SAMPLE, surely)

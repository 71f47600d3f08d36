"""What a `bundle.json` may say: one table, checked key by key."""

import math
import os
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from compress.errors import BundleError, written
from compress.files import Unreadable, read_json
from compress.runtime.engines import DTYPES
from compress.runtime.sampling import Step

FORMAT = 1
MOST_VALUES = 2**27  # in one item of an input
_FILE = r"\w[\w.+-]{0,99}"  # a name in the folder, or in one within it

Check = Callable[[Any, str], None]  # (value, its key) -> None; raises _Fault


class _Fault(ValueError):
    """What is wrong, and where."""


def _if(what: str, holds: Callable[[Any], bool]) -> Check:
    def check(value: Any, key: str) -> None:
        if not holds(value):
            raise _Fault(f"{key}: should be {what}; got {reprlib.repr(value)}")

    return check


def _or_null(check: Check) -> Check:
    return lambda value, key: None if value is None else check(value, key)


def _list(check: Check, least: int = 0) -> Check:
    def all_of(value: Any, key: str) -> None:
        _if(f"a list of at least {least}" if least else "a list", lambda v: type(v) is list and len(v) >= least)(
            value, key
        )
        for place, one in enumerate(value):
            check(one, f"{key}[{place}]")

    return all_of


def _mapping(check: Check, names: str = ".*") -> Check:
    """names: a pattern of the names that may be given."""

    def all_of(value: Any, key: str) -> None:
        _if("a mapping", lambda v: type(v) is dict)(value, key)
        for name, one in value.items():
            _if("of plain names", lambda v: re.fullmatch(names, v, re.ASCII | re.DOTALL) is not None)(name, key)
            check(one, f"{key}.{written(name)}")

    return all_of


def _table(needed: Mapping[str, Check], others: Mapping[str, Check] | None = None, alone: bool = False) -> Check:
    """others: may be left out. What the table does not know is left alone, unless its entries must stand alone."""

    def check(value: Any, key: str) -> None:
        _if("a mapping", lambda v: type(v) is dict)(value, key)
        if alone and value.keys() - {**needed, **(others or {})}.keys():
            raise _Fault(f"{key}: should hold {', '.join(needed)} alone; got {reprlib.repr(list(value))}")
        for name, one in {**needed, **(others or {})}.items():
            inner = f"{key}.{name}".removeprefix(".")
            if name in value:
                one(value[name], inner)
            elif name in needed:
                raise _Fault(f"{inner}: is missing")

    return check


def _whole(least: int, most: int = 2**53) -> Check:
    return _if(f"a whole number from {least}", lambda v: type(v) is int and least <= v <= most)


def _finite(value: Any, least: float = -1e30) -> bool:
    return type(value) in (int, float) and least <= value <= 1e30


def _number(least: float = -1e30) -> Check:
    what = "a finite number" if least < 0 else f"a finite number from {least:g}"
    return _if(what, lambda v: _finite(v, least))


def _one_of(*values: str) -> Check:
    return _if(f"one of {', '.join(values)}", lambda v: type(v) is str and v in values)


_text = _if("a text", lambda v: type(v) is str)
_flag = _if("true or false", lambda v: type(v) is bool)
_onnx = _if("the name of an .onnx file", lambda v: type(v) is str and v.endswith(".onnx"))
_size = _if('a whole number from 1, or "batch"', lambda v: v == "batch" or (type(v) is int and 1 <= v <= 2**20))
_tensor = _table({"dtype": _one_of(*DTYPES), "shape": _list(_size, 1)})
_step = {field.name: _number() for field in fields(Step)}
_later = {"next_from_earlier": _step.pop("next_from_earlier")}  # as of solvers that look back that far
_steps = _list(_table(_step, _later, alone=True), 1)
_scales = _if(
    "two finite numbers, the smaller first",
    lambda v: type(v) is list and len(v) == 2 and all(map(_finite, v)) and v[0] <= v[1],
)
_null = _if("a class, or the name of an .npy file", lambda v: type(v) is str or (type(v) is int and 0 <= v < 2**31))
_sha = _if(
    "64 hexadecimal digits", lambda v: type(v) is str and len(v) == 64 and not set(v.lower()) - set("0123456789abcdef")
)


_guidance = _table(
    {"kind": _one_of("none", "cfg", "embedded", "baked"), "scale": _number()},
    {"scales": _or_null(_scales), "null": _mapping(_null)},
)
_sampling = _table(
    {
        "solver": _one_of("ddim", "dpmpp_2m", "unipc"),
        "prediction_type": _one_of("epsilon", "v_prediction", "sample", "flow_prediction", "edm"),
        "steps": _steps,
        "clip_range": _or_null(_number(1e-6)),
        "guidance": _guidance,
    },
    {
        "distilled": _flag,
        "levels": _table({"alpha": _list(_number(0)), "sigma": _list(_number(0))}),
        "others": _list(_steps),
        "adaptive": _or_null(_list(_table({"tolerance": _number(0), "psnr": _number(), "evaluations": _number(0)}))),
    },
)
_part = {"model": _onnx, "scheme": _text}
_text_encoder = _table(
    {**_part, "tokenizer": _text, "tokens": _whole(1, 2**16), "pad": _whole(0, 2**31), "condition": _text}
)
_decoder = _table({**_part, "scale": _number(1e-6), "shift": _number(), "pixels": _list(_whole(1, 2**16), 3)})
_manifest = _table(
    {
        "name": _text,
        "model": _onnx,
        "scheme": _text,
        "classes": _or_null(_whole(1, 2**31)),
        "params": _whole(0),
        "macs": _whole(0),
        "data": _or_null(_text),
        "teacher_sampling": _mapping(lambda value, key: None),
        "batch": _or_null(_whole(1, 2**20)),
        "inputs": _mapping(_tensor),
        "sampling": _sampling,
        "files": _mapping(_table({"sha256": _sha, "bytes": _whole(0)}), rf"({_FILE}/)?{_FILE}"),
    },
    {
        "sampler": _or_null(_onnx),
        "outputs": _mapping(_tensor),
        "timesteps": _or_null(_list(_whole(0), 1)),
        "sizes": _or_null(
            _table({"multiple": _whole(1, 2**15)}, {"listed": _or_null(_list(_list(_whole(1, 2**15), 2)))})
        ),
        "made_by": _text,
        "text": _or_null(_text_encoder),
        "decoder": _or_null(_decoder),
    },
)


def read_manifest(path: Path) -> dict[str, Any]:
    """The checked content of the `bundle.json` in a folder. Raises BundleError."""
    file = path / "bundle.json"
    if not os.path.lexists(file):
        raise BundleError(f"{path}: no bundle.json here; give the folder that export_onnx wrote")
    try:
        manifest = read_json(file)
        version = manifest.get("format") if isinstance(manifest, dict) else None
        if type(version) is int and version != FORMAT:
            raise BundleError(f"{file}: format {version}; this version reads format {FORMAT}")
        _table({"format": _whole(FORMAT, FORMAT)})(manifest, "")
        _manifest(manifest, "")
        _fits(manifest)
    except (Unreadable, _Fault) as fault:
        raise BundleError(f"{file}: is damaged: {str(fault).removeprefix(': ')}; export the model again") from None
    return dict(manifest)


def _fits(manifest: Mapping[str, Any]) -> None:
    """Raises _Fault if two entries contradict each other."""
    inputs, sampling, classes = manifest["inputs"], manifest["sampling"], manifest.get("classes")
    batch = manifest["batch"] or "batch"
    for name, ranks in (("sample", (4, 3)), ("timestep", (1,))):
        if name not in inputs or len(inputs[name]["shape"]) not in ranks:
            wanted = " or ".join(map(str, ranks))
            raise _Fault(f"inputs.{name}: should have {wanted} dimensions; got {inputs.get(name)}")
    for name, spec in inputs.items():
        first, *rest = spec["shape"]
        if first != batch or "batch" in rest or math.prod(rest) > MOST_VALUES:
            raise _Fault(f"inputs.{name}.shape: should be [{batch}, sizes]; got {spec['shape']}")
    if "class_labels" in inputs and classes is None:
        raise _Fault("classes: is missing, but there is an input class_labels")
    for name, spec in manifest.get("outputs", {}).items():
        if spec["shape"] != inputs["sample"]["shape"]:
            raise _Fault(f"outputs.{name}.shape: should be that of inputs.sample; got {spec['shape']}")
    if len(manifest.get("outputs", [0])) != 1:
        raise _Fault(f"outputs: should be one; got {list(manifest['outputs'])}")
    for place in ("alpha", "sigma") if "levels" in sampling else ():
        if len(sampling["levels"][place]) != len(sampling["steps"]) + 1:
            raise _Fault(f"sampling.levels.{place}: should be one more than there are steps")
    known = manifest.get("timesteps")
    paths = {f"others[{i}]": steps for i, steps in enumerate(sampling.get("others", []))} | {"steps": sampling["steps"]}
    told = {f"{path}[{i}]": step["timestep"] for path, steps in paths.items() for i, step in enumerate(steps)}
    for place, timestep in told.items() if inputs["timestep"]["dtype"].startswith("int") else ():
        _whole(0)(timestep, f"sampling.{place}.timestep")
    asked = set(told.values())
    if known is not None and not asked <= set(known):
        raise _Fault(f"timesteps: should hold those of sampling.steps; {sorted(asked - set(known))[0]} is not there")
    null = sampling["guidance"].get("null", {})
    others = set(null) - (set(inputs) - {"sample", "timestep"})
    if others:
        raise _Fault(f"sampling.guidance.null: should be of conditions; got {sorted(others)[0]!r}")
    for name, value in null.items():
        if isinstance(value, int) is not inputs[name]["dtype"].startswith("int"):
            raise _Fault(f"sampling.guidance.null.{name}: should be a class for labels, a file for embeddings")
    if sampling["guidance"]["kind"] == "cfg" and not null:
        raise _Fault("sampling.guidance.null: is missing, but guidance takes a second evaluation without a condition")
    _vouched(manifest)


def _vouched(manifest: Mapping[str, Any]) -> None:
    """Raises _Fault if a file that is named is not among `files`, or a part around the net does not fit it."""
    named = {"model": manifest["model"], "sampler": manifest.get("sampler")}
    null = manifest["sampling"]["guidance"].get("null", {})
    named |= {f"sampling.guidance.null.{key}": name for key, name in null.items()}
    for part in ("text", "decoder"):
        about = manifest.get(part) or {}
        named |= {f"{part}.{key}": about.get(key) for key in ("model", "tokenizer")}
    text, inputs = manifest.get("text"), manifest["inputs"]
    if text and (wanted := inputs.get(text["condition"], {}).get("shape", ()))[1:-1] != [text["tokens"]]:
        raise _Fault(f"text: makes {text['tokens']} tokens of {text['condition']!r}, which the inputs say is {wanted}")
    pixels, sides = (manifest.get("decoder") or {}).get("pixels"), inputs["sample"]["shape"][2:]
    if pixels and (len(sides) != 2 or any(pixel % side for pixel, side in zip(pixels[1:], sides, strict=True))):
        raise _Fault(f"decoder.pixels: should be channels and multiples of the sample's {sides}; got {pixels}")
    for key, name in named.items():
        if isinstance(name, str) and name not in manifest["files"]:
            raise _Fault(f"{key}: {reprlib.repr(name)} is not among `files`, which vouch for what is read")

"""What a `bundle.json` may say: one table, checked key by key."""

import os
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from compress.errors import BundleError, written
from compress.files import Unreadable, read_json
from compress.runtime.agreement import Fault, check_agreement
from compress.runtime.engine import DTYPES
from compress.runtime.sampling import Step

FORMAT = 1
_FILE = r"\w[\w.+-]{0,99}"  # a name in the folder, or in one within it

Check = Callable[[Any, str], None]  # (value, its key) -> None; raises Fault


def _if(what: str, holds: Callable[[Any], bool]) -> Check:
    def check(value: Any, key: str) -> None:
        if not holds(value):
            raise Fault(f"{key}: should be {what}; got {reprlib.repr(value)}")

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
            raise Fault(f"{key}: should hold {', '.join(needed)} alone; got {reprlib.repr(list(value))}")
        for name, one in {**needed, **(others or {})}.items():
            inner = f"{key}.{name}".removeprefix(".")
            if name in value:
                one(value[name], inner)
            elif name in needed:
                raise Fault(f"{inner}: is missing")

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
    {
        **_part,
        "tokenizer": _text,
        "tokens": _whole(1, 2**16),
        "pad": _whole(0, 2**31),
        "inputs": _list(_one_of("input_ids", "attention_mask"), 1),
        "outputs": _mapping(_list(_whole(1, 2**20), 1)),
        "lowered": _flag,
    }
)
_row = _if(
    'a number of tokens, or a list like ["text_encoder.last_hidden_state"]',
    lambda v: (
        (type(v) is int and 1 <= v <= 2**16) or (type(v) is list and v != [] and all(type(key) is str for key in v))
    ),
)
_told = _if("a number, height, width or aspect", lambda v: _finite(v) or v in ("height", "width", "aspect"))
_texts = _table(
    {
        "encoders": _mapping(_text_encoder),
        "made": _mapping(_list(_row, 1)),
        "told": _mapping(_list(_told, 1)),
        "width": _whole(0, 2**20),
    }
)
_decoder = _table({**_part, "scale": _number(1e-6), "shift": _number(), "pixels": _list(_whole(1, 2**16), 3)})
_encoder = _table(
    {
        **_part,
        "scale": _number(1e-6),
        "shift": _number(),
        "pixels": _list(_whole(1, 2**16), 3),
        "gives": _one_of("latent_parameters", "latent_sample"),
    }
)
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
        "targets": _mapping(_text),
        "text": _or_null(_texts),
        "decoder": _or_null(_decoder),
        "encoder": _or_null(_encoder),
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
        check_agreement(manifest)
    except (Unreadable, Fault) as fault:
        raise BundleError(f"{file}: is damaged: {str(fault).removeprefix(': ')}; export the model again") from None
    return dict(manifest)

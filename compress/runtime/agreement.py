"""Whether what a `bundle.json` says in one place agrees with what it says in another."""

import math
import reprlib
from collections.abc import Mapping
from typing import Any

from compress.errors import written
from compress.runtime.contents import parts_around
from compress.runtime.texts import shapes_of

MOST_VALUES = 2**27  # in one item of an input


class Fault(ValueError):
    """What is wrong with a manifest, and where."""


def check_agreement(manifest: Mapping[str, Any]) -> None:
    """Raises Fault if two entries of a manifest contradict each other."""
    inputs, sampling, classes = manifest["inputs"], manifest["sampling"], manifest.get("classes")
    batch = manifest["batch"] or "batch"
    for name, ranks in (("sample", (4, 3)), ("timestep", (1,))):
        if name not in inputs or len(inputs[name]["shape"]) not in ranks:
            wanted = " or ".join(map(str, ranks))
            raise Fault(f"inputs.{name}: should have {wanted} dimensions; got {inputs.get(name)}")
    for name, spec in inputs.items():
        first, *rest = spec["shape"]
        if first != batch or "batch" in rest or math.prod(rest) > MOST_VALUES:
            raise Fault(f"inputs.{name}.shape: should be [{batch}, sizes]; got {spec['shape']}")
    if "class_labels" in inputs and classes is None:
        raise Fault("classes: is missing, but there is an input class_labels")
    for name, spec in manifest.get("outputs", {}).items():
        if spec["shape"] != inputs["sample"]["shape"]:
            raise Fault(f"outputs.{name}.shape: should be that of inputs.sample; got {spec['shape']}")
    if len(manifest.get("outputs", [0])) != 1:
        raise Fault(f"outputs: should be one; got {list(manifest['outputs'])}")
    for place in ("alpha", "sigma") if "levels" in sampling else ():
        if len(sampling["levels"][place]) != len(sampling["steps"]) + 1:
            raise Fault(f"sampling.levels.{place}: should be one more than there are steps")
    known = manifest.get("timesteps")
    paths = {f"others[{i}]": steps for i, steps in enumerate(sampling.get("others", []))} | {"steps": sampling["steps"]}
    told = {f"{path}[{i}]": step["timestep"] for path, steps in paths.items() for i, step in enumerate(steps)}
    for place, timestep in told.items() if inputs["timestep"]["dtype"].startswith("int") else ():
        if type(timestep) is not int or not 0 <= timestep <= 2**53:
            raise Fault(f"sampling.{place}.timestep: should be a whole number from 0; got {reprlib.repr(timestep)}")
    asked = set(told.values())
    if known is not None and not asked <= set(known):
        raise Fault(f"timesteps: should hold those of sampling.steps; {sorted(asked - set(known))[0]} is not there")
    null = sampling["guidance"].get("null", {})
    others = set(null) - (set(inputs) - {"sample", "timestep"})
    if others:
        raise Fault(f"sampling.guidance.null: should be of conditions; got {sorted(others)[0]!r}")
    for name, value in null.items():
        if isinstance(value, int) is not inputs[name]["dtype"].startswith("int"):
            raise Fault(f"sampling.guidance.null.{name}: should be a class for labels, a file for embeddings")
    if sampling["guidance"]["kind"] == "cfg" and not null:
        raise Fault("sampling.guidance.null: is missing, but guidance takes a second evaluation without a condition")
    _vouched(manifest)


def _vouched(manifest: Mapping[str, Any]) -> None:
    """Raises Fault if a file that is named is not among `files`, or a part around the net does not fit it."""
    named = {"model": manifest["model"], "sampler": manifest.get("sampler")}
    null = manifest["sampling"]["guidance"].get("null", {})
    named |= {f"sampling.guidance.null.{key}": name for key, name in null.items()}
    for part, about in parts_around(manifest).items():
        named |= {f"{part}.{key}": about.get(key) for key in ("model", "tokenizer")}
    if text := manifest.get("text"):
        try:
            made = shapes_of(text)
        except (KeyError, ValueError) as error:
            raise Fault(f"text.made: does not follow from text.encoders: {error}") from None
        for name, shape in made.items():
            wanted = manifest["inputs"].get(name, {}).get("shape", [])[1:]
            if shape != wanted:
                raise Fault(f"text: makes {shape} of {written(name)}, which the inputs say is {wanted}")
    pixels, sides = (manifest.get("decoder") or {}).get("pixels"), manifest["inputs"]["sample"]["shape"][2:]
    if pixels and (len(sides) != 2 or any(pixel % side for pixel, side in zip(pixels[1:], sides, strict=True))):
        raise Fault(f"decoder.pixels: should be channels and multiples of the sample's {sides}; got {pixels}")
    for key, name in named.items():
        if isinstance(name, str) and name not in manifest["files"]:
            raise Fault(f"{key}: {reprlib.repr(name)} is not among `files`, which vouch for what is read")

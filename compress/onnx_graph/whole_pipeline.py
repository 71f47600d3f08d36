"""The whole way from token ids to pixels as one graph: text encoders before a sampler, a decoder behind it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from compress.onnx_graph.clean import clean
from compress.onnx_graph.unroll import IMAGE, NOISE
from compress.runtime.texts import MASK, found_shapes, token_inputs

Values = Mapping[str, ir.Value]


def from_tokens_to_pixels(sampler: ir.Model, folder: Path, about: Mapping[str, Any]) -> ir.Model:
    """(noise, token ids, other conditions) -> pixels, of `sampler`, (noise, conditions) -> image, which is used up.

    folder: of a bundle, whose graphs are put around it. about: `text` and `decoder` of its bundle.json, if it has them.
    Token ids, and masks that are read, are inputs "encoder.input" [batch,tokens]; what is told of a picture's size
    stays an input.
    """
    given = {str(value.name): value for value in sampler.graph.inputs}
    noise, text, decoder = given[NOISE], about.get("text"), about.get("decoder")
    if not text and not decoder:
        return sampler
    whole = _Whole(folder, noise, dict(sampler.graph.opset_imports))
    made = whole.conditions(text) if text else {}
    (image,) = whole.moved(sampler, "sampler", given | made | {NOISE: whole.noise})
    whole.graph.inputs.extend(value for name, value in given.items() if name != NOISE and name not in made)
    if decoder:
        scaled = whole.tape.op("Div", [image, whole.constant(np.float32(decoder["scale"]))])
        latents = whole.tape.op("Add", [scaled, whole.constant(np.float32(decoder["shift"]))])
        (image,) = whole.moved(ir.load(folder / decoder["model"]), "decoder", {"latent_sample": latents})
        assert image.shape is not None
        image.shape = ir.Shape([whole.batch, *image.shape[1:]])
    image.name = IMAGE
    whole.graph.outputs.append(image)
    model = ir.Model(whole.graph, ir_version=sampler.ir_version)
    clean(model)
    return model


class _Whole:
    """A graph that grows from its inputs on. noise: the first of them."""

    def __init__(self, folder: Path, noise: ir.Value, opsets: dict[str, int]) -> None:
        self.folder = folder
        self.graph = ir.Graph([], [], nodes=[], opset_imports=opsets, name="pipeline")
        self.tape = ir.tape.Tape(self.graph)
        self.noise = ir.Value(name=NOISE, type=noise.type, shape=noise.shape)
        self.graph.inputs.append(self.noise)
        assert noise.shape is not None
        self.batch = noise.shape[0]

    def constant(self, array: np.ndarray | np.float32) -> ir.Value:
        return self.tape.initializer(ir.tensor(array), name=f"around{len(self.tape.initializers)}")

    def moved(self, model: ir.Model, name: str, given: Values) -> list[ir.Value]:
        """The outputs of a model on `given`, by its inputs' names. Its nodes and weights are moved here."""
        part = model.graph
        for value in part.inputs:
            if given[str(value.name)] is not value:
                value.replace_all_uses_with(given[str(value.name)])
        weights, nodes, outputs = list(part.initializers.values()), list(part), list(part.outputs)
        part.inputs.clear()
        part.initializers.clear()
        part.outputs.clear()
        part.remove(nodes)
        for value in weights:
            value.name = f"{name}.{value.name}"
            self.graph.register_initializer(value)
        self.graph.extend(nodes)
        self.graph.opset_imports.update(part.opset_imports)
        return outputs

    def conditions(self, text: Mapping[str, Any]) -> dict[str, ir.Value]:
        """What becomes of token ids, as `runtime.texts.conditions_of` says it of arrays."""
        ids, found, shapes = dict[str, ir.Value](), dict[str, ir.Value](), found_shapes(text)
        for name, spec in token_inputs(text).items():
            shape = ir.Shape([self.batch, *spec["shape"][1:]])
            ids[name] = ir.Value(name=name, type=ir.TensorType(ir.DataType.INT64), shape=shape)
            if name.endswith(f".{MASK}"):
                found[name] = self.tape.op("Cast", [ids[name]], {"to": ir.DataType.FLOAT.value})
        self.graph.inputs.extend(ids.values())
        for name, one in text["encoders"].items():
            given = {key: ids[f"{name}.{key}"] for key in one["inputs"]}
            outputs = self.moved(ir.load(self.folder / one["model"]), name, given)
            found |= {f"{name}.{key}": value for key, value in zip(one["outputs"], outputs, strict=True)}
        return {
            condition: self.joined(
                [
                    self.zeros(row, text["width"])
                    if isinstance(row, int)
                    else self.row(row, found, shapes, text["width"])
                    for row in rows
                ],
                axis=1,
            )
            for condition, rows in text["made"].items()
        }

    def joined(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        return values[0] if len(values) == 1 else self.tape.op("Concat", values, {"axis": axis})

    def row(self, keys: Sequence[str], found: Values, shapes: Mapping[str, Sequence[int]], width: int) -> ir.Value:
        """Values side by side along the width; states [b,tokens,…] are filled up with zeros."""
        whole = self.joined([found[key] for key in keys], axis=-1)
        more = width - sum(shapes[key][-1] for key in keys)
        if len(shapes[keys[0]]) < 2 or more <= 0:
            return whole
        return self.tape.op("Pad", [whole, self.constant(np.array([0, 0, 0, 0, 0, more]))])

    def zeros(self, tokens: int, width: int) -> ir.Value:
        """[b,tokens,width]."""
        if isinstance(self.batch, int):
            return self.constant(np.zeros((self.batch, tokens, width), np.float32))
        size = self.tape.op("Shape", [self.noise], {"start": 0, "end": 1})
        shape = self.tape.op("Concat", [size, self.constant(np.array([tokens, width]))], {"axis": 0})
        return self.tape.op("Expand", [self.constant(np.zeros((1, 1, 1), np.float32)), shape])

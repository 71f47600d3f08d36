"""The whole sampler as one graph: every evaluation with the solver's arithmetic between, weights stored once."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from compress.model.denoiser import Denoiser
from compress.model.scalars import STEPS
from compress.onnx_graph.clean import clean
from compress.onnx_graph.precompute import fold_known, fold_rows
from compress.runtime.sampling import Step

NOISE, IMAGE = "noise", "image"


class _Sampler:
    """A graph that grows from the noise on.

    conditions: its other inputs, by name.
    """

    def __init__(self, denoiser: ir.Model) -> None:
        self.denoiser = denoiser.graph
        self.conditions = {value.name: _copied(value) for value in self.denoiser.inputs}
        self.weights = {name: _copied(value) for name, value in self.denoiser.initializers.items()}
        self.noise = self.conditions.pop("sample")
        self.noise.name = NOISE
        self.time = self.conditions.pop("timestep").dtype.numpy().type
        self.told = self.conditions.pop(STEPS, None) is not None
        self.graph = ir.Graph(
            [self.noise, *self.conditions.values()],
            [],
            nodes=[],
            initializers=self.weights.values(),
            opset_imports=self.denoiser.opset_imports,
            name="sampler",
        )
        self.tape = ir.tape.Tape(self.graph)
        self.batch = self.noise.shape[0] if isinstance(self.noise.shape[0], int) else None
        self.size = None if self.batch else self.tape.op("Shape", [self.noise], {"start": 0, "end": 1})

    def constant(self, array: np.ndarray | np.float32) -> ir.Value:
        return self.tape.initializer(ir.tensor(array), name=f"given{len(self.tape.initializers)}")

    def filled(self, value: np.ndarray) -> ir.Value:
        """A constant for every item of the batch."""
        if self.batch is not None:
            return self.constant(np.broadcast_to(value, (self.batch, *value.shape)).copy())
        shape = self.size
        if value.ndim:
            shape = self.tape.op("Concat", [shape, self.constant(np.array(value.shape))], {"axis": 0})
        return self.tape.op("Expand", [self.constant(value[None]), shape])

    def linear(self, *terms: tuple[float, ir.Value]) -> ir.Value:
        """The sum of factor × tensor; terms of factor 0 are left out."""
        total = None
        for factor, value in terms:
            if factor == 0:
                continue
            scaled = value if factor == 1 else self.tape.op("Mul", [value, self.constant(np.float32(factor))])
            total = scaled if total is None else self.tape.op("Add", [total, scaled])
        assert total is not None
        return total

    def clipped(self, value: ir.Value, limit: float) -> ir.Value:
        return self.tape.op("Clip", [value, *(self.constant(np.float32(end)) for end in (-limit, limit))])

    def known(self, timestep: float, steps: int) -> dict[str, ir.Value]:
        """What the net is told beside sample and conditions."""
        found = {"timestep": self.filled(np.asarray(self.time(timestep)))}
        return found | ({STEPS: self.filled(np.asarray(np.float32(steps)))} if self.told else {})

    def evaluate(self, sample: ir.Value, given: Mapping[str, ir.Value]) -> ir.Value:
        """Another evaluation: all nodes with values of their own, on the same weights."""
        copy = self.denoiser.clone()
        (output,), nodes = copy.outputs, list(copy)
        meant = {**self.weights, **self.conditions, **given, "sample": sample}
        for value in (*copy.inputs, *copy.initializers.values()):
            value.replace_all_uses_with(meant[value.name])
        copy.outputs.clear()
        copy.remove(nodes)
        self.graph.extend(nodes)
        return output


def unroll(
    denoiser: ir.Model,
    steps: Sequence[Step],
    clip_range: float | None,
    scale: float | None,
    null: Mapping[str, np.ndarray],
    classes: int | None,
) -> ir.Model:
    """(noise, conditions) -> image, in one graph.

    denoiser: (sample, timestep, conditions, scalars) -> out_sample. scale: of classifier-free guidance, which takes a
    second evaluation with the `null` conditions; None: one evaluation is guided. classes: labels there are. Where the
    batch size is fixed, what follows from the timestep becomes a constant; where it is 1, what follows from timestep
    and label becomes a table.
    """
    grown = _Sampler(denoiser)
    nulls = {name: grown.filled(np.asarray(value)) for name, value in null.items()} if scale is not None else {}
    plain = clip_range is None and not any(step.next_from_previous or step.next_from_earlier for step in steps)
    sample, kept = grown.noise, list[ir.Value]()
    for step in steps:
        known = grown.known(step.timestep, len(steps))
        output = grown.evaluate(sample, known)
        if scale is not None:
            output = grown.linear((scale, output), (1 - scale, grown.evaluate(sample, known | nulls)))
        if plain:
            whole = step.next_from_sample + step.next_from_clean * step.clean_from_sample
            sample = grown.linear((whole, sample), (step.next_from_clean * step.clean_from_output, output))
            continue
        estimate = grown.linear((step.clean_from_sample, sample), (step.clean_from_output, output))
        kept = [estimate if clip_range is None else grown.clipped(estimate, clip_range), *kept[:2]]  # the last first
        factors = (step.next_from_clean, step.next_from_previous, step.next_from_earlier)
        sample = grown.linear((step.next_from_sample, sample), *zip(factors, kept, strict=False))
    sample.name, sample.type, sample.shape = IMAGE, grown.noise.type, grown.noise.shape
    grown.graph.outputs.append(sample)
    sampler = ir.Model(grown.graph, ir_version=denoiser.ir_version)
    clean(sampler)  # names that are used twice, too
    if grown.batch is not None:
        fold_known(sampler, grown.tape.initializers)
    if grown.batch == 1 and classes is not None and "class_labels" in grown.conditions:
        return fold_rows(sampler, "class_labels", range(classes))
    return sampler


def _copied(value: ir.Value) -> ir.Value:
    """A value of another graph: its name, type and constant."""
    return ir.Value(name=value.name, type=value.type, shape=value.shape, const_value=value.const_value)


def sampler_of(model: Denoiser, graph: ir.Model) -> ir.Model:
    """The whole way from noise to image as one graph."""
    sampling = model.sampling
    null: dict[str, np.ndarray] = {}
    scale, label = None, sampling.guidance.null_class
    if sampling.guidance.kind == "cfg":
        scale = sampling.guidance.scale
        null = {name: model.null[name].cpu().numpy() if label is None else np.asarray(label) for name in model.dropped}
    count = model.family.classes(model.net)
    return unroll(graph, sampling.steps(), sampling.clip_range, scale, null, count)

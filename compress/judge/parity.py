"""Whether a file computes what its model does, and where its kernels compute something else than its graph says."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch

from compress.errors import ExportError
from compress.judge.quality import sqnr
from compress.measure import latency
from compress.model.denoiser import Denoiser
from compress.onnx_graph.export import as_exported, lean
from compress.onnx_graph.shown import NODE_BY_NODE, shown
from compress.pipeline.manifest import input_names
from compress.quantization.calibration import answers
from compress.randomness import Draw, generator
from compress.runtime import Bundle
from compress.runtime.engines import ONNXRUNTIME
from compress.runtime.schemes import SCHEMES

KERNEL_LOSS_DB = 1.0  # by which a file may be less exact than its simulation
WRONG_LAYER_DB = 25.0  # a layer less exact than this does not merely round otherwise
TOGETHER = 8  # samples in one evaluation by PyTorch
CHECKED = (65536, 8, 64)  # numbers in all the outputs that are compared; least and most evaluations
PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def first_wrong_layer(
    model: ir.Model, feeds: Sequence[Mapping[str, np.ndarray]], scheme: str, least: float
) -> tuple[str, float] | None:
    """(name, dB) of the first product whose result, as onnxruntime's kernels give it, is nearer than `least` dB to
    noise against the same graph computed node by node; None: there is none.

    model: whose nodes are `named`, as `onnx_graph.export.to_onnx` does; it is changed. feeds: inputs by name.
    """
    looked = dict[ir.Value, str]()  # output → layer, in the order of the graph
    for node in model.graph:
        if node.op_type not in PRODUCTS:
            continue
        (output,), kind = node.outputs, ir.DataType.FLOAT
        after = [use.node for use in output.uses()]
        if [reader.op_type for reader in after] == ["QuantizeLinear"]:  # kernels give bytes: there are no floats
            (output,), kind = after[0].outputs, after[0].inputs[2].const_value.dtype
        output.type = ir.TensorType(kind)
        looked[output] = node.name.partition("/")[0]
    answered = []
    for engine in (NODE_BY_NODE, ONNXRUNTIME):
        found = list(shown(model, looked, feeds, engine, scheme))
        answered.append([np.concatenate([values[one.name].reshape(-1) for values in found]) for one in looked])
    for layer, plain, kernels in zip(looked.values(), *answered, strict=True):
        wanted = plain.astype(np.float64)
        agreement = sqnr(wanted - wanted.mean(), kernels.astype(np.float64) - wanted.mean())
        if not agreement >= least:
            return layer, agreement
    return None


def questions(model: Denoiser, inputs: tuple[torch.Tensor, ...], seed: int) -> list[torch.Tensor]:
    """(sample, timestep, *inputs), each [n,…], to ask model and file: noise at the model's own timesteps.

    inputs: examples of what the file takes, of its batch size.
    """
    random = generator(seed, Draw.EXPORT_CHECK)
    numbers, fewest, most = CHECKED
    own = model.sampling.told(torch.tensor(model.sampling.timesteps))
    count = min(max(-(-numbers // inputs[0].numel()), fewest), most)
    found = []
    for i in range(count):
        conditions = []
        for (name, condition), example in zip(model.inputs.items(), inputs[2:], strict=True):
            if condition.dtype == torch.int64:
                conditions.append(torch.randint(model.classes or 1, example.shape, generator=random))
            elif name in model.conditions:
                conditions.append(torch.randn(example.shape, generator=random))
            else:
                conditions.append(1 + 3 * torch.rand(example.shape, generator=random))
        sample = torch.randn(inputs[0].shape, generator=random)
        found.append((sample, own[i * len(own) // count].expand(len(sample)), *conditions))
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def check_bundle(
    model: Denoiser,
    bundle: Bundle,
    inputs: tuple[torch.Tensor, ...],
    batch: int | None,
    opset: int,
    seed: int,
    name: str,
) -> dict[str, float]:
    """SQNR in dB of a bundle's net, for the record. Raises ExportError where it is not what PyTorch computes.

    inputs: examples of what it takes. batch, opset: that it was exported for. name: of the pass, for the error.
    """
    size, names = len(inputs[0]), input_names(model)
    points = questions(model, inputs, seed)
    asked = list(zip(*(value.numpy().reshape(-1, size, *value.shape[1:]) for value in points), strict=True))
    got = np.concatenate([bundle.denoise(x, t, dict(zip(model.inputs, given, strict=True))) for x, t, *given in asked])

    def answered(module: Denoiser) -> np.ndarray:
        given = [value.to(inputs[0].device) for value in points]
        return answers(module, given, batch=max(1, TOGETHER // size) * size).cpu().numpy()

    row = SCHEMES[model.scheme]
    if not row.by_simulation:
        agreement, least = sqnr(answered(model), got), row.least_db
        found = {"sqnr_to_pytorch_db": round(agreement, 2)}
    else:
        wanted = answered(model.in_float())
        agreement, simulated = sqnr(wanted, got), sqnr(wanted, answered(model))
        least = min(simulated - KERNEL_LOSS_DB, row.least_db)
        found = {"sqnr_to_float_db": round(agreement, 2), "simulated_sqnr_to_float_db": round(simulated, 2)}
    if agreement >= least:
        return found
    with model.family.lean.within(model.net):
        named = lean(as_exported(model.module, inputs, names, batch, opset), named=True)
    feeds = [dict(zip(names, parts, strict=True)) for parts in asked]
    wrong = first_wrong_layer(named, feeds, model.scheme, WRONG_LAYER_DB)
    said = f"; the first layer that onnxruntime computes otherwise is {wrong[0]} ({wrong[1]:.1f} dB)" if wrong else ""
    raise ExportError(
        f"{name}: {bundle.manifest['model']} differs from the PyTorch model: {agreement:.1f} dB SQNR, at least "
        f"{least:.1f} expected{said}; please report the model's config and the processor, {latency.processor()}"
    )

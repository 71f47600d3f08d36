"""Whether a file computes what its model does, and where its kernels compute something else than its graph says."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from compress.data import Dataset
from compress.errors import ExportError
from compress.judge.quality import sqnr
from compress.model.denoiser import Denoiser
from compress.model.reference import conditions_for, noise_like
from compress.randomness import Draw, generator
from compress.runtime import Bundle
from compress.runtime.engines import ONNXRUNTIME, OnnxRuntime
from compress.runtime.schemes import SCHEMES

CHECKED = (65536, 8, 64)  # numbers in all the outputs that are compared; least and most evaluations
PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def first_wrong_layer(
    model: ir.Model, feeds: Sequence[Mapping[str, np.ndarray]], scheme: str, least: float
) -> tuple[str, float] | None:
    """(name, dB) of the first product whose result, as onnxruntime's kernels give it, is nearer than `least` dB to
    noise against the same graph computed node by node; None: there is none.

    model: whose nodes are `named`, as `onnx_graph.export.to_onnx` does; it is changed. feeds: inputs by name.
    """
    graph, looked = model.graph, dict[str, str]()  # output → layer, in the order of the graph
    for node in graph:
        if node.op_type not in PRODUCTS:
            continue
        (output,), kind = node.outputs, ir.DataType.FLOAT
        after = [use.node for use in output.uses()]
        if [reader.op_type for reader in after] == ["QuantizeLinear"]:  # kernels give bytes: there are no floats
            (output,), kind = after[0].outputs, after[0].inputs[2].const_value.dtype
        if not output.is_graph_output():
            output.type = ir.TensorType(kind)
            graph.outputs.append(output)
        looked[output.name] = node.name.partition("/")[0]
    answers = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "named.onnx")
        ir.save(model, file, external_data="weights.bin")
        for engine in (OnnxRuntime(optimized=False), ONNXRUNTIME):
            opened = engine.open(file, 1, scheme)
            found = [dict(zip(opened.outputs, opened.run(given), strict=True)) for given in feeds]
            answers.append([np.concatenate([outputs[name].reshape(-1) for outputs in found]) for name in looked])
    for layer, plain, kernels in zip(looked.values(), *answers, strict=True):
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


def check_sampler(model: Denoiser, bundle: Bundle, dataset: Callable[[], Dataset], seed: int, name: str) -> float:
    """SQNR in dB of a bundle's one graph of all steps against the steps, on noise. name: of who asks, for errors.

    Raises ExportError where they differ.
    """
    count = bundle.batch or 2
    rounds = max(1, 4 // count)
    noise = noise_like(model, rounds * count, seed, Draw.SAMPLER_CHECK).numpy()
    conditions = conditions_for(model, len(noise), dataset, seed)
    given = {name: value.numpy() for name, value in conditions.items()}
    agreement = sqnr(bundle.sample(noise, **given), bundle.sample_at_once(noise, **given))
    least = SCHEMES[model.scheme].least_sampler_db
    if not agreement >= least:
        raise ExportError(
            f"{name}: {bundle.manifest['sampler']} differs from sampling step by step: {agreement:.1f} dB SQNR, at "
            f"least {least:.0f} expected; please report the model's config"
        )
    return agreement

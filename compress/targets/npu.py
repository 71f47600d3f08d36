"""NPUs: the net at fixed sizes, every value rounded (QDQ), weights to 8 bits and activations to 16 or 8.

It answers at its own timesteps alone, from a table: sines of timesteps have too few digits in 16 bits. What reads
texts and what makes pixels stay as they are in the bundle. Numbers are those of onnxruntime, which rounds where the
file says; where onnxruntime-qnn is installed, Qualcomm's compiler takes the file and its simulator runs it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from compress.errors import BundleError, TargetError
from compress.files import write_json
from compress.judge.quality import sqnr
from compress.model.denoiser import example_inputs
from compress.onnx_graph.export import as_exported, lean
from compress.onnx_graph.fully_quantized import part_swish, quantize_fully, ranges, scale_by_convolutions
from compress.onnx_graph.npu_rules import refusals
from compress.onnx_graph.precompute import INLINE_LIMIT, constant_bytes, fold_rows
from compress.onnx_graph.simplify import tidy
from compress.pipeline.manifest import copy_bundle, input_names, write_manifest
from compress.quantization.calibration import answers
from compress.runtime import Bundle
from compress.runtime.engine import Engine
from compress.runtime.engines import ONNXRUNTIME
from compress.runtime.qnn import Qnn
from compress.runtime.schemes import SCHEMES
from compress.targets.made import Exported
from compress.targets.needs import Needs

POINTS = 64  # at which ranges are read
ASKED = 8  # points at which the file is held against the float net
PLAIN_NORMS = 20  # the last operator set in which PyTorch writes group norms as NPUs know them
SIMULATED = 2  # of them in a simulator, which takes seconds a point


@dataclass(frozen=True)
class Npu:
    """scheme: of the table of schemes. opset: that its compilers take. compilers: of `npu_rules`."""

    scheme: str
    opset: int
    compilers: tuple[str, ...]
    engine: Engine = ONNXRUNTIME

    def prepare(self, needs: Needs) -> None:
        """As `compress.targets` says. Raises TargetError."""
        if not needs.whole_timesteps:
            raise TargetError(
                f"{self.scheme}: a file for NPUs answers by a table of timesteps, which must be whole numbers, and "
                "this model is told others; leave it out of the targets"
            )

    def write(self, made: Exported, folder: Path) -> None:
        """The bundle, its net in this form."""
        bundle, source = made.bundle, made.source
        assert source is not None
        model, own = source.model.in_float(), list(source.timesteps)
        inputs, names = example_inputs(model, batch=1), input_names(model)
        with model.family.lean.within(model.net):
            exported = as_exported(model.module, inputs, names, 1, min(self.opset, PLAIN_NORMS))
            graph = fold_rows(lean(exported), "timestep", own)
        graph.opset_imports[""] = self.opset
        scale_by_convolutions(graph)
        points = [value[:POINTS].cpu().numpy() for value in source.points()]
        feeds = [dict(zip(names, (value[i : i + 1] for value in points), strict=True)) for i in range(len(points[0]))]
        bits = SCHEMES[self.scheme].activation_bits
        assert bits is not None
        if bits > 8:
            part_swish(graph)
        tidy(graph)
        quantize_fully(graph, ranges(graph, feeds), bits)
        tidy(graph, share=False)  # of equal whole numbers on several grids, compilers know the first grid alone
        ShapeInferencePass()(graph)
        name, sampler = bundle.manifest["model"], bundle.manifest.get("sampler")
        copy_bundle(bundle, folder, without=[name, *filter(None, [sampler])])
        (folder / name).parent.mkdir(exist_ok=True)
        ir.save(graph, folder / name, external_data="weights.bin" if constant_bytes(graph) > INLINE_LIMIT else None)
        about = {**source.about, "sampler": None, "timesteps": own, "scheme": self.scheme, "sizes": None}
        write_manifest(folder, model, 1, about)

    def judge(self, made: Exported, folder: Path) -> Mapping[str, Any]:
        """dB to the float net; what compilers refuse; whether a simulator agrees, which bundle.json says too."""
        bundle, source = Bundle(folder), made.source
        assert source is not None
        points = [value[:: max(1, len(value) // ASKED)][:ASKED] for value in source.points()]
        wanted = answers(source.model.in_float(), points).cpu().numpy()
        sample, timestep, *given = (value.cpu().numpy() for value in points)
        got = _at(bundle, sample, timestep, dict(zip(source.model.inputs, given, strict=True)))
        found: dict[str, Any] = {"sqnr_to_float_db": round(sqnr(wanted, got), 2)}
        graph = ir.load(folder / bundle.manifest["model"])
        refused = {name: said for name in self.compilers if (said := refusals(graph, name))}
        found |= {"refused": refused} if refused else {}
        try:
            simulated = Bundle(folder, engine=Qnn())
            some = {name: value[:SIMULATED] for name, value in zip(source.model.inputs, given, strict=True)}
            drawn = _at(simulated, sample[:SIMULATED], timestep[:SIMULATED], some)
        except BundleError as error:
            return found | {"run": f"converted, not run: {error}"}
        told = {"engine": f"qnn {Qnn().version}", "qnn_sqnr_db": round(sqnr(got[:SIMULATED], drawn), 2)}
        write_json(folder / "bundle.json", bundle.manifest | {"simulator": told})  # a verdict asks for it
        return found | told


def _at(bundle: Bundle, sample: np.ndarray, timestep: np.ndarray, given: Mapping[str, np.ndarray]) -> np.ndarray:
    """What a bundle of batch 1 answers at points [n,…]."""
    parts = [
        bundle.denoise(
            sample[i : i + 1], timestep[i : i + 1], {name: value[i : i + 1] for name, value in given.items()}
        )
        for i in range(len(sample))
    ]
    return np.concatenate(parts)

"""The strongest baseline that is always at hand: the teacher as it is, in onnxruntime fp32.

It is exported as a bundle once and then kept. Where it computes what PyTorch computes, it draws the teacher's samples
too: several times as fast, and on all cores.
"""

import copy
import dataclasses
import hashlib
import importlib.metadata
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from compress.diffusion.sampling import Guidance
from compress.errors import BundleError
from compress.files import cache_folder, sha256
from compress.judge.probe import Evaluate
from compress.judge.quality import sqnr
from compress.measure import counts
from compress.measure.workers import draw_on_all_cores
from compress.model.denoiser import Denoiser, example_inputs, predict, steered
from compress.model.reference import PYTORCH, Drawer, Progress, net_identity, noise_like
from compress.onnx_graph.export import to_onnx
from compress.onnx_graph.parts import denoiser_file, export_parts
from compress.pipeline.manifest import input_names, sampling_of, write_manifest
from compress.pipeline.pipeline import Parts
from compress.randomness import Draw, generator
from compress.runtime import Bundle
from compress.runtime.engine import Feeds, Graph
from compress.runtime.engines import ONNXRUNTIME

EQUAL_DB = 60.0  # of signal to difference, from which two runtimes count as one
CHECKED = 8  # items, each at a timestep of its own, on which they are compared
SHARE = 10  # images that a core draws at once


@dataclass(frozen=True)
class Baseline:
    """A float model, what is around it, and the bundle of both, on the CPU, for any batch size. The bundle knows no
    guidance by a classifier."""

    teacher: Denoiser
    bundle: Bundle
    parts: Parts = field(default_factory=Parts)

    @cached_property
    def guided(self) -> Bundle:
        """The bundle with all the teacher's guidance."""
        return self.sampled_as(self.teacher)

    def sampled_as(self, model: Denoiser) -> Bundle:
        """The bundle, guided and sampled as `model`, which has the same net."""
        bundle = self.bundle.with_sampling(sampling_of(_without_classifier(model)))
        if model.sampling.guidance.kind == "classifier":  # its gradient needs PyTorch
            bundle = copy.copy(bundle)
            bundle.graph = _steered(model, self.bundle.graph)
        return bundle

    @property
    def evaluate(self) -> Evaluate:
        """For the probe."""
        told = self.teacher.sampling.told
        return lambda sample, _, timestep, given: self.guided.guided(
            sample, told(torch.tensor(timestep)).numpy(), given
        )

    @torch.no_grad()
    def agreement(self) -> float:
        """SQNR in dB of the graph against PyTorch, on noise at timesteps from the whole sampling."""
        teacher, random = self.teacher, generator(0, Draw.BASELINE_CHECK)
        known = torch.tensor(teacher.sampling.timesteps)
        times = known[torch.linspace(0, len(known) - 1, CHECKED).round().long()]
        sample = noise_like(teacher, CHECKED, 0, Draw.BASELINE_CHECK)
        given = {
            name: torch.randint(teacher.classes or 1, (CHECKED,), generator=random)
            if condition.dtype == torch.int64
            else torch.randn(CHECKED, *condition.shape, generator=random)
            for name, condition in teacher.conditions.items()
        }
        device = teacher.device
        wanted = predict(teacher, sample.to(device), times.to(device), {n: v.to(device) for n, v in given.items()})
        told, arrays = teacher.sampling.told(times).numpy(), {name: value.numpy() for name, value in given.items()}
        return sqnr(wanted.cpu().numpy(), self.bundle.denoise(sample.numpy(), told, arrays))

    def drawer(self, log: Callable[[str], None]) -> Drawer:
        """What draws the teacher's samples, at whatever guidance scale and steps: this bundle, if it may."""
        if drawer_name(self.teacher) == ONNXRUNTIME.name:
            agreement = self.agreement()
            if agreement >= EQUAL_DB:
                return Drawer(ONNXRUNTIME.name, self.draw)
            log(f"the teacher's samples are drawn by PyTorch: onnxruntime differs from it ({agreement:.1f} dB SQNR)")
        return PYTORCH

    def draw(
        self,
        model: Denoiser,
        noise: torch.Tensor,
        conditions: Mapping[str, torch.Tensor],
        advance: Callable[[int], None],
    ) -> torch.Tensor:
        """As `Drawer.draw`, for this teacher's net and any sampling."""
        bundle, given = self.sampled_as(model), {name: value.numpy() for name, value in conditions.items()}
        steps = len(bundle.steps)
        return torch.from_numpy(
            draw_on_all_cores(bundle, noise.numpy(), given, SHARE, lambda count: advance(count * steps))
        )


def drawer_name(teacher: Denoiser) -> str:
    """What is to draw a teacher's samples. PyTorch: on a GPU, and where guidance is a classifier's gradient."""
    by_hand = teacher.device.type != "cpu" or teacher.sampling.guidance.kind == "classifier"
    return PYTORCH.name if by_hand else ONNXRUNTIME.name


def kept(teacher: Denoiser, threads: int, progress: Progress, title: str, parts: Parts | None = None) -> Baseline:
    """The teacher in onnxruntime, exported once and then kept in the cache; a damaged file is made anew."""
    parts = parts or Parts()
    folder = cache_folder() / "teachers" / _key(teacher, parts)
    with progress(title, 1) as task:
        try:
            bundle = Bundle(folder, threads)
        except BundleError:  # there is none, or it is damaged
            _export(teacher, parts, folder)
            bundle = Bundle(folder, threads, check_hashes=False)  # another process may be writing the same
        task.advance()
    return Baseline(teacher, bundle.with_sampling(sampling_of(_without_classifier(teacher))), parts)


def _key(teacher: Denoiser, parts: Parts) -> str:
    """Tells nets, what they are exported for, and the code that exports them from each other."""
    root = Path(__file__).parents[1]
    code = hashlib.sha256()
    for room in ("families", "model", "onnx_graph", "pipeline", "quantization"):
        for source in sorted((root / room).rglob("*.py")):
            code.update(source.read_bytes())
    versions = [importlib.metadata.version(name) for name in ("torch", "diffusers", "onnx", "onnx-ir", "onnxscript")]
    left_out = sampling_of(_without_classifier(teacher))["guidance"].get("null")
    about = map(str, (teacher.conditions, teacher.classes, left_out, teacher.sampling.dtype, code.hexdigest()))
    around = (f"{name} {sha256(file)}" for name, file in parts.files.items())
    null = {f"null.{name}": value for name, value in teacher.null.items()}
    return net_identity(teacher, *about, *versions, *around, **null)[:24]


def _export(teacher: Denoiser, parts: Parts, folder: Path) -> None:
    """Write the bundle, its manifest last, without which the other files do not count."""
    graph = to_onnx(teacher.module, example_inputs(teacher, 2), input_names(teacher), None, opset=20)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        made = Path(work)
        name = denoiser_file(teacher, parts)
        (made / name).parent.mkdir(exist_ok=True)
        ir.save(graph, made / name, external_data="weights.bin")
        about = {"name": "teacher", "params": counts.parameters(teacher), "macs": counts.macs(teacher), "model": name}
        about |= export_parts(teacher, parts, made, opset=20)
        write_manifest(made, _without_classifier(teacher), None, about)
        for part in sorted(made.rglob("*"), key=lambda part: part.name == "bundle.json"):
            if part.is_file():
                (folder / part.relative_to(made)).parent.mkdir(exist_ok=True)
                part.replace(folder / part.relative_to(made))


def _without_classifier(model: Denoiser) -> Denoiser:
    """The model as a bundle can know it, in which no gradient is computed."""
    if model.sampling.guidance.kind != "classifier":
        return model
    return dataclasses.replace(model, sampling=model.sampling.model_copy(update={"guidance": Guidance()}))


def _steered(model: Denoiser, graph: Graph) -> Graph:
    """A graph whose output follows the gradient of the model's classifier."""
    scale = np.float32(model.sampling.guidance.scale)

    def run(feeds: Feeds) -> list[np.ndarray]:
        given = {name: torch.from_numpy(np.ascontiguousarray(value)).to(model.device) for name, value in feeds.items()}
        direction = steered(model, given["sample"], given["timestep"], given)
        return [graph.run(feeds)[0] + scale * direction.cpu().numpy()]

    return Graph(graph.inputs, graph.outputs, run)

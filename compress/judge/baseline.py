"""The strongest baseline that is always at hand: the teacher as it is, in onnxruntime fp32.

Its graph is exported once and then kept. Where it computes what PyTorch computes, it draws the teacher's samples too:
several times as fast, and on all cores.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch

from compress.files import cache_folder, sha256, write_json
from compress.judge.probe import Evaluate
from compress.judge.quality import sqnr
from compress.measure.workers import parallel
from compress.model.denoiser import Denoiser, example_inputs, predict, steered
from compress.model.reference import PYTORCH, Engine, Progress, net_identity, noise_like
from compress.onnx_graph.export import to_onnx
from compress.randomness import Draw, generator
from compress.runtime.bundle import open_session
from compress.runtime.sampling import classifier_free_guidance, solve

ENGINE = "onnxruntime"
EQUAL_DB = 60.0  # of signal to difference, from which two runtimes count as one
CHECKED = 8  # items, each at a timestep of its own, on which they are compared
SHARE = 10  # images that a core draws at once


@dataclass(frozen=True)
class OnnxTeacher:
    """A float model and a session of its graph, on the CPU, for any batch size. threads: of the session."""

    teacher: Denoiser
    session: onnxruntime.InferenceSession
    threads: int

    def predict(
        self, sample: np.ndarray, timestep: float | np.ndarray, conditions: Mapping[str, np.ndarray]
    ) -> np.ndarray:
        """Raw model output [b,c,h,w] without guidance. timestep: one, or [b]."""
        told = self.teacher.sampling.told(torch.as_tensor(timestep)).expand(len(sample)).numpy()
        feeds = {"sample": sample, "timestep": told, **conditions}
        return np.asarray(self.session.run(None, feeds)[0])

    def guided(self, sample: np.ndarray, timestep: float, conditions: Mapping[str, np.ndarray]) -> np.ndarray:
        """Model output [b,c,h,w] with the teacher's guidance."""
        guidance = self.teacher.sampling.guidance
        if not guidance.online:
            return self.predict(sample, timestep, conditions)
        if guidance.kind == "classifier":  # its gradient needs PyTorch
            given = {name: torch.from_numpy(value).to(self.teacher.device) for name, value in conditions.items()}
            device = self.teacher.device
            times = torch.full((len(sample),), timestep, device=device)
            direction = steered(self.teacher, torch.from_numpy(sample).to(device), times, given).cpu().numpy()
            return self.predict(sample, timestep, conditions) + np.float32(guidance.scale) * direction
        both = {
            name: np.concatenate([value, self._without(name, value)])  # the null condition second
            for name, value in conditions.items()
        }
        conditional, unconditional = np.split(self.predict(np.concatenate([sample, sample]), timestep, both), 2)
        return classifier_free_guidance(conditional, unconditional, guidance.scale)

    def _without(self, name: str, value: np.ndarray) -> np.ndarray:
        if name != self.teacher.dropped:
            return value
        null, embedding = self.teacher.sampling.guidance.null_class, self.teacher.null_embedding
        left_out = np.asarray(null) if null is not None or embedding is None else embedding.cpu().numpy()
        return np.broadcast_to(left_out.astype(value.dtype), value.shape)

    def sample(self, noise: np.ndarray, conditions: Mapping[str, np.ndarray]) -> np.ndarray:
        """Clean samples [b,c,h,w] from noise [b,c,h,w]."""
        sampling = self.teacher.sampling
        return np.asarray(
            solve(
                lambda sample, timestep: self.guided(sample, timestep, conditions),
                noise,
                sampling.steps(),
                sampling.clip_range,
            )
        )

    @property
    def evaluate(self) -> Evaluate:
        """For the probe."""
        return lambda sample, place, timestep, given: self.guided(sample, timestep, given)

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
        found = self.predict(sample.numpy(), times.numpy(), {name: value.numpy() for name, value in given.items()})
        return sqnr(wanted.cpu().numpy(), found)

    def engine(self, log: Callable[[str], None]) -> Engine:
        """What draws the teacher's samples, at whatever guidance scale and steps: this graph, if it may."""
        if engine_name(self.teacher) == ENGINE:
            agreement = self.agreement()
            if agreement >= EQUAL_DB:
                return Engine(ENGINE, self.draw)
            log(f"the teacher's samples are drawn by PyTorch: onnxruntime differs from it ({agreement:.1f} dB SQNR)")
        return PYTORCH

    def draw(
        self,
        model: Denoiser,
        noise: torch.Tensor,
        conditions: Mapping[str, torch.Tensor],
        advance: Callable[[int], None],
    ) -> torch.Tensor:
        """As `Engine.draw`, for this teacher's net and any sampling."""
        other = dataclasses.replace(self, teacher=model)

        def share(start: int) -> np.ndarray:
            part = slice(start, start + SHARE)
            return other.sample(noise[part].numpy(), {name: value[part].numpy() for name, value in conditions.items()})

        parts = []
        for samples in parallel(share, range(0, len(noise), SHARE), self.threads):
            parts.append(samples)
            advance(len(samples) * len(model.sampling.timesteps))
        return torch.from_numpy(np.concatenate(parts))


def engine_name(teacher: Denoiser) -> str:
    """What is to draw a teacher's samples. PyTorch: on a GPU, and where guidance is a classifier's gradient."""
    by_hand = teacher.device.type != "cpu" or teacher.sampling.guidance.kind == "classifier"
    return PYTORCH.name if by_hand else ENGINE


def kept(teacher: Denoiser, threads: int, progress: Progress, title: str) -> OnnxTeacher:
    """The teacher in onnxruntime, exported once and then kept in the cache; a damaged file is made anew."""
    file = cache_folder() / "teachers" / f"{_key(teacher)}.onnx"
    with progress(title, 1) as task:
        if not _whole(file):
            _export(teacher, file)
        session = open_session(file, threads)
        task.advance()
    return OnnxTeacher(teacher, session, threads)


def _key(teacher: Denoiser) -> str:
    """Tells nets, the shapes that they are exported for, and the code that exports them from each other."""
    root = Path(__file__).parents[1]
    code = hashlib.sha256()
    for source in sorted(
        [
            *root.glob("onnx_graph/*.py"),
            *root.glob("model/*.py"),
            *root.glob("pipeline/*.py"),
            *root.glob("quantization/*.py"),
        ]
    ):
        code.update(source.read_bytes())
    versions = [importlib.metadata.version(name) for name in ("torch", "diffusers", "onnx", "onnxscript")]
    return net_identity(teacher, str(teacher.conditions), str(teacher.sampling.dtype), code.hexdigest(), *versions)[:24]


def _whole(file: Path) -> bool:
    """Whether the graph and its weights are as they were written."""
    try:
        hashes = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        return file.name in hashes and all(sha256(file.with_name(name)) == wanted for name, wanted in hashes.items())
    except (OSError, ValueError, TypeError, AttributeError):
        return False


def _export(teacher: Denoiser, file: Path) -> None:
    """Write the graph, its weights beside it, and last the hashes of both, without which they do not count."""
    names = ["sample", "timestep", *teacher.conditions]
    graph = to_onnx(teacher.module, example_inputs(teacher, 2), names, None, opset=20)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder, file.name)
        ir.save(graph, made, external_data=f"{file.name}.data")
        hashes = {part.name: sha256(part) for part in made.parent.iterdir()}
        for name in hashes:
            made.with_name(name).replace(file.with_name(name))
    write_json(file.with_suffix(".json"), hashes)

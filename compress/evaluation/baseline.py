"""The strongest baseline that is always at hand: the teacher as it is, in onnxruntime fp32."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import torch

from compress.evaluation.probe import Evaluate
from compress.models.denoiser import Denoiser, example_inputs, steered
from compress.onnx_graph.export import to_onnx
from compress.runtime.bundle import open_session
from compress.runtime.sampling import classifier_free_guidance, solve


class OnnxTeacher:
    """A float model exported to `file` and run by onnxruntime on the CPU, any batch size."""

    def __init__(self, teacher: Denoiser, file: Path, threads: int) -> None:
        self.teacher, self.sampling = teacher, teacher.sampling
        self.names = ["sample", "timestep", *teacher.conditions]
        null = teacher.sampling.guidance.null_class
        embedding = teacher.null_embedding
        self._dropped = teacher.dropped
        self._null = np.asarray(null) if null is not None or embedding is None else embedding.cpu().numpy()
        onnx.save(
            to_onnx(teacher.module, example_inputs(teacher, 2), self.names, None, opset=20),
            file,
            save_as_external_data=True,
            location=f"{file.name}.data",
        )
        self.session = open_session(file, threads)

    def predict(self, sample: np.ndarray, timestep: int, conditions: Mapping[str, np.ndarray]) -> np.ndarray:
        """Raw model output [b,c,h,w] without guidance."""
        feeds = {"sample": sample, "timestep": np.full(len(sample), timestep), **conditions}
        return np.asarray(self.session.run(None, feeds)[0])

    def guided(self, sample: np.ndarray, timestep: int, conditions: Mapping[str, np.ndarray]) -> np.ndarray:
        """Model output [b,c,h,w] with the teacher's guidance."""
        guidance = self.sampling.guidance
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
        return np.broadcast_to(self._null.astype(value.dtype), value.shape) if name == self._dropped else value

    def sample(self, noise: np.ndarray, conditions: Mapping[str, np.ndarray]) -> np.ndarray:
        """Clean samples [b,c,h,w] from noise [b,c,h,w]."""
        return np.asarray(
            solve(
                lambda sample, timestep: self.guided(sample, timestep, conditions),
                noise,
                self.sampling.steps(),
                self.sampling.clip_range,
            )
        )

    @property
    def evaluate(self) -> Evaluate:
        """For the probe."""
        return lambda sample, place, timestep, given: self.guided(sample, timestep, given)

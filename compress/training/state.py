"""The state of a training run: saved while it runs, so that a killed run goes on and ends with the same weights."""

import dataclasses
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from compress.errors import PassError
from compress.files import write_atomically
from compress.training.optimizer import averages, put_averages
from compress.training.parallel import like, whole


@dataclasses.dataclass
class State:
    """What a killed run needs to go on. probes: (step, loss on held-out images); best: the weights of the least.

    writes: whether this process does, of those that have the same state or a part of it.
    """

    objective: nn.Module
    optimizer: Any
    scaler: torch.amp.GradScaler
    ema: EMAModel
    file: Path
    writes: bool = True
    step: int = 0
    probes: list[tuple[int, float]] = dataclasses.field(default_factory=list)
    best: list[torch.Tensor] = dataclasses.field(default_factory=list)

    @property
    def stale(self) -> int:
        """Probes since the best one."""
        values = [value for _, value in self.probes]
        return len(values) - 1 - values.index(min(values)) if values else 0

    @contextmanager
    @torch.no_grad()
    def averaged(self, net: nn.Module) -> Iterator[None]:
        """While open, the net has its average weights and is not trained."""
        own = [parameter.clone() for parameter in learning(net)]
        self.ema.copy_to(learning(net))
        self.objective.eval()
        yield
        self.objective.train()
        put(own, net)

    def _trained(self) -> dict[str, torch.Tensor]:
        """Parameters that training changes, and buffers."""
        tensors: dict[str, torch.Tensor] = {n: p for n, p in self.objective.named_parameters() if p.requires_grad}
        return tensors | dict(self.objective.named_buffers())

    def save(self) -> None:
        """Write the file. Where the state is split among processes, all must be here."""
        tensors = {f"objective.{name}": tensor for name, tensor in self._trained().items()}
        tensors |= {f"ema.{i}": tensor for i, tensor in enumerate(self.ema.shadow_params)}
        tensors |= {f"best.{i}": tensor for i, tensor in enumerate(self.best)}
        tensors |= {f"optimizer.{path}": tensor for path, tensor in averages(self.optimizer).items()}
        for name in list(tensors):
            tensor = whole(tensors.pop(name).detach())
            if self.writes:
                tensors[name] = tensor.cpu().contiguous()
        if not self.writes:
            return
        told = {"step": self.step, "probes": self.probes, "scaler": self.scaler.state_dict()}
        metadata = {name: json.dumps(value) for name, value in told.items()}
        write_atomically(self.file, lambda part: save_file(tensors, part, metadata), parents=False)

    def restore(self) -> None:
        """Read the file of a killed run, if there is one. Raises PassError for a damaged one."""
        if not self.file.is_file():
            return
        try:
            with safe_open(self.file, framework="pt") as opened:
                metadata = opened.metadata()
                self.step = int(metadata["step"])
                scaler = json.loads(metadata["scaler"])
                self.probes = [(int(step), float(value)) for step, value in json.loads(metadata["probes"])]
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise PassError(f"{self.file}: is damaged ({error}); delete it, or start over with --fresh") from None
        with torch.no_grad():
            for name, tensor in self._trained().items():
                tensor.copy_(like(tensors[f"objective.{name}"], tensor))
        ema = self.ema
        if self.probes:
            self.best = [torch.empty_like(p) for p in ema.shadow_params]
            for i, parameter in enumerate(self.best):
                parameter.copy_(like(tensors[f"best.{i}"], parameter))
        for i, parameter in enumerate(ema.shadow_params):
            parameter.copy_(like(tensors[f"ema.{i}"], parameter))
        ema.optimization_step = self.step
        kept = {name.removeprefix("optimizer."): t for name, t in tensors.items() if name.startswith("optimizer.")}
        put_averages(self.optimizer, kept)
        self.scaler.load_state_dict(scaler)


def learning(net: nn.Module) -> list[nn.Parameter]:
    """Parameters that are trained."""
    return [parameter for parameter in net.parameters() if parameter.requires_grad]


@torch.no_grad()
def put(weights: Iterable[torch.Tensor], net: nn.Module) -> None:
    """Give what is trained of a net these weights."""
    for parameter, weight in zip(learning(net), weights, strict=True):
        parameter.copy_(weight)

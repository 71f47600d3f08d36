"""A step of distillation as anyone would write it, with nothing of this package but the nets."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from compress.data import Batch
from compress.model.denoiser import Denoiser

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PRECISION, TYPE = ("bf16", torch.bfloat16) if DEVICE.type == "cuda" else ("fp32", torch.float32)


class ByHand:
    """The step that anyone would write: losses of outputs and stages, clipping, fused AdamW, an average."""

    def __init__(self, teacher: Denoiser, student: Denoiser, batch: Batch) -> None:
        self.teacher, self.student, self.batch = teacher, student, batch
        self.paths = [path for path, _ in student.family.stages(student.net).values()]
        self.parameters: list[torch.Tensor] = list(student.net.parameters())
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, fused=True)
        self.average = [parameter.detach().clone() for parameter in self.parameters]

    def step(self) -> None:
        """One step; nothing is waited for."""
        images = self.batch.images
        noise, timestep = torch.randn_like(images), torch.randint(1000, (len(images),), device=DEVICE)
        share = (timestep / 1000).view(-1, *[1] * (images.ndim - 1))
        asked = ((1 - share) * images + share * noise, timestep, *self.batch.conditions.values())
        self.optimizer.zero_grad()
        with torch.autocast(DEVICE.type, TYPE, enabled=PRECISION != "fp32"):
            with torch.no_grad():
                wanted, theirs = self._ask(self.teacher, asked)
            found, ours = self._ask(self.student, asked)
        stages = [_error(mine, other) for mine, other in zip(ours, theirs, strict=True)]
        (_error(found, wanted) + torch.stack(stages).mean()).backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        torch._foreach_lerp_(self.average, self.parameters, 0.001)

    def _ask(self, model: Denoiser, asked: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """(output, outputs of the stages)."""
        kept: list[torch.Tensor] = []

        def keep(_block: object, _inputs: object, output: Any) -> None:
            kept.append(output[0] if isinstance(output, tuple) else output)

        handles = [model.net.get_submodule(path).register_forward_hook(keep) for path in self.paths]
        output = model.module(*asked)
        for handle in handles:
            handle.remove()
        return output, kept


def _error(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return nn.functional.mse_loss(found.float(), wanted.float()) / wanted.float().square().mean()

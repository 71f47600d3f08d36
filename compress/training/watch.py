"""What people watch while a net is trained: figures at every step, and now and then pictures of the same noise."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import psutil
import torch

from compress.contract import Context
from compress.model.denoiser import Denoiser, draw
from compress.model.reference import conditions_for, noise_like
from compress.randomness import Draw

PICTURES, TIMES = 8, 10  # in a set; sets in a training
CHANNELS = (1, 3)  # of what can be looked at


class Watch:
    """Sends a training to a tracker. student: whose pictures are shown, if it draws any that can be."""

    def __init__(self, tracker: Any, student: Denoiser | None, steps: int, context: Context) -> None:
        self.tracker, self.student, self.context = tracker, student, context
        self.every = max(1, steps // TIMES)
        self.settings = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}

    def note(self, step: int, figures: Mapping[str, float], averaged: AbstractContextManager[None]) -> None:
        """Figures by their names, after so many steps, and pictures if they are due. averaged: opened to draw them."""
        self.tracker.log({**figures, "memory_gb": _memory(self.context.device)}, step=step)
        if self.student is not None and step % self.every == 0 and hasattr(self.tracker, "log_images"):
            with averaged:
                self._show(step, self.student)

    @torch.no_grad()
    def _show(self, step: int, student: Denoiser) -> None:
        """Pictures by the student's present weights, always of the same noise and conditions."""
        context = self.context
        noise = noise_like(student, PICTURES, context.seed, Draw.WATCHED).to(student.device)
        conditions = conditions_for(student, PICTURES, context.dataset, context.seed)
        samples = draw(student, noise, {name: value.to(student.device) for name, value in conditions.items()})
        decoder = context.parts().decoder
        pixels = (decoder.decode(samples.cpu()) if decoder else samples.cpu()).clamp(-1, 1).numpy()
        if pixels.ndim == 4 and pixels.shape[1] in CHANNELS:
            shown = np.repeat(pixels, 3 // pixels.shape[1], axis=1).transpose(0, 2, 3, 1)
            pictures = ((shown + 1) * 127.5).round().astype(np.uint8)
            self.tracker.log_images({"samples": pictures}, step, **self.settings)


@contextmanager
def watching(student: object, steps: int, context: Context) -> Iterator[Watch | None]:
    """While open, what sends a training somewhere, with pictures of a student that is a model; None: nobody watches."""
    if context.track is None:
        yield None
        return
    tracker = context.track(context.name.replace(": ", "/"))
    try:
        yield Watch(tracker, student if isinstance(student, Denoiser) else None, steps, context)
    finally:
        tracker.finish()


def _memory(device: torch.device) -> float:
    """What this process holds, in GB: of a GPU's memory at most so far, of the host's now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return float(psutil.Process().memory_info().rss / 1e9)

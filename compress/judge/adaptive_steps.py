"""Which tolerance of adaptive steps keeps which quality, and how many steps it saves."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from compress.files import write_json
from compress.judge.quality import psnr
from compress.model.denoiser import Denoiser
from compress.model.reference import noise_like
from compress.randomness import Draw
from compress.runtime import Bundle

TOLERANCES = tuple(0.1 / 2 ** (i / 2) for i in range(14))  # of one step, root mean square in pixels' units
IMAGES = 60  # that steps are calibrated on


def calibrate(
    model: Denoiser,
    bundle: Bundle,
    conditions: Callable[[int], Mapping[str, torch.Tensor]],
    seed: int,
    advance: Callable[[], object],
) -> list[dict[str, float]]:
    """PSNR in dB to sampling without leaps, and evaluations an image, by tolerance; also written to the bundle.

    conditions: for a number of images. advance: called after each tolerance.
    """
    noise = noise_like(model, IMAGES, seed, Draw.ADAPTIVE_STEPS).numpy()
    given: dict[str, Any] = {name: value.numpy() for name, value in conditions(len(noise)).items()}
    wanted = bundle.sample(noise, **given)
    rows = []
    for tolerance in TOLERANCES:
        found, evaluations = bundle.sample_adaptively(noise, tolerance=tolerance, **given)
        row = {
            "tolerance": tolerance,
            "psnr": float(psnr(wanted, found).mean()),
            "evaluations": float(evaluations.mean()),
        }
        rows.append({name: round(value, 4) for name, value in row.items()})
        advance()
    bundle.manifest["sampling"]["adaptive"] = rows
    write_json(bundle.path / "bundle.json", bundle.manifest)
    return rows

"""What adaptive steps cost in quality and save in evaluations, by their tolerance."""

from collections.abc import Callable
from typing import Any

from compress.data import Dataset
from compress.files import write_json
from compress.judge.quality import psnr
from compress.model.denoiser import Denoiser
from compress.model.reference import Progress, conditions_for, noise_like
from compress.randomness import Draw
from compress.runtime import Bundle

TOLERANCES = tuple(0.1 / 2 ** (i / 2) for i in range(14))  # of one step, root mean square in pixels' units
CALIBRATION = 60  # images that adaptive steps are calibrated on


def calibrate(
    model: Denoiser, bundle: Bundle, seed: int, dataset: Callable[[], Dataset], progress: Progress, name: str
) -> list[dict[str, float]]:
    """PSNR in dB to sampling without leaps, and evaluations an image, by tolerance; also written to the bundle.

    name: of the pass.
    """
    noise = noise_like(model, CALIBRATION, seed, Draw.ADAPTIVE_STEPS).numpy()
    conditions = conditions_for(model, len(noise), dataset, seed)
    given: dict[str, Any] = {name: value.numpy() for name, value in conditions.items()}
    wanted = bundle.sample(noise, **given)
    rows = []
    with progress(f"{name}: calibrating steps", len(TOLERANCES)) as task:
        for tolerance in TOLERANCES:
            found, evaluations = bundle.sample_adaptively(noise, tolerance=tolerance, **given)
            row = {
                "tolerance": tolerance,
                "psnr": float(psnr(wanted, found).mean()),
                "evaluations": float(evaluations.mean()),
            }
            rows.append({name: round(value, 4) for name, value in row.items()})
            task.advance()
    bundle.manifest["sampling"]["adaptive"] = rows
    write_json(bundle.path / "bundle.json", bundle.manifest)
    return rows

"""A training that somebody watches: figures and pictures arrive, and nothing else changes."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import tracking as trackers
from PIL import Image

from compress import tracking
from compress.data import Dataset
from compress.errors import CompressError
from compress.model.denoiser import Denoiser, draw
from compress.model.reference import conditions_for, noise_like
from compress.passes import distill, distill_steps
from compress.randomness import Draw
from compress.training.watch import PICTURES
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG, make_context, make_denoiser

STEPS = 20


def trained(config: dict, folder: Path, track: Callable[[str], Any] | None) -> Denoiser:
    """Another net than its teacher, which learns at once."""
    context = dataclasses.replace(make_context(make_denoiser(config), folder, name="distill"), track=track)
    return distill.run(make_denoiser(config, seed=1), distill.Config(steps=STEPS, batch_size=4), context).model


def weights(model: Denoiser) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in model.net.state_dict().items()}


@pytest.mark.parametrize("config", [CLASS_CONFIG, TEXT_CONFIG], ids=["pixels", "latents"])
def test_tensorboard_is_told_and_the_weights_are_the_same(config: dict, tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    watched = trained(config, tmp_path / "watched", tracking.tracker("tensorboard", tmp_path / "track"))
    assert weights(watched) == weights(trained(config, tmp_path / "alone", None))
    assert weights(watched) != weights(make_denoiser(config, seed=1))
    events = event_accumulator.EventAccumulator(str(tmp_path / "track" / "distill"), size_guidance={"images": 0})
    events.Reload()
    scalars = {"output", "feature", "gradient_norm", "learning_rate", "memory_gb"}
    assert set(events.Tags()["scalars"]) == scalars
    for name in scalars:
        found = events.Scalars(name)
        assert [each.step for each in found] == list(range(1, STEPS + 1))
        assert all(np.isfinite(each.value) for each in found)
    rates = [each.value for each in events.Scalars("learning_rate")]
    assert max(rates) == pytest.approx(4e-4, rel=0.01) and rates[-1] < rates[1]
    pictures = events.Tags()["images"]
    if config is TEXT_CONFIG:  # four channels, and no decoder
        assert pictures == []
        return
    shown = events.Images("samples")
    assert [each.step for each in shown] == list(range(2, STEPS + 1, 2)) and pictures == ["samples"]
    (tmp_path / "one.png").write_bytes(shown[-1].encoded_image_string)
    pixels = np.asarray(Image.open(tmp_path / "one.png"))
    assert pixels.shape == (8, PICTURES * 8, 3) and np.ptp(pixels) > 50
    noise = noise_like(watched, PICTURES, 0, Draw.WATCHED)  # the last are of the average, which is the result
    drawn = draw(watched, noise, conditions_for(watched, PICTURES, Dataset, 0)).clamp(-1, 1)
    wanted = np.concatenate([*((drawn[:, 0].numpy() + 1) * 127.5)], axis=1)
    assert np.abs(pixels[..., 0] - wanted).max() <= 1


def test_a_student_of_few_steps_draws_in_them(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    seen: list[tuple[str, np.ndarray]] = []

    class Tracker:
        name = "own"

        def __init__(self, run: str) -> None:
            self.run = run

        def log(self, values: dict, step: int) -> None:
            assert step > 0 and values["gradient_norm"] > 0

        def log_images(self, values: dict, step: int) -> None:
            seen.append((self.run, values["samples"]))

        def finish(self) -> None:
            seen.append((self.run, np.zeros(0)))

    context = dataclasses.replace(make_context(model, tmp_path, name="few"), track=Tracker)
    config = distill_steps.Config(steps=10, batch_size=4, method="progressive", sampling_steps=(1,))
    distill_steps.run(model, config, context)
    assert [run for run, pixels in seen if not pixels.size] == ["few/to 2 steps", "few/to 1 steps"]
    assert {pixels.shape for _, pixels in seen if pixels.size} == {(PICTURES, 8, 8, 3)}


def test_trackers_that_there_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CompressError, match=r"--track paper: should be one of .*tensorboard.*wandb"):
        tracking.tracker("paper", tmp_path)
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: [])
    with pytest.raises(CompressError, match="--track wandb: is not installed; pip install wandb"):
        tracking.tracker("wandb", tmp_path)

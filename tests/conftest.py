"""Tiny models and silent contexts that all tests share."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from compress.contract import Context
from compress.data import Dataset, FromTeacher
from compress.diffusion.sampling import Guidance
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.families import FAMILIES
from compress.measure import latency
from compress.model.denoiser import Denoiser
from compress.model.reference import silent
from compress.runtime.engines import OnnxRuntime
from tests.shared import shared_export, shared_trace

torch.set_num_threads(1)  # tiny models: a second thread only waits

CLASS_CONFIG = {
    "_class_name": "UNet2DModel",
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 8,
    "norm_num_groups": 4,
    "num_class_embeds": 11,
}
# of one level, where what is tested has nothing to do with the net
SHALLOW_CONFIG = {
    **CLASS_CONFIG,
    "block_out_channels": [16],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
}
UNCONDITIONAL_CONFIG = {**CLASS_CONFIG, "num_class_embeds": None}
TEXT_CONFIG = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "attention_head_dim": 2,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
}
# v-prediction, zero terminal SNR, trailing timesteps
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "clip_sample": False,
}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
TOKENS = 5


def make_denoiser(
    config: dict, steps: int = 4, scale: float | None = 2.0, seed: int = 0, scheduler: dict = SCHEDULER
) -> Denoiser:
    """A model with random weights; scale None: unguided."""
    torch.manual_seed(seed)
    family = FAMILIES[config["_class_name"]]
    net = family.build(config)
    with torch.no_grad():
        net.conv_out.weight.mul_(3)  # an output of about unit size
    sampling = from_scheduler_config(scheduler, SamplingOptions(steps=steps))
    null = {}
    text = config["_class_name"] == "UNet2DConditionModel"
    if scale is not None and (text or config.get("num_class_embeds") or config.get("class_embed_type")):
        guidance = Guidance(kind="cfg", scale=scale, null_class=None if text else 10)
        sampling = sampling.model_copy(update={"guidance": guidance})
        null = {"encoder_hidden_states": torch.randn(TOKENS, 12)} if text else {}
    return Denoiser(net.eval().requires_grad_(False), family, sampling, scheduler, null)


def one_thread(options: Callable[..., Any]) -> Callable[..., Any]:
    """Options of sessions of one thread, where no number is asked for: others only wait, and take what workers need."""
    return lambda engine, threads, scheme: options(engine, threads or 1, scheme)


@pytest.fixture(scope="session", autouse=True)
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Samples, exports and traces are kept for this run of the suite alone: they take most of its time."""
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if "PYTEST_XDIST_WORKER" in os.environ else root) / "kept"
    (folder / "exports").mkdir(parents=True, exist_ok=True)
    os.environ["COMPRESS_CACHE"] = str(folder)
    with (
        mock.patch.object(torch.export, "export", shared_trace(torch.export.export)),
        mock.patch.object(torch.onnx, "export", shared_export(torch.onnx.export, folder / "exports")),
        mock.patch.object(latency, "TRAIN", 2),  # times mean nothing here
        mock.patch.object(OnnxRuntime, "options", one_thread(OnnxRuntime.options)),
    ):
        yield


@pytest.fixture
def class_model() -> Denoiser:
    return make_denoiser(CLASS_CONFIG)


@pytest.fixture
def text_model() -> Denoiser:
    return make_denoiser(TEXT_CONFIG)


@pytest.fixture
def unconditional_model() -> Denoiser:
    return make_denoiser(UNCONDITIONAL_CONFIG)


@pytest.fixture(params=["class", "text", "unconditional"])
def any_model(request: pytest.FixtureRequest) -> Denoiser:
    configs = {"class": CLASS_CONFIG, "text": TEXT_CONFIG, "unconditional": UNCONDITIONAL_CONFIG}
    return make_denoiser(configs[request.param])


def inputs_for(
    model: Denoiser, batch: int = 3, seed: int = 1
) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Random (sample, timestep, conditions)."""
    random = torch.Generator().manual_seed(seed)
    conditions = {}
    for name, condition in model.conditions.items():
        shape = (batch, *condition.shape)
        labels = condition.dtype == torch.int64
        conditions[name] = (
            torch.randint(10, shape, generator=random) if labels else torch.randn(shape, generator=random)
        )
    sample = torch.randn(batch, *model.sample_shape, generator=random)
    return sample, torch.randint(1000, (batch,), generator=random), conditions


def dataset_for(model: Denoiser, count: int = 40) -> Dataset:
    """Images that a classifier can tell apart: a bright square whose place depends on the label."""
    random = torch.Generator().manual_seed(2)
    labels = torch.arange(count) % 10
    images = 0.1 * torch.randn(count, *model.sample_shape, generator=random) - 0.8
    for i, label in enumerate(labels.tolist()):
        images[i, :, label % 5 : label % 5 + 3, label // 5 * 4 : label // 5 * 4 + 4] = 0.9
    conditions = {}
    for name, condition in model.conditions.items():
        random_embedding = torch.randn(count, *condition.shape, generator=random)
        conditions[name] = labels if condition.dtype == torch.int64 else random_embedding
    return Dataset(images, conditions)


def make_context(model: Denoiser, folder: Path, name: str = "pass", seed: int = 0) -> Context:
    """A context whose teacher is `model`, with a small data set that fits it."""
    (folder / "work").mkdir(parents=True, exist_ok=True)
    (folder / "files").mkdir(exist_ok=True)
    return Context(
        name=name,
        recipe="test",
        seed=seed,
        device=torch.device("cpu"),
        workdir=folder / "work",
        output=folder / "files",
        guidance=model.sampling.guidance,
        sampling=SamplingOptions(steps=4, scheduler=SCHEDULER),
        data=FromTeacher(source="teacher", count=40),
        teacher=lambda: dataclasses.replace(model),
        dataset=lambda: dataset_for(model),
        progress=silent,
        log=lambda message: None,
    )


@pytest.fixture
def context_for(tmp_path: Path) -> Callable[..., Context]:
    return lambda model, **options: make_context(model, tmp_path, **options)


def write_recipe(folder: Path, text: str, name: str = "recipe.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def assert_close_db(reference: np.ndarray, value: np.ndarray, least: float) -> None:
    """The one tolerance policy: agreement in dB of signal to noise."""
    from compress.judge.quality import sqnr

    found = sqnr(np.asarray(reference), np.asarray(value))
    assert found >= least, f"{found:.1f} dB, at least {least} expected"

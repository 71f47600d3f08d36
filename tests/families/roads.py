"""The whole road for a tiny random net, in one process."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from compress import engine
from compress.diffusion.sampling import Guidance
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.families import FAMILIES
from compress.model.denoiser import Denoiser
from compress.model.reference import silent
from compress.pipeline import checkpoint
from compress.recipe.inputs import Options
from compress.recipe.recipe import read
from tests.conftest import TOKENS, read_json

PRUNE: dict[str, Any] = {"target": {"channels": 0.75}, "importance": "l1"}
OPTIONS = Options(torch.device("cpu"), silent, lambda message: None)


def tiny(config: dict, scheduler: dict, scale: float | None = 2.0) -> Denoiser:
    """A net of this config with random weights, guided by random nulls. scale None: unguided."""
    torch.manual_seed(0)
    family = FAMILIES[config["_class_name"]]
    net = family.build(config).eval().requires_grad_(False)
    model = Denoiser(net, family, from_scheduler_config(scheduler, SamplingOptions(steps=3)), scheduler)
    if scale is None:
        return model
    dropped = {name: one for name, one in family.conditions(net, TOKENS).items() if one.dropped}
    sampling = model.sampling.model_copy(update={"guidance": Guidance(kind="cfg", scale=scale)})
    null = {name: torch.randn(one.shape) for name, one in dropped.items()}
    return Denoiser(net, family, sampling, scheduler, null)


def rewrite(file: Path, config: dict) -> None:
    """Another config in place of one."""
    file.write_text(json.dumps(config), encoding="utf-8")


def given(model: Denoiser, count: int = 12) -> dict[str, np.ndarray]:
    """Conditions for random samples, by their names in an .npz."""
    random = np.random.default_rng(0)
    found: dict[str, np.ndarray] = {}
    for name, one in model.conditions.items():
        called = {"encoder_hidden_states": "embeddings", "class_labels": "labels"}.get(name, name)
        drawn = random.standard_normal((count, *one.shape)).astype(np.float32)
        found[called] = np.arange(count) % (model.classes or 1) if name == "class_labels" else drawn
    return found


def go(folder: Path, model: Denoiser, **head: Any) -> dict[str, Any]:
    """Apply a recipe with passes of every kind; the bundle's manifest. head: more of the recipe's."""
    checkpoint.save(Denoiser(model.net, model.family, model.sampling, model.scheduler), folder / "teacher")
    (folder / "teacher" / "sampling.json").unlink()  # as diffusers would have written it
    arrays = given(model)
    images = np.random.default_rng(1).standard_normal((12, *model.sample_shape)).astype(np.float32)
    np.savez(folder / "data.npz", images=images, **arrays)
    if model.null:
        named = {"encoder_hidden_states": "embeddings"}
        np.savez(folder / "null.npz", **{named.get(name, name): value.numpy() for name, value in model.null.items()})
        head = {"guidance": {"scale": model.sampling.guidance.scale, "null_embedding": "null.npz"}, **head}
    passes = [
        {"prune_channels": PRUNE},
        {"distill": {"steps": 1, "batch_size": 2}},
        {"choose_timesteps": {"sampling_steps": 2, "samples": 2}},
        {"quantize": {"samples": 2, "evaluations": 4}},
        {"export_onnx": {}},
        {"verify": {"samples": 10, "rounds": 10, "starts": 0, "batches": [], "gates": {"output_error": {"max": 9}}}},
    ]
    recipe = {
        "name": "road",
        "checkpoint": "teacher",
        "data": {"source": "npz", "path": "data.npz"},
        "sampling": {"steps": 3},
        "passes": passes,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | head))
    checked = read(folder / "recipe.yaml")
    assert engine.apply(checked, folder / "out", OPTIONS).verdict == "pass"
    return read_json(folder / "out" / "onnx" / "bundle.json")

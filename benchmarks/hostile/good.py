"""What is right: a recipe, a checkpoint, data and a bundle, as small as they can be."""

import json
import shutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from compress.families import FAMILIES

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "exported" / "digits-edge" / "onnx"
WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG: dict[str, Any] = {
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
TEXT: dict[str, Any] = {
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
SCHEDULER: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "timestep_spacing": "trailing",
    "rescale_betas_zero_snr": False,
    "thresholding": False,
}
PRUNE: dict[str, Any] = {"prune_channels": {"target": {"channels": 0.8}, "importance": "l2"}}


@cache
def weights(kind: str = "class") -> Mapping[str, torch.Tensor]:
    """Random weights of the net of `CONFIG`, or of `TEXT`."""
    torch.manual_seed(0)
    config = CONFIG if kind == "class" else TEXT
    net = FAMILIES[config["_class_name"]].build(config)
    return {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}


def write(file: Path, content: Any) -> None:
    """JSON, without any checks."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content), encoding="utf-8")


def checkpoint(
    folder: Path,
    config: Any = CONFIG,
    scheduler: Any = SCHEDULER,
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """A diffusers folder."""
    from safetensors.torch import save_file

    write(folder / "unet" / "config.json", config)
    if scheduler is not None:
        write(folder / "scheduler" / "scheduler_config.json", scheduler)
    save_file(dict(weights() if tensors is None else tensors), folder / "unet" / WEIGHTS)
    return folder


def recipe(**changes: Any) -> dict[str, Any]:
    """The recipe that prunes the checkpoint `model`, with other keys."""
    return {"name": "tiny", "checkpoint": "model", "sampling": {"steps": 4}, "passes": [PRUNE], **changes}


def write_recipe(folder: Path, content: Any) -> None:
    """`recipe.yaml`, of a mapping or of text."""
    text = content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (folder / "recipe.yaml").write_text(text, encoding="utf-8")


def bundle(folder: Path, **changes: Any) -> Path:
    """The committed bundle, with other keys in its manifest."""
    shutil.copytree(BUNDLE, folder)
    if changes:
        write(folder / "bundle.json", {**manifest(), **changes})
    return folder


def manifest() -> dict[str, Any]:
    """A copy of the committed bundle's manifest."""
    found: dict[str, Any] = json.loads((BUNDLE / "bundle.json").read_text(encoding="utf-8"))
    return found


def arrays(count: int = 20) -> dict[str, np.ndarray]:
    """Images and labels that fit `CONFIG`."""
    random = np.random.default_rng(0)
    images = random.uniform(-1, 1, (count, 8, 8)).astype(np.float32)
    return {"images": images, "labels": np.arange(count) % 10}


def images(folder: Path, size: tuple[int, int] = (8, 8), labels: str = "ab") -> Path:
    """A folder of pictures with a class a letter."""
    random = np.random.default_rng(0)
    for label in labels:
        (folder / label).mkdir(parents=True)
        for number in range(3):
            pixels = random.integers(256, size=size[::-1], dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")
    return folder


def write_arrays(file: Path) -> None:
    """An .npz that fits `CONFIG`."""
    np.savez_compressed(file, **arrays())  # type: ignore[arg-type]

"""A miniature Stable Diffusion of random weights, as diffusers saves it."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline

from compress import engine
from compress.model.reference import silent
from compress.recipe.inputs import Options
from compress.recipe.recipe import read
from tests.conftest import SCHEDULER, TEXT_CONFIG, make_denoiser, write_recipe

DDIM = {**SCHEDULER, "clip_sample": False}
LETTERS = "abcdefgh"


def save_pipeline(folder: Path) -> Path:
    """Texts of letters, 5 tokens at most; latents 4×8×8; pictures 3×16×16."""
    torch.manual_seed(0)
    ends = ["<|startoftext|>", "<|endoftext|>"]
    words = [*ends, *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    spelling = folder / "words"
    spelling.mkdir(parents=True)
    (spelling / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (spelling / "merges.txt").write_text("#version: 0.2\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 5}
    (spelling / "tokenizer_config.json").write_text(json.dumps(settings))
    config = transformers.CLIPTextConfig(
        vocab_size=len(words), hidden_size=12, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=5, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    levels: dict[str, Any] = {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    StableDiffusionPipeline(
        vae=AutoencoderKL(**levels, norm_num_groups=4, latent_channels=4, sample_size=16, scaling_factor=0.5),
        text_encoder=transformers.CLIPTextModel(config).eval(),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(spelling),
        unet=make_denoiser(TEXT_CONFIG).net,
        scheduler=DDIMScheduler.from_config(DDIM),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "teacher")
    return folder / "teacher"


def save_clip(folder: Path, tokenizer: Path) -> Path:
    """A CLIPModel of random weights for pictures 3×16×16, with what makes its inputs."""
    words = transformers.CLIPTokenizer.from_pretrained(tokenizer)
    sizes = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(words), "max_position_embeddings": 5, "bos_token_id": 0, "eos_token_id": 1}
    vision = {**sizes, "image_size": 16, "patch_size": 8}
    torch.manual_seed(0)
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=6)
    for part in (
        transformers.CLIPModel(config),
        words,
        transformers.CLIPImageProcessor(do_resize=False, do_center_crop=False),
    ):
        part.save_pretrained(folder)
    return folder


def apply(folder: Path, passes: list[Any], **head: Any) -> Path:
    """The result of a recipe with these passes and the checkpoint `teacher`."""
    content = {"name": "one", "checkpoint": "teacher", "sampling": {"steps": 2}, **head, "passes": passes}
    recipe = read(write_recipe(folder, json.dumps(content)))
    return engine.apply(recipe, folder / "out", Options(torch.device("cpu"), silent, lambda _: None)).output

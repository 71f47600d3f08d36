"""Miniature pipelines of random weights, as diffusers saves them."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    PixArtAlphaPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)

from compress import engine
from compress.families import FAMILIES
from compress.model.reference import silent
from compress.recipe.inputs import Options
from compress.recipe.recipe import read
from tests.conftest import FLOW, SCHEDULER, TEXT_CONFIG, make_denoiser, write_recipe
from tests.families.pixart import test_pixart as pixart
from tests.families.sd3 import test_sd3 as sd3
from tests.families.unet.configs import INPAINTING, SDXL

DDIM = {**SCHEDULER, "clip_sample": False}
LETTERS = "abcdefgh"
WORDS = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]


def clip_words(folder: Path) -> Any:
    """A tokenizer of letters, 5 tokens at most."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 5}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return transformers.CLIPTokenizer.from_pretrained(folder)


def clip(width: int, pooled: int | None = None) -> Any:
    """A text encoder, with a projection of the pooled text where its width is given."""
    config = transformers.CLIPTextConfig(
        vocab_size=len(WORDS), hidden_size=width, intermediate_size=16, num_hidden_layers=2 if pooled else 1,
        num_attention_heads=2, max_position_embeddings=5, bos_token_id=0, eos_token_id=1, pad_token_id=1,
        projection_dim=pooled or 512,
    )  # fmt: skip
    torch.manual_seed(2)
    kind = transformers.CLIPTextModel if pooled is None else transformers.CLIPTextModelWithProjection
    return kind(config).eval()


def t5(width: int) -> dict[str, Any]:
    """T5 with its tokenizer, of which a letter is a word."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -5.0), ("▁", -3.0)]
    pieces += [(f"▁{letter}", -2.0) for letter in LETTERS]
    config = transformers.T5Config(
        vocab_size=len(pieces),
        d_model=width,
        d_ff=16,
        d_kv=4,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
    words = transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512)
    return {"text_encoder": transformers.T5EncoderModel(config).eval(), "tokenizer": words}


def vae(channels: int = 4, **more: Any) -> AutoencoderKL:
    """Pictures 3×16×16 from latents of 8×8."""
    levels: dict[str, Any] = {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    more = {"sample_size": 16, "scaling_factor": 0.5, **more}
    torch.manual_seed(1)  # the same for all pipelines, whose exports are shared
    return AutoencoderKL(**levels, norm_num_groups=4, latent_channels=channels, **more).eval()


def save_pipeline(folder: Path) -> Path:
    """Texts of letters, 5 tokens at most; latents 4×8×8; pictures 3×16×16."""
    torch.manual_seed(0)
    words, encoder = clip_words(folder / "words"), clip(12)
    StableDiffusionPipeline(
        vae=vae(),
        text_encoder=encoder,
        tokenizer=words,
        unet=make_denoiser(TEXT_CONFIG).net,
        scheduler=DDIMScheduler.from_config(DDIM),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder / "teacher")
    return folder / "teacher"


def save_sdxl(folder: Path, empty: bool = True) -> Path:
    """Two encoders, whose states lie side by side. empty: where no negative prompt is given, zeros are in its place."""
    torch.manual_seed(0)
    words = clip_words(folder / "words")
    StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip(4),
        text_encoder_2=clip(8, 6),
        tokenizer=words,
        tokenizer_2=words,
        unet=FAMILIES["UNet2DConditionModel"].build(SDXL),
        scheduler=DDIMScheduler.from_config(DDIM),
        force_zeros_for_empty_prompt=empty,
        add_watermarker=False,
    ).save_pretrained(folder / "teacher")
    return folder / "teacher"


def save_pixart(folder: Path) -> Path:
    """T5, told where texts end."""
    torch.manual_seed(0)
    PixArtAlphaPipeline(
        **t5(12),
        vae=vae(),
        transformer=FAMILIES["PixArtTransformer2DModel"].build(pixart.CONFIG),
        scheduler=DPMSolverMultistepScheduler.from_config(pixart.DPM),
    ).save_pretrained(folder / "teacher")
    return folder / "teacher"


def save_sd3(folder: Path, third: bool = True) -> Path:
    """Two CLIPs and T5. third: whether T5 is there."""
    torch.manual_seed(0)
    words, last = clip_words(folder / "words"), t5(12) if third else {"text_encoder": None, "tokenizer": None}
    StableDiffusion3Pipeline(
        vae=vae(16, shift_factor=0.1),
        text_encoder=clip(4, 2),
        text_encoder_2=clip(6, 4),
        text_encoder_3=last["text_encoder"],
        tokenizer=words,
        tokenizer_2=words,
        tokenizer_3=last["tokenizer"],
        transformer=FAMILIES["SD3Transformer2DModel"].build(sd3.CONFIG),
        scheduler=FlowMatchEulerDiscreteScheduler.from_config(FLOW),
    ).save_pretrained(folder / "teacher")
    return folder / "teacher"


def save_inpainting(folder: Path) -> Path:
    """A net that takes a mask and what is not under it."""
    words, encoder = clip_words(folder / "words"), clip(12)
    torch.manual_seed(0)
    StableDiffusionInpaintPipeline(
        vae=vae(),
        text_encoder=encoder,
        tokenizer=words,
        unet=FAMILIES["UNet2DConditionModel"].build(INPAINTING),
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

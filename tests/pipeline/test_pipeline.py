"""A whole pipeline goes in, a whole pipeline comes out: what no pass changes is carried as it is."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DiffusionPipeline,
    LDMPipeline,
    VQModel,
)  # fmt: skip

from compress.errors import CheckpointError
from compress.pipeline import checkpoint
from compress.pipeline.pipeline import Parts, Pipeline, parts
from tests.conftest import SHALLOW_CONFIG, make_denoiser, read_json
from tests.text_to_image import DDIM, apply, save_pipeline

LATENT = {**SHALLOW_CONFIG, "in_channels": 3, "out_channels": 3, "num_class_embeds": None}
PRUNE = {"prune_channels": {"target": {"macs": 0.6}, "importance": "l1", "widths": "stock"}}


def run(folder: Path, passes: list[Any], **head: Any) -> Path:
    return apply(folder, passes, **head) / "student"


def contents(folder: Path, *parts: str) -> dict[str, bytes]:
    files = [file for part in parts for file in (folder / part).rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


@pytest.fixture
def latent(tmp_path: Path) -> Path:
    """A teacher of latents with its decoder."""
    torch.manual_seed(0)
    decoder = VQModel(
        block_out_channels=(8,), norm_num_groups=4, num_vq_embeddings=8, vq_embed_dim=3, latent_channels=3
    )
    pipeline = LDMPipeline(decoder, make_denoiser(LATENT).net, DDIMScheduler.from_config(DDIM))
    pipeline.save_pretrained(tmp_path / "teacher")
    return tmp_path


def test_a_stock_student_is_a_whole_pipeline_that_draws(latent: Path) -> None:
    student = run(latent, [PRUNE])
    teacher = latent / "teacher"
    assert contents(student, "vqvae") == contents(teacher, "vqvae") and len(contents(teacher, "vqvae")) == 2
    assert read_json(student / "model_index.json") == read_json(teacher / "model_index.json")
    pipeline = DiffusionPipeline.from_pretrained(student)
    assert isinstance(pipeline, LDMPipeline)
    assert pipeline.unet.config.block_out_channels[0] < LATENT["block_out_channels"][0]
    drawn = pipeline(num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np").images
    assert drawn.shape == (1, 8, 8, 3) and drawn.std() > 0


def test_a_student_that_diffusers_cannot_load_is_put_into_its_pipeline_by_hand(latent: Path) -> None:
    student = run(latent, [{"prune_channels": {**PRUNE["prune_channels"], "widths": "free"}}])
    with pytest.raises(OSError, match="diffusion_pytorch_model"):
        DiffusionPipeline.from_pretrained(student)
    net = checkpoint.load(student).net
    assert DiffusionPipeline.from_pretrained(student, unet=net).unet is net


def test_nothing_is_carried_that_is_not_wanted_or_not_there(latent: Path) -> None:
    assert not parts(str(latent / "teacher"), False).index
    assert not (run(latent, [PRUNE], pipeline=False) / "model_index.json").exists()
    (latent / "teacher" / "model_index.json").unlink()
    assert parts(str(latent / "teacher"), None) == Parts()
    with pytest.raises(CheckpointError, match="so it is no whole pipeline"):
        parts(str(latent / "teacher"), True)


def test_a_part_that_changes_is_carried_anew(latent: Path) -> None:
    run(latent, [PRUNE])
    config = latent / "teacher" / "vqvae" / "config.json"
    config.write_text(config.read_text() + "\n")
    assert contents(run(latent, [PRUNE]), "vqvae") == contents(latent / "teacher", "vqvae")


def test_what_comes_out_is_no_link_to_what_went_in(latent: Path) -> None:
    file = run(latent, [PRUNE]) / "vqvae" / "config.json"
    assert not file.samefile(latent / "teacher" / "vqvae" / "config.json")


def test_no_part_lies_outside_the_folder_and_a_pipe_is_none(latent: Path) -> None:
    teacher = latent / "teacher"
    os.mkfifo(teacher / "vqvae" / "pipe")
    (latent / "stolen").mkdir()
    (latent / "stolen" / "key").write_text("secret")
    index = read_json(teacher / "model_index.json")
    (teacher / "model_index.json").write_text(json.dumps({**index, "../stolen": ["diffusers", "VQModel"]}))
    found = parts(str(teacher), None)
    assert set(found.folders) == {"vqvae"} and found.decoder is not None and found.text is None
    assert not any("pipe" in name or "key" in name for name in found.files)


def test_without_links_files_are_copied(latent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert contents(run(latent, [PRUNE]), "vqvae") == contents(latent / "teacher", "vqvae")


def test_a_miniature_stable_diffusion(tmp_path: Path) -> None:
    teacher = save_pipeline(tmp_path)
    assert set(parts(str(teacher), None).folders) == {"text_encoder", "tokenizer", "vae"}
    student = apply(tmp_path, [PRUNE], guidance={"scale": 2.0}) / "student"
    carried = ("text_encoder", "tokenizer", "vae")
    assert contents(student, *carried) == contents(teacher, *carried)
    pipeline = DiffusionPipeline.from_pretrained(student)
    drawn = pipeline("a b", num_inference_steps=2, guidance_scale=2.0, output_type="np").images
    assert drawn.shape == (1, 16, 16, 3) and drawn.std() > 0


def test_a_net_alone_is_saved_as_ever(tmp_path: Path) -> None:
    model = make_denoiser(SHALLOW_CONFIG)
    checkpoint.save(model, tmp_path / "one")
    Pipeline(model).save(tmp_path / "two")
    assert contents(tmp_path / "one", "") == contents(tmp_path / "two", "")

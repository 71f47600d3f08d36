"""Nets that take or give more than Stable Diffusion's: as diffusers' own, from a recipe to a verdict."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler, LatentConsistencyModelPipeline, UNet2DConditionModel, UNet2DModel

from compress import data
from compress.data import Npz
from compress.errors import BundleError, CheckpointError, DataError, RecipeError
from compress.model import structure
from compress.model.denoiser import Denoiser, draw, predict
from compress.passes import export_onnx
from compress.pipeline import checkpoint
from compress.recipe.inputs import Inputs
from compress.recipe.recipe import read
from compress.runtime import Bundle
from tests.conftest import assert_close_db, inputs_for, make_context, write_recipe
from tests.families import roads
from tests.families.unet.configs import (
    ADM,
    DDIM_V,
    EDITING,
    EULER,
    INPAINTING,
    KARRAS,
    LCM,
    LEARNED,
    PNDM,
    REFINER,
    SD_2,
    SDXL,
    SUPER_RESOLUTION,
    UPSCALER,
)

ROADS: dict[str, tuple[dict, dict, float | None, dict[str, Any]]] = {
    "sd-2": (SD_2, DDIM_V, 2.0, {}),
    "sdxl": (SDXL, KARRAS, 2.0, {}),
    "inpainting": (INPAINTING, PNDM, 2.0, {}),
    "learned-variance": (ADM, LEARNED, None, {}),
    "lcm": (LCM, DDIM_V, None, {"guidance": {"scale": 8.0, "embedded": True}}),
    "upscaling": (UPSCALER, DDIM_V, 2.0, {}),
}


@pytest.mark.parametrize("name", ROADS)
def test_goes_the_whole_road(name: str, tmp_path: Path) -> None:
    config, scheduler, scale, head = ROADS[name]
    model = roads.tiny(config, scheduler, scale)
    manifest = roads.go(tmp_path, model, **head)
    sizes = {key: value["shape"][1:] for key, value in manifest["inputs"].items()}
    assert sizes.pop("sample") == manifest["outputs"]["out_sample"]["shape"][1:] == list(model.sample_shape)
    assert ("guidance_scale" in sizes) == (name == "lcm")
    assert set(manifest["sampling"]["guidance"].get("null", {})) == set(model.null)
    assert len(Bundle(tmp_path / "out" / "onnx").steps) == 2


def diffusers_own(model: Denoiser, sample: torch.Tensor, timestep: torch.Tensor, given: dict) -> torch.Tensor:
    """What a net of diffusers gives, called as its pipelines do."""
    given = dict(given)
    beside = [given.pop(name) for name in ("mask", "masked_image_latents", "image", "image_latents") if name in given]
    if "time_ids" in given:
        given["added_cond_kwargs"] = {name: given.pop(name) for name in ("text_embeds", "time_ids")}
    plain = (UNet2DModel if model.family.name == "UNet2DModel" else UNet2DConditionModel).from_config(model.config)
    plain.load_state_dict(model.net.state_dict())
    found: torch.Tensor = plain.eval()(torch.cat([sample, *beside], dim=1), timestep, **given).sample
    return found[:, : sample.shape[1]]


KIN = {
    "sdxl": (SDXL, {"encoder_hidden_states": 12, "text_embeds": 6, "time_ids": 6}),
    "refiner": (REFINER, {"encoder_hidden_states": 12, "text_embeds": 12, "time_ids": 5}),
    "inpainting": (INPAINTING, {"encoder_hidden_states": 12, "mask": 8, "masked_image_latents": 8}),
    "sdxl-inpainting": (
        {**SDXL, "in_channels": 9},
        {"encoder_hidden_states": 12, "text_embeds": 6, "time_ids": 6, "mask": 8, "masked_image_latents": 8},
    ),
    "upscaling": (UPSCALER, {"encoder_hidden_states": 12, "class_labels": None, "image": 8}),
    "editing": (EDITING, {"encoder_hidden_states": 12, "image_latents": 8}),
    "learned-variance": (ADM, {"class_labels": None}),
    "super-resolution": (SUPER_RESOLUTION, {"image": 8}),
}


@pytest.mark.parametrize("name", KIN)
def test_prediction_is_diffusers_own_and_comes_back(name: str, tmp_path: Path) -> None:
    config, wanted = KIN[name]
    model = roads.tiny(config, EULER, None)
    sample, timestep, given = inputs_for(model)
    assert {key: (*value.shape, None)[-2 if value.ndim > 1 else -1] for key, value in given.items()} == wanted
    with torch.no_grad():
        prediction = predict(model, sample, timestep, given)
        assert torch.equal(prediction, diffusers_own(model, sample, timestep, given))
        for key, value in given.items():
            assert not torch.equal(predict(model, sample, timestep, {**given, key: value.flip(0)}), prediction), key
        checkpoint.save(model, tmp_path)
        loaded = checkpoint.load(tmp_path)
        assert torch.equal(predict(loaded, sample, timestep, given), prediction)
    assert structure.describe(loaded.net, model.net, model.family) == {}


def test_the_scale_that_an_lcm_is_told_is_embedded_as_in_its_pipeline() -> None:
    model = roads.tiny(LCM, DDIM_V, None)
    assert list(model.inputs) == ["encoder_hidden_states", "guidance_scale"]
    sample, timestep, given = inputs_for(model)
    scale = torch.tensor([1.0, 4.5, 8.0])
    embedded = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, scale - 1, 16)
    with torch.no_grad():
        wanted = model.net(sample, timestep, **given, timestep_cond=embedded).sample
        assert torch.equal(predict(model, sample, timestep, {**given, "guidance_scale": scale}), wanted)


@pytest.mark.parametrize("scheduler", [EULER, KARRAS], ids=["euler", "karras"])
def test_sdxl_is_drawn_as_by_its_pipeline(scheduler: dict) -> None:
    """`StableDiffusionXLPipeline`'s loop: both texts are doubled, sizes are the same for either half."""
    model = roads.tiny(SDXL, scheduler, 5.0)
    noise, _, given = inputs_for(model, batch=2)
    null = {name: value.expand_as(given[name]) for name, value in model.null.items()}
    both = {name: torch.cat([null.get(name, value), value]) for name, value in given.items()}
    own = EulerDiscreteScheduler.from_config(scheduler)
    own.set_timesteps(3)
    latents = noise * own.init_noise_sigma
    with torch.no_grad():
        for timestep in own.timesteps:
            scaled = own.scale_model_input(torch.cat([latents] * 2), timestep)
            without, by_text = model.net(
                scaled,
                timestep,
                both["encoder_hidden_states"],
                added_cond_kwargs={name: both[name] for name in ("text_embeds", "time_ids")},
            ).sample.chunk(2)
            latents = own.step(without + 5.0 * (by_text - without), timestep, latents).prev_sample
    # diffusers' Euler starts from noise at σ, ours from x_t with α² + σ² = 1
    alpha = model.sampling.levels()[0][0]
    start = noise * own.init_noise_sigma * alpha
    assert_close_db(latents.numpy(), draw(model, start, given).numpy(), least=80)


def test_what_is_concatenated_and_told_must_fit(tmp_path: Path) -> None:
    model = roads.tiny({**SDXL, "in_channels": 9}, EULER, None)
    bundle = export_onnx.run(model, export_onnx.Config(), make_context(model, tmp_path)).model
    noise, _, given = inputs_for(model, batch=2)
    arrays = {name: value.numpy() for name, value in given.items()}
    with pytest.raises(BundleError, match=r"mask must be \[2, 1, 8, 8\]; got \[2, 1, 4, 4\]"):
        bundle.sample(noise.numpy(), **{**arrays, "mask": arrays["mask"][..., :4, :4]})
    del arrays["time_ids"]
    with pytest.raises(BundleError, match=r"takes the conditions \[.*'time_ids'\]; got"):
        bundle.sample(noise.numpy(), **arrays)


def test_data_must_hold_them(tmp_path: Path) -> None:
    wanted = {"mask": (1, 8, 8), "time_ids": (6,)}
    images, mask = np.zeros((3, 4, 8, 8), np.float32), np.zeros((3, 1, 8, 8), np.float32)
    for held, message in (
        ({"mask": mask}, "has no time_ids, which the model takes"),
        (
            {"mask": mask[:, :, :4], "time_ids": np.zeros((3, 6))},
            r"mask should be \['n', 1, 8, 8\]; got \[3, 1, 4, 8\]",
        ),
        ({"mask": mask, "time_ids": np.zeros((3, 5))}, r"time_ids should be \['n', 6\]; got \[3, 5\]"),
    ):
        np.savez(tmp_path / "d.npz", images=images, **held)
        with pytest.raises(DataError, match=message):
            data.load(Npz(source="npz", path=tmp_path / "d.npz"), (4, 8, 8), None, wanted)


@pytest.mark.parametrize(
    ("config", "scheduler", "guidance", "message"),
    [
        (SDXL, EULER, {"null_embedding": "text.npz"}, r"null_embedding: text_embeds should be \[6\]; got None"),
        (SDXL, EULER, {"null_embedding": "text.npy"}, r"null_embedding: text_embeds should be \[6\]; got None"),
        (LCM, DDIM_V, {"null_embedding": "text.npy"}, "takes the guidance scale as an input; give embedded: true"),
        (SDXL, EULER, {"embedded": True}, "the model takes no guidance scale"),
        (LCM, {**DDIM_V, "_class_name": "LCMScheduler"}, {"embedded": True}, "scheduler LCMScheduler is not supported"),
        ({**SDXL, "projection_class_embeddings_input_dim": 20}, EULER, {"embedded": True}, "and 6 times addition_time"),
        ({**SDXL, "addition_embed_type": "image"}, EULER, {"embedded": True}, "addition_embed_type 'image' "),
    ],
)
def test_what_does_not_fit_is_one_message(
    tmp_path: Path, config: dict, scheduler: dict, guidance: dict, message: str
) -> None:
    base = LCM if config is LCM else SDXL
    checkpoint.save(roads.tiny(base, EULER, None), tmp_path / "teacher")
    (tmp_path / "teacher" / "sampling.json").unlink()
    roads.rewrite(tmp_path / "teacher" / "unet" / "config.json", config)
    roads.rewrite(tmp_path / "teacher" / "scheduler" / "scheduler_config.json", scheduler)
    np.save(tmp_path / "text.npy", np.zeros((5, 12), np.float32))
    np.savez(tmp_path / "text.npz", embeddings=np.zeros((5, 12), np.float32))
    written = ", ".join(f"{key}: {str(value).lower()}" for key, value in guidance.items())
    text = f"name: r\ncheckpoint: teacher\nguidance: {{scale: 2.0, {written}}}\npasses: [export_onnx]\n"
    with pytest.raises((RecipeError, CheckpointError), match=message) as caught:
        Inputs(read(write_recipe(tmp_path, text)), roads.OPTIONS).teacher()
    assert str(caught.value).count("\n") == 0

"""From prompt to pixels by the text encoders of every kind of pipeline, as diffusers' own pipelines do it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionImg2ImgPipeline
from PIL import Image

from compress.errors import BundleError, CheckpointError, DataError
from compress.families import FAMILIES
from compress.judge.quality import sqnr
from compress.model.reference import silent
from compress.pipeline.pipeline import encode, parts
from compress.quantization.part import quantized_part
from compress.runtime import Bundle
from compress.runtime.served import from_strength, noised
from compress.runtime.texts import conditions_of
from compress.sample_bundle import Sample, sample
from tests.conftest import read_json
from tests.families.pixart.test_pixart import LARGE
from tests.text_to_image import apply, save_inpainting, save_pipeline, save_pixart, save_sd3, save_sdxl

LONG = "a b c d e f g h"
PROMPTS = ["A b", "c", LONG]
KINDS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "sdxl": (save_sdxl, {}),
    "sd3": (save_sd3, {}),
    "pixart": (save_pixart, {"use_resolution_binning": False}),
}


@dataclasses.dataclass(frozen=True)
class Made:
    """A pipeline with its bundle. more: what its call takes beside a prompt."""

    kind: str
    pipeline: Path
    bundle: Bundle
    more: dict[str, Any]

    def drawn(self, noise: torch.Tensor, prompts: list[str], **settings: Any) -> np.ndarray:
        """Pictures [n,c,h,w] that diffusers draws."""
        made = DiffusionPipeline.from_pretrained(self.pipeline)
        made.set_progress_bar_config(disable=True)
        settings = {"num_inference_steps": 2, "guidance_scale": 2.0, "output_type": "np", **self.more, **settings}
        return np.asarray(made(prompts, latents=noise, **settings).images).transpose(0, 3, 1, 2) * 2 - 1

    def noise(self, count: int) -> torch.Tensor:
        return torch.randn(count, *self.bundle.sample_shape, generator=torch.Generator().manual_seed(1))


def by_bundle(bundle: Bundle, noise: torch.Tensor, prompts: list[str]) -> np.ndarray:
    assert bundle.text is not None
    return bundle.pixels(bundle.sample(noise.numpy(), **bundle.text.encode(prompts))).clip(-1, 1)


@pytest.fixture(scope="module", params=list(KINDS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp(request.param)
    save, more = KINDS[request.param]
    pipeline = save(folder)
    out = apply(folder, [{"export_onnx": {"sampler": True}}], guidance={"scale": 2.0})
    return Made(request.param, pipeline, Bundle(out / "onnx"), more)


def test_a_bundle_draws_what_the_pipeline_draws(made: Made) -> None:
    noise = made.noise(len(PROMPTS))
    wanted = made.drawn(noise, PROMPTS)
    assert wanted.shape == (3, 3, 16, 16) and wanted.std() > 0.01
    assert sqnr(wanted, by_bundle(made.bundle, noise, PROMPTS)) > 60
    away = made.drawn(noise, PROMPTS, negative_prompt=["h g"] * 3)
    assert sqnr(away, by_bundle(made.bundle.without("h g"), noise, PROMPTS)) > 60
    assert sqnr(away, wanted) < 50


def test_one_graph_goes_from_tokens_to_pixels(made: Made) -> None:
    noise, text = made.noise(len(PROMPTS)), made.bundle.text
    assert text is not None
    found = made.bundle.sample_at_once(noise.numpy(), **text.tokens(PROMPTS))
    assert sqnr(by_bundle(made.bundle, noise, PROMPTS), found.clip(-1, 1)) > 60
    wanted = set(made.bundle.sampler.inputs)
    assert {"noise", "text_encoder.input_ids"} <= wanted and not wanted & {"encoder_hidden_states", "timestep"}
    with pytest.raises(BundleError, match=r"takes the conditions .*input_ids"):
        made.bundle.sample_at_once(noise.numpy(), **text.encode(PROMPTS))


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("inpainting")
    pipeline = save_inpainting(folder)
    out = apply(folder, [{"export_onnx": {}}], guidance={"scale": 2.0})
    return Made("inpainting", pipeline, Bundle(out / "onnx"), {})


def test_a_picture_is_painted_in_as_diffusers_does(inpainting: Made, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    picture = random.integers(0, 255, (16, 16, 3), dtype=np.uint8)
    mask = np.zeros((16, 16), np.uint8)
    mask[4:, 6:] = 255
    for name, pixels in (("picture", picture), ("mask", mask)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    given = {"bundle": inpainting.bundle.path, "prompt": ["a b"], "out": tmp_path / "drawn.npz", "count": 2}
    whole = {**given, "image": tmp_path / "picture.png", "mask": tmp_path / "mask.png"}
    sample(Sample(**whole))
    noise = np.random.default_rng(0).standard_normal((2, 4, 8, 8), dtype=np.float32)
    made = DiffusionPipeline.from_pretrained(inpainting.pipeline)
    made.set_progress_bar_config(disable=True)
    seen = torch.from_numpy(picture.transpose(2, 0, 1) / 127.5 - 1).float() * torch.from_numpy(mask < 128)
    with torch.no_grad():  # diffusers draws from the distribution of which this is the mode
        latents = made.vae.encode(seen[None]).latent_dist.mode() * made.vae.config.scaling_factor
    wanted = made(
        ["a b"] * 2, image=Image.fromarray(picture), mask_image=Image.fromarray(mask), masked_image_latents=latents,
        latents=torch.from_numpy(noise), num_inference_steps=2, guidance_scale=2.0, output_type="np",
        height=16, width=16,
    ).images  # fmt: skip
    with np.load(tmp_path / "drawn.npz") as found:
        assert sqnr(wanted.transpose(0, 3, 1, 2) * 2 - 1, found["samples"].clip(-1, 1)) > 60
    for half in ({"mask": tmp_path / "mask.png"}, {"image": tmp_path / "picture.png"}):
        with pytest.raises(BundleError, match="needs a picture and its mask"):
            sample(Sample(**given, **half))
    with pytest.raises(BundleError, match="give --image, and no --mask"):
        sample(Sample(**whole, strength=0.5))
    Image.fromarray(mask[:8]).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match=r"mask.png: is 8×16; the model takes 16×16 \(scale it\)"):
        sample(Sample(**whole))


def test_without_an_encoder_there_is_no_picture_to_begin_with(made: Made, tmp_path: Path) -> None:
    assert made.bundle.encoder is None
    given = {"bundle": made.bundle.path, "prompt": ["a"], "image": tmp_path / "a.png", "out": tmp_path / "a.npz"}
    with pytest.raises(BundleError, match="no encoder to begin with a picture"):
        sample(Sample(**given))
    with pytest.raises(BundleError, match="draws in no picture"):
        sample(Sample(**given, mask=tmp_path / "b.png"))


@pytest.mark.parametrize(
    ("solver", "strength", "least"),
    [
        ("ddim", 0.5, 60),
        ("dpmpp_2m", 0.75, 60),
        ("dpmpp_2m", 1.0, 40),
    ],  # where nothing is left, diffusers leaves 1/4096
)
def test_a_picture_is_begun_with_as_diffusers_does(solver: str, strength: float, least: int, tmp_path: Path) -> None:
    pipeline = save_pipeline(tmp_path)
    export = {"export_onnx": {"encoder": True}}
    out = apply(tmp_path, [export], guidance={"scale": 2.0}, sampling={"steps": 5, "solver": solver})
    picture = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "picture.png")
    given = {"bundle": out, "prompt": ["a b"], "image": tmp_path / "picture.png", "count": 2}
    sample(Sample(**given, out=tmp_path / "drawn.npz", strength=strength))
    bundle = Bundle(out / "onnx")
    assert bundle.encoder is not None and bundle.text is not None
    latents = bundle.encoder.encode((picture.transpose(2, 0, 1)[None] / 127.5 - 1).astype(np.float32))
    made: Any = StableDiffusionImg2ImgPipeline.from_pretrained(pipeline)
    made.set_progress_bar_config(disable=True)
    config = read_json(out / "onnx" / "scheduler" / "scheduler_config.json")
    made.scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
    wanted = made(
        ["a b"] * 2, image=torch.from_numpy(np.repeat(latents, 2, axis=0)), strength=strength, num_inference_steps=5,
        guidance_scale=2.0, output_type="np", generator=torch.Generator().manual_seed(3),
    ).images  # fmt: skip
    begun = bundle.with_sampling(from_strength(bundle.path, bundle.sampling, strength))
    said = bundle.text.encode(["a b"] * 2)

    def drawn(noise: np.ndarray) -> np.ndarray:
        return begun.pixels(begun.sample(noised(begun.sampling, latents, noise), **said)).clip(-1, 1)

    theirs = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(3)).numpy()
    assert sqnr(wanted.transpose(0, 3, 1, 2) * 2 - 1, drawn(theirs)) > least
    with np.load(tmp_path / "drawn.npz") as found:
        ours = np.random.default_rng(0).standard_normal((2, 4, 8, 8), dtype=np.float32)
        assert sqnr(drawn(ours), found["samples"].clip(-1, 1)) > 60
    told = {**bundle.sampling, "others": [bundle.sampling["steps"][:2]]}
    with pytest.raises(BundleError, match="told the number of steps"):
        from_strength(bundle.path, told, strength)
    with pytest.raises(BundleError, match=r"strength should be from 0\.2, one step, to 1; got 0\.1"):
        sample(Sample(**given, out=tmp_path / "drawn.npz", strength=0.1))


def test_negative_prompts_are_zeros_where_the_pipeline_says_so(tmp_path: Path) -> None:
    for empty in (True, False):
        found = parts(str(save_sdxl(tmp_path / str(empty), empty)), None).text
        assert found is not None
        null = found.null("")
        assert set(null) == {"encoder_hidden_states", "text_embeds"}
        assert all(bool(value.any()) is not empty for value in null.values())
        assert all(bool(value.any()) for value in found.null("h g").values())


def test_without_t5_zeros_stand_for_it(tmp_path: Path) -> None:
    pipeline = save_sd3(tmp_path, third=False)
    found = parts(str(pipeline), None).text
    assert found is not None
    ours = found.encode(PROMPTS)
    made = DiffusionPipeline.from_pretrained(pipeline, text_encoder_3=None, tokenizer_3=None)
    with torch.no_grad():
        states, _, pooled, _ = made.encode_prompt(PROMPTS, PROMPTS, PROMPTS)
    assert ours["encoder_hidden_states"].shape == states.shape == (3, 5 + 256, 12)
    assert sqnr(states.numpy(), ours["encoder_hidden_states"].numpy()) > 100
    assert sqnr(pooled.numpy(), ours["pooled_projections"].numpy()) > 100


def test_one_timestep_serves_all_items_as_clients_hand_it(made: Made) -> None:
    sample, given = made.bundle.example(4)
    dtype = made.bundle.inputs["timestep"]["dtype"]
    given |= {name: value + 1 for name, value in given.items()}
    wanted, found = (
        made.bundle.graph.run({"sample": sample + 1, "timestep": np.full(count, 7, dtype), **given})[0]
        for count in (4, 1)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_what_a_text_is_cut_to_is_told(made: Made) -> None:
    own, text = parts(str(made.pipeline), None).text, made.bundle.text
    assert own is not None and text is not None
    told = {} if made.kind == "pixart" else {LONG: 5}
    assert own.cut(PROMPTS) == text.cut(PROMPTS) == told


def test_parts_that_lack_or_are_of_another_class_are_named(tmp_path: Path) -> None:
    """Before any weight is read."""
    teacher = save_sdxl(tmp_path)
    for weights in ("text_encoder_2/model.safetensors", "unet/diffusion_pytorch_model.safetensors"):
        (teacher / weights).write_bytes(b"no weights")
    index = read_json(teacher / "model_index.json")
    for changes, said in (
        ({"text_encoder_2": [None, None]}, "has no text_encoder_2"),
        ({"tokenizer_2": [None, None]}, "has a text_encoder_2 and no tokenizer_2"),
        ({"text_encoder_2": ["transformers", "CLIPTextModel"]}, "text_encoder_2 is a CLIPTextModel, and texts are"),
    ):
        (teacher / "model_index.json").write_text(json.dumps({**index, **changes}))
        with pytest.raises(DataError) as caught:
            encode(parts(str(teacher), None), ["a"], silent, print)
        assert said in str(caught.value)
        (tmp_path / "prompts.txt").write_text("a\n")
        data = {"source": "teacher", "prompts": "prompts.txt", "count": 2}
        broken = [{"distill": {"steps": 1}}, {"export_onnx": {}}]
        with pytest.raises(DataError, match="prompts and captions need a text encoder"):
            apply(tmp_path, broken, data=data, guidance={"scale": 2.0, "negative_prompt": "b"})
    (teacher / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="text_encoder_2 or tokenizer_2 cannot be read"):
        encode(parts(str(teacher), None), ["a"], silent, print)


def test_a_large_pixart_is_told_its_sizes() -> None:
    family = FAMILIES["PixArtTransformer2DModel"]
    large = {**LARGE, "sample_size": 128, "use_additional_conditions": None}
    rule = family.texts(large, {"_class_name": "PixArtAlphaPipeline"})
    assert rule is not None and set(rule.told) <= set(family.conditions(family.build(large), 1))
    made = conditions_of({"made": {}, "told": rule.told, "width": 0}, {}, 2, (512, 1024))
    assert made["resolution"].tolist() == [[512, 1024]] * 2 and made["aspect_ratio"].tolist() == [[0.5]] * 2
    sigma = family.texts(LARGE, {"_class_name": "PixArtSigmaPipeline"})
    assert sigma is not None and sigma.encoders["text_encoder"].tokens == 300


def test_an_encoder_that_takes_a_mask_has_weights_of_bytes(tmp_path: Path) -> None:
    found = parts(str(save_pixart(tmp_path)), None).text
    assert found is not None
    encoder = found.encoders["text_encoder"]
    given = encoder.read(PROMPTS)
    with torch.no_grad():
        (wanted,), (less,) = encoder.module(*given), quantized_part(encoder.module, given, "int8_weights")(*given)
        (blind,) = encoder.module(given[0])
    assert 20 < sqnr(wanted.numpy(), less.numpy()) < 60
    assert sqnr(wanted.numpy(), blind.numpy()) < 40

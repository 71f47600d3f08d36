"""Pictures of other sizes than the config's, from float and int8, step by step and in one graph."""

from pathlib import Path

import numpy as np
import pytest
import torch

from compress import sample_bundle
from compress.errors import BundleError, PassError
from compress.families.dit import dit
from compress.model.denoiser import Denoiser, draw
from compress.passes import export_onnx, quantize
from compress.runtime import Bundle
from tests.conftest import CLASS_CONFIG, SHALLOW_CONFIG, TEXT_CONFIG, assert_close_db, make_context, make_denoiser
from tests.families import roads
from tests.families.dit.models import transformer
from tests.families.unet.configs import DDIM_V, INPAINTING


def export(model: Denoiser, folder: Path, **settings: object) -> Bundle:
    config = export_onnx.Config.model_validate(settings)
    return export_onnx.run(model, config, make_context(model.in_float(), folder)).model


def drawn(model: Denoiser, noise: np.ndarray, conditions: dict[str, np.ndarray]) -> np.ndarray:
    given = {name: torch.from_numpy(value) for name, value in conditions.items()}
    return draw(model, torch.from_numpy(noise), given).numpy()


def noise_of(model: Denoiser, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, model.sample_shape[0], height, width), np.float32)


@pytest.mark.parametrize("config", [CLASS_CONFIG, TEXT_CONFIG], ids=["class", "text"])
def test_pictures_of_any_size_are_the_models_own(config: dict, tmp_path: Path) -> None:
    model = make_denoiser(config, steps=2)
    bundle = export(model, tmp_path, size="free")
    assert bundle.manifest["sizes"] == {"multiple": 2, "listed": None} and bundle.sample_shape == model.sample_shape
    for height, width in ((8, 8), (4, 14), (16, 6), (2, 2)):
        noise, (_, conditions) = noise_of(model, height, width), bundle.example(2)
        assert_close_db(drawn(model, noise, conditions), bundle.sample(noise, **conditions), least=70)
    for height, width in ((7, 8), (8, 0)):
        with pytest.raises(BundleError, match=r"noise must be .* \(or sides that are multiples of 2\); got"):
            bundle.sample(noise_of(model, height, width), **conditions)


def test_int8_of_any_size_computes_what_it_computes_at_the_own(tmp_path: Path) -> None:
    model = make_denoiser(SHALLOW_CONFIG, steps=2)
    settings = quantize.Config.model_validate({"samples": 4, "evaluations": 8})
    model = quantize.run(model, settings, make_context(model, tmp_path / "int8")).model
    own, bundle = export(model, tmp_path / "own", batch=2), export(model, tmp_path / "free", size="free", batch=2)
    assert bundle.manifest["scheme"] == "int8"
    for height, width in ((8, 8), (5, 9)):
        noise, (_, conditions) = noise_of(model, height, width), bundle.example(2)
        found = bundle.sample(noise, **conditions)
        assert_close_db(drawn(model.in_float(), noise, conditions), found, least=15)
        if (height, width) == (8, 8):
            assert_close_db(own.sample(noise, **conditions), found, least=20)


def test_listed_sizes_alone_are_taken_and_the_command_draws_them(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    model = make_denoiser(SHALLOW_CONFIG, steps=2)
    bundle = export(model, tmp_path, size=((6, 10),), sampler=True, batch=2)
    noise, (_, conditions) = noise_of(model, 6, 10), bundle.example(2)
    wanted = drawn(model, noise, conditions)
    assert_close_db(wanted, bundle.sample(noise, **conditions), least=70)
    assert_close_db(wanted, bundle.sample_at_once(noise, **conditions), least=60)
    with pytest.raises(BundleError, match=r"or sides of \[\[6, 10\]\]"):
        bundle.sample(noise_of(model, 10, 6), **conditions)
    asked = sample_bundle.Sample(bundle.path, tmp_path / "grid.npz", size="6x10", count=2)
    sample_bundle.sample(asked)
    with np.load(tmp_path / "grid.npz") as found:
        assert found["samples"].shape == (2, 1, 6, 10)
    with pytest.raises(BundleError, match=r"--size 6: should be HEIGHTxWIDTH"):
        sample_bundle.sample(sample_bundle.Sample(bundle.path, tmp_path / "grid.npz", size="6"))


def test_conditions_beside_the_sample_are_of_its_sides(tmp_path: Path) -> None:
    model = roads.tiny(INPAINTING, DDIM_V, None)
    bundle = export(model, tmp_path, size="free")
    noise, (_, conditions) = noise_of(model, 4, 12), bundle.example(2)
    with pytest.raises(BundleError, match=r"mask must be \[2, 1, 4, 12\]; got \[2, 1, 8, 8\]"):
        bundle.sample(noise, **conditions)
    for name in ("mask", "masked_image_latents"):
        conditions[name] = np.ones((*conditions[name].shape[:2], 4, 12), np.float32)
    assert_close_db(drawn(model, noise, conditions), bundle.sample(noise, **conditions), least=70)


@pytest.mark.parametrize("large", [False, True])
def test_sizes_that_a_net_cannot_take_are_refused_when_planned(
    large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_onnx, "LARGE", 0 if large else 2**28)
    model = make_denoiser(CLASS_CONFIG)
    with pytest.raises(PassError, match=r"size: \[6, 9\]: sides of its pictures are multiples of 2"):
        export_onnx.forecast(model, export_onnx.Config(size=((6, 9),)), make_context(model, tmp_path))
    model = transformer()
    with pytest.raises(PassError, match=f"size: a {dit.FAMILY.name} takes samples of its config's size alone"):
        export_onnx.forecast(model, export_onnx.Config(size="free"), make_context(model, tmp_path))


def test_a_graph_of_fixed_sides_is_not_taken_for_one_of_any(tmp_path: Path) -> None:
    model = make_denoiser(SHALLOW_CONFIG, steps=2)
    bundle = export(model, tmp_path, batch=2)
    manifest = (bundle.path / "bundle.json").read_text()
    (bundle.path / "bundle.json").write_text(manifest.replace('"sizes": null', '"sizes": {"multiple": 1}'))
    with pytest.raises(BundleError, match=r"and not of open sides as bundle\.json says"):
        Bundle(bundle.path)

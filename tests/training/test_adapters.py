"""Low-rank additions are all that is trained; the file beside the student and the student say the same."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from compress import training
from compress.errors import PassError
from compress.model.denoiser import Denoiser
from compress.passes import distill, distill_steps
from compress.pipeline import lora
from compress.training.computing import computing
from compress.training.loop import LORA
from compress.training.state import State
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG, make_context, make_denoiser
from tests.families.dit.models import transformer

RANK = 3
SETTINGS = {"steps": 6, "batch_size": 4, "learning_rate": 1e-2, "ema": 0.5, "lora": RANK}
MODELS: dict[str, Callable[[], Denoiser]] = {
    "class": lambda: make_denoiser(CLASS_CONFIG),
    "text": lambda: make_denoiser(TEXT_CONFIG),
    "dit": transformer,
}


def student_for(model: Denoiser, folder: Path, **settings: object) -> Denoiser:
    context = make_context(model, folder)
    weights = {"output": 1.0, "feature": 0.0}
    config = distill.Config.model_validate({**SETTINGS, "losses": weights, **settings})
    other = training.student_of(model)
    with torch.no_grad():
        for weight in other.net.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    return distill.run(other, config, context).model


@pytest.mark.parametrize("name", MODELS)
def test_the_student_is_what_it_was_and_the_file(name: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    before = student_for(model, tmp_path / "none", steps=1, lora=None, learning_rate=1e-30)
    after = student_for(model, tmp_path / "lora")
    own, found = before.net.state_dict(), after.net.state_dict()
    assert own.keys() == found.keys() and not any("lora" in type(m).__module__ for m in after.net.modules())
    added = load_file(make_context(model, tmp_path / "lora").output / LORA)
    layers = {key.removesuffix(".lora_A.weight") for key in added if key.endswith(".lora_A.weight")}
    assert len(added) == 2 * len(layers) and len(layers) > 10
    for key, weight in own.items():
        layer = f"{model.family.folder}.{key.removesuffix('.weight')}"
        if layer in layers and key.endswith(".weight"):
            a, b = added[f"{layer}.lora_A.weight"], added[f"{layer}.lora_B.weight"]
            assert a.shape[0] == b.shape[1] == RANK
            wanted = weight + (b.flatten(1) @ a.flatten(1)).view(weight.shape)
            torch.testing.assert_close(found[key], wanted, rtol=1e-4, atol=1e-6)
            assert not torch.equal(found[key], weight), key
        else:
            assert torch.equal(found[key], weight), key


def test_a_recipes_checkpoint_takes_the_file(tmp_path: Path) -> None:
    model = make_denoiser(TEXT_CONFIG)
    before = student_for(model, tmp_path / "none", steps=1, lora=None, learning_rate=1e-30)
    after = student_for(model, tmp_path / "lora")
    file = lora.Lora(path=make_context(model, tmp_path / "lora").output / LORA)
    (changes,) = lora.read(file, model.family, model.net).values()
    assert len(changes) > 10
    for path, change in changes.items():
        weight = before.net.get_submodule(path).weight
        torch.testing.assert_close(after.net.get_submodule(path).weight, change.added(weight), rtol=1e-4, atol=1e-6)


def test_little_is_kept_for_training_and_a_killed_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_denoiser(CLASS_CONFIG)
    whole = student_for(model, tmp_path / "whole").net.state_dict()
    monkeypatch.setattr("compress.training.loop.CHECKPOINT_SECONDS", 0.0)
    saved, kept = State.save, []

    def die(state: State) -> None:
        saved(state)
        kept.append(state.file.stat().st_size)
        if state.step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(State, "save", die)
    with pytest.raises(KeyboardInterrupt):
        student_for(model, tmp_path / "killed")
    monkeypatch.setattr(State, "save", saved)
    again = student_for(model, tmp_path / "killed").net.state_dict()
    assert all(torch.equal(again[key], whole[key]) for key in whole)
    assert kept[-1] < 4 * sum(p.numel() for p in model.net.parameters())  # of which a whole state is over four times


def test_steps_and_distributions_are_distilled_by_it(tmp_path: Path) -> None:
    """Of three nets, of which two follow, the student alone leaves a file."""
    model = make_denoiser(CLASS_CONFIG, steps=4)
    for method, more in (("trajectory", {"trajectories": 10}), ("distribution", {"samples": 10, "pace": 1})):
        context = make_context(model, tmp_path / method)
        settings = {**SETTINGS, "method": method, "sampling_steps": [1], "bake_guidance": True, **more}
        found = distill_steps.run(model, distill_steps.Config.model_validate(settings), context).model
        assert not any("lora" in name for name in found.net.state_dict())
        changed = [k for k, v in found.net.state_dict().items() if not torch.equal(v, model.net.state_dict()[k])]
        assert changed and all(key.endswith("weight") for key in changed)
        assert {f"unet.{key.removesuffix('.weight')}.lora_B.weight" for key in changed} <= load_file(
            context.output / LORA
        ).keys()


def test_a_forecast_writes_nothing_and_wants_less(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    settings = {**SETTINGS, "losses": {"output": 1.0, "feature": 0.0}}
    found = []
    for name, rank in (("lora", RANK), ("whole", None)):
        context = make_context(model, tmp_path / name)
        config = distill.Config.model_validate({**settings, "lora": rank})
        forecast = distill.forecast(model, config, context)
        assert not (context.output / LORA).exists()
        assert not any("lora" in key for key in forecast.model.net.state_dict())
        found.append(forecast.memory_bytes)
    assert found[0] < found[1]


@pytest.mark.parametrize(
    ("config", "settings", "said"),
    [
        (distill.Config, {"teacher": "average", "losses": {"task": 1.0}}, "an average of additions is no teacher"),
        (distill.Config, {"shard": True}, "too small to be split"),
        (distill.Config, {"lora": 0}, "greater than or equal to 1"),
        (distill_steps.Config, {"method": "progressive"}, "progressive makes a teacher of the student's weights"),
        (distill_steps.Config, {"method": "consistency"}, "consistency makes a teacher"),
    ],
)
def test_what_cannot_be_is_refused(config: type, settings: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        config.model_validate({**SETTINGS, **settings})


def test_what_is_no_denoiser_has_none(tmp_path: Path) -> None:
    context = make_context(make_denoiser(CLASS_CONFIG), tmp_path)
    with (
        pytest.raises(PassError, match="lora are for passes that train a denoiser"),
        computing((), training.TrainingConfig(lora=4), context),
    ):
        pass


def test_without_its_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(PassError, match=r"pass: lora needs a library: pip install 'compress-diffusion\[lora\]'"):
        student_for(make_denoiser(CLASS_CONFIG), tmp_path)

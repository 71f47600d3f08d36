"""The one contract that every pass in the folder is held to."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from pydantic import BaseModel, ValidationError

from compress import passes
from compress.contract import PassResult
from compress.data import FromTeacher
from compress.model.denoiser import Denoiser, Quantized, predict
from compress.pipeline import checkpoint, decoder
from compress.pipeline.decoder import Decoder
from compress.runtime import Bundle
from compress.settings import models
from tests.conftest import CLASS_CONFIG, inputs_for, make_context, make_denoiser, read_json

SHORT = {"steps": 3, "batch_size": 8}


@dataclass(frozen=True)
class Case:
    """changing: settings that change the model; idle: settings that do not (None: there are none)."""

    changing: dict[str, Any]
    idle: dict[str, Any] | None
    invalid: dict[str, Any]


CASES = {
    "train": Case(SHORT, None, {"steps": 0}),
    "factorize": Case(
        {"target": {"macs": 0.7}, "batches": 1}, {"target": {"energy": 1.0}}, {"target": {"macs": 0.5, "rank": 0.5}}
    ),
    "new_student": Case(
        {"config": {"block_out_channels": [8, 16]}, "inherit": "slices"},
        {"config": {"layers_per_block": 1, "block_out_channels": (16, 32)}},
        {"config": {}, "inherit": "some"},
    ),
    "prune_channels": Case(
        {"target": {"macs": 0.6}}, {"target": {"macs": 1.0}}, {"target": {"macs": 0.5, "params": 0.5}}
    ),
    "prune_blocks": Case(
        {"target": {"macs": 0.8}, "probe_steps": 2, "batch_size": 8, "batches": 1},
        {"target": {"params": 1.0}},
        {"layout": "bk-small", "blocks": ["mid_block"]},
    ),
    "distill": Case(SHORT, {**SHORT, "losses": {"output": 0, "feature": 0}}, {"losses": {"output": -1}}),
    "choose_timesteps": Case({"sampling_steps": 2}, {"sampling_steps": 4}, {"sampling_steps": 0}),
    "distill_guidance": Case(SHORT, None, {"mode": "embedded", "scales": [2, 1]}),
    "distill_steps": Case(
        {**SHORT, "sampling_steps": [2], "trajectories": 20}, None, {"sampling_steps": [1, 2], "method": "consistency"}
    ),
    "compress_decoder": Case({"width": 4, "blocks": 1, "steps": 2, "batch_size": 4}, None, {"losses": {"edges": -1}}),
    "quantize": Case({"samples": 4, "evaluations": 20}, None, {"scheme": "int3"}),
    "export_onnx": Case({}, None, {"batch": 0}),
    "verify": Case(
        {"samples": 20, "rounds": 10, "starts": 0}, {"samples": 20, "rounds": 10, "starts": 0}, {"gates": {"psnr": {}}}
    ),
}
TRANSFORMING = [name for name in passes.names() if name != "verify"]


def student() -> Denoiser:
    return make_denoiser(CLASS_CONFIG, seed=7)


def teachers_decoder() -> Decoder:
    """Of latents as the student's samples are."""
    torch.manual_seed(0)
    levels: dict[str, Any] = {
        "block_out_channels": (8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
    }
    return decoder.of_net("vae", AutoencoderKL(**levels, norm_num_groups=4, latent_channels=1).requires_grad_(False))


def run(name: str, settings: dict[str, Any], folder: Path) -> PassResult:
    context = make_context(make_denoiser(CLASS_CONFIG), folder, name=name)
    model: Any = student()
    if name == "verify":
        exported = passes.module("export_onnx").run(model, passes.module("export_onnx").Config(), context)
        model = exported.model
    if passes.on_decoder(name):
        model = teachers_decoder()
    module = passes.module(name)
    return module.run(model, module.Config.model_validate(settings), context)


def output_of(model: Any) -> np.ndarray:
    sample, timestep, conditions = inputs_for(student())
    if isinstance(model, Decoder):
        return model.decode(sample).numpy()
    if isinstance(model, Bundle):
        return model.denoise(sample.numpy(), 500, {n: v.numpy() for n, v in conditions.items()})
    with torch.no_grad():
        return predict(model, sample, timestep, conditions).numpy()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PassResult]:
    """One changing run of every pass, shared by the tests that only look at it."""
    return {name: run(name, CASES[name].changing, tmp_path_factory.mktemp(name)) for name in passes.names()}


def test_every_pass_has_a_case() -> None:
    assert set(CASES) == set(passes.names())


@pytest.mark.parametrize("name", passes.names())
def test_is_documented_and_typed(name: str) -> None:
    module = passes.module(name)
    assert passes.summary(name)
    assert passes.accepts(name) and passes.returns(name)
    configs: list[type[BaseModel]] = [module.Config]
    while configs:
        config = configs.pop()
        assert config.model_config["extra"] == "forbid" and config.model_config["frozen"]
        for field, info in config.model_fields.items():
            assert info.description, f"{name}: {config.__name__}.{field} has no description"
            if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
                configs.append(info.annotation)


@pytest.mark.parametrize("name", TRANSFORMING)
def test_changes_the_model_and_leaves_its_input_alone(name: str, results: dict[str, PassResult]) -> None:
    result = results[name]
    assert result.changed
    kind: Any = passes.returns(name)
    assert isinstance(result.model, getattr(kind, "__supertype__", kind))
    assert isinstance(result.model, Bundle | Decoder) or (result.model.precision is not None) == (kind is Quantized)
    if name == "choose_timesteps":  # the net stays, it is asked at other times
        assert result.model.sampling != student().sampling
    elif name != "export_onnx":  # an export changes the form, not the function
        before = teachers_decoder() if passes.on_decoder(name) else student()
        assert not np.allclose(output_of(result.model), output_of(before), atol=1e-6)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].idle is not None])
def test_idle_settings_change_nothing(name: str, tmp_path: Path) -> None:
    idle = CASES[name].idle
    assert idle is not None
    result = run(name, idle, tmp_path)
    assert not result.changed
    if name != "verify":
        np.testing.assert_array_equal(output_of(result.model), output_of(student()))


@pytest.mark.parametrize("name", passes.names())
def test_refuses_invalid_and_unknown_settings(name: str) -> None:
    config = passes.module(name).Config
    with pytest.raises(ValidationError):
        config.model_validate(CASES[name].invalid)
    with pytest.raises(ValidationError):
        config.model_validate({**CASES[name].changing, "no_such_setting": 1})


@pytest.mark.parametrize("name", TRANSFORMING)
def test_saved_and_loaded_it_is_identical(name: str, results: dict[str, PassResult], tmp_path: Path) -> None:
    model = results[name].model
    if isinstance(model, Bundle):
        loaded: Any = Bundle(model.path)
    elif isinstance(model, Decoder):
        model.net.save_pretrained(tmp_path / "vae")  # type: ignore[operator]
        loaded = decoder.load({"vae": tmp_path / "vae"}, {"vae": "AutoencoderTiny"})
    else:
        checkpoint.save(model, tmp_path / "saved")
        loaded = checkpoint.load(tmp_path / "saved")
    np.testing.assert_array_equal(output_of(loaded), output_of(model))


@pytest.mark.parametrize("name", TRANSFORMING)
def test_same_seed_gives_the_same_result(name: str, results: dict[str, PassResult], tmp_path: Path) -> None:
    again = run(name, CASES[name].changing, tmp_path)
    np.testing.assert_array_equal(output_of(again.model), output_of(results[name].model))


def test_verify_writes_a_complete_report(tmp_path: Path) -> None:
    run(
        "verify",
        {"samples": 20, "rounds": 10, "starts": 0, "gates": {"psnr": {"min": 1000}}, "judge_accuracy": 0},
        tmp_path,
    )
    report = read_json(tmp_path / "files" / "report.json")
    assert report["verdict"] == "fail"
    assert [gate["name"] for gate in report["gates"] if not gate["always"]] == ["psnr"]
    for side in ("teacher", "student"):
        assert {"params", "macs", "bytes", "ms_per_call"} <= set(report[side])
    assert {"params", "macs", "bytes", "call_speedup", "image_speedup"} <= set(report["ratios"])
    assert {"psnr", "ssim", "class_agreement", "class_accuracy"} <= set(report["quality"])


@pytest.mark.parametrize("kind", passes.names())
def test_a_count_that_no_machine_holds_is_refused(kind: str) -> None:
    """As a typo of too many noughts is, before anything is drawn or trained."""

    def counts(model: type[BaseModel], place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        for name, field in model.model_fields.items():
            if int in (field.annotation, *get_args(field.annotation)):
                yield (*place, name)
            for inner in models(field.annotation):
                yield from counts(inner, (*place, name))

    config = passes.module(kind).Config
    for place in counts(config):
        given: Any = 10**12
        for name in reversed(place):
            given = {name: given}
        with pytest.raises(ValidationError) as caught:
            config.model_validate(given)
        assert place in [fault["loc"] for fault in caught.value.errors()], place


def test_a_data_set_that_no_machine_holds_is_refused() -> None:
    with pytest.raises(ValidationError, match="less than or equal to 10000000"):
        FromTeacher.model_validate({"source": "teacher", "count": 10**12})

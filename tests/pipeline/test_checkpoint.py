"""Model folders: what is saved comes back, what diffusers wrote is read, and damage is named."""

import dataclasses
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, LCMScheduler, UNet2DConditionModel, UNet2DModel
from safetensors.torch import load_file, save_file

from compress.diffusion.sampling import Guidance
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.errors import CheckpointError
from compress.model.denoiser import Denoiser, draw, predict
from compress.passes import quantize
from compress.pipeline import checkpoint
from tests.conftest import CLASS_CONFIG, SCHEDULER, TEXT_CONFIG, inputs_for, make_context, make_denoiser, read_json

WEIGHTS = "diffusion_pytorch_model.safetensors"
INDEX = "diffusion_pytorch_model.safetensors.index.json"


def output(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return predict(model, *inputs_for(model))


@pytest.fixture(scope="module")
def stock_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class-conditional pipeline folder as diffusers writes it."""
    folder = tmp_path_factory.mktemp("stock")
    make_denoiser(CLASS_CONFIG).net.save_pretrained(folder / "unet")
    DDIMScheduler.from_config(SCHEDULER).save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture
def folder(stock_folder: Path, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(stock_folder, tmp_path / "model"))


Tensors = dict[str, torch.Tensor]


def rewrite_weights(folder: Path, change: Callable[[Tensors], Tensors], name: str = WEIGHTS) -> None:
    tensors = load_file(folder / "unet" / WEIGHTS)
    (folder / "unet" / WEIGHTS).unlink()
    save_file(change(tensors), folder / "unet" / name)


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps({**read_json(file), **changes}))


def refused(folder: str | Path, *mentions: str | Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(folder, **options)
    message = str(caught.value)
    for mention in mentions:
        assert str(mention) in message
    return message


# What is saved comes back.


def test_saved_model_comes_back_bit_identical(any_model: Denoiser, tmp_path: Path) -> None:
    checkpoint.save(any_model, tmp_path / "m")
    loaded = checkpoint.load(tmp_path / "m")
    assert torch.equal(output(loaded), output(any_model))


def test_saved_model_draws_the_same_samples(any_model: Denoiser, tmp_path: Path) -> None:
    checkpoint.save(any_model, tmp_path / "m")
    loaded = checkpoint.load(tmp_path / "m")
    noise, _, conditions = inputs_for(any_model)
    assert torch.equal(draw(loaded, noise, conditions), draw(any_model, noise, conditions))


def test_everything_beside_the_weights_comes_back(any_model: Denoiser, tmp_path: Path) -> None:
    model = dataclasses.replace(any_model, kept={"mid_block": (0, 3, 7), "down_blocks.0": (1,)})
    checkpoint.save(model, tmp_path / "m")
    loaded = checkpoint.load(tmp_path / "m")
    assert isinstance(loaded, Denoiser)
    assert loaded.sampling == model.sampling
    assert loaded.scheduler == model.scheduler
    assert loaded.kept == model.kept
    assert loaded.family.name == model.family.name
    assert loaded.sample_shape == model.sample_shape


def test_null_embedding_comes_back(text_model: Denoiser, tmp_path: Path) -> None:
    checkpoint.save(text_model, tmp_path / "m")
    loaded = checkpoint.load(tmp_path / "m")
    assert torch.equal(loaded.null["encoder_hidden_states"], text_model.null["encoder_hidden_states"])


def test_model_without_null_embedding_has_none(class_model: Denoiser, tmp_path: Path) -> None:
    checkpoint.save(class_model, tmp_path / "m")
    assert checkpoint.load(tmp_path / "m").null == {}


def test_loaded_model_is_frozen_and_in_float32(class_model: Denoiser, tmp_path: Path) -> None:
    checkpoint.save(class_model, tmp_path / "m")
    net = checkpoint.load(tmp_path / "m").net
    assert not net.training
    assert all(p.dtype == torch.float32 and not p.requires_grad and p.device.type == "cpu" for p in net.parameters())


def test_unpruned_model_is_a_plain_diffusers_folder(any_model: Denoiser, tmp_path: Path) -> None:
    checkpoint.save(any_model, tmp_path / "m")
    assert not (tmp_path / "m" / "structure.json").exists()
    kind = UNet2DConditionModel if "encoder_hidden_states" in any_model.conditions else UNet2DModel
    net = kind.from_pretrained(tmp_path / "m" / "unet")
    assert torch.equal(output(dataclasses.replace(any_model, net=net.eval())), output(any_model))


def test_saved_scheduler_is_read_by_diffusers(class_model: Denoiser, tmp_path: Path) -> None:
    checkpoint.save(class_model, tmp_path / "m")
    scheduler = DDIMScheduler.from_pretrained(tmp_path / "m" / "scheduler")
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.timestep_spacing == "trailing"


def test_what_the_caller_asks_overrides_what_the_folder_says(text_model: Denoiser, tmp_path: Path) -> None:
    checkpoint.save(text_model, tmp_path / "m")
    guidance, null = Guidance(kind="cfg", scale=7.0), torch.ones(3, 12)
    loaded = checkpoint.load(
        tmp_path / "m", options=SamplingOptions(steps=2), guidance=guidance, null={"encoder_hidden_states": null}
    )
    assert len(loaded.sampling.timesteps) == 2
    assert loaded.sampling.guidance == guidance
    assert torch.equal(loaded.null["encoder_hidden_states"], null)


def test_other_steps_keep_the_saved_guidance(class_model: Denoiser, tmp_path: Path) -> None:
    checkpoint.save(class_model, tmp_path / "m")
    loaded = checkpoint.load(tmp_path / "m", options=SamplingOptions(steps=2))
    assert loaded.sampling.guidance == class_model.sampling.guidance


# What diffusers wrote is read.


@pytest.mark.parametrize("config", [CLASS_CONFIG, TEXT_CONFIG], ids=["class", "text"])
def test_folder_written_by_diffusers_gives_diffusers_output(config: dict, tmp_path: Path) -> None:
    torch.manual_seed(3)
    plain = {key: value for key, value in config.items() if key != "_class_name"}
    kind = UNet2DModel if config is CLASS_CONFIG else UNet2DConditionModel
    net = kind(**plain).eval()
    net.save_pretrained(tmp_path / "unet")
    DDIMScheduler.from_config(SCHEDULER).save_pretrained(tmp_path / "scheduler")
    loaded = checkpoint.load(tmp_path)
    sample, timestep, conditions = inputs_for(loaded)
    with torch.no_grad():
        wanted = net(sample, timestep, **conditions).sample
    assert torch.equal(output(loaded), wanted)
    assert loaded.sampling == from_scheduler_config(SCHEDULER)


def test_bare_model_folder_with_scheduler_beside(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    model.net.save_pretrained(tmp_path)
    DDIMScheduler.from_config(SCHEDULER).save_pretrained(tmp_path)
    loaded = checkpoint.load(tmp_path)
    assert torch.equal(output(loaded), output(model))
    assert loaded.sampling.prediction_type == "v_prediction"


def test_path_may_be_a_string(folder: Path) -> None:
    assert torch.equal(output(checkpoint.load(str(folder))), output(make_denoiser(CLASS_CONFIG)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["fp16", "bf16"])
@pytest.mark.parametrize("name", [WEIGHTS, WEIGHTS.replace(".safe", ".fp16.safe")], ids=["plain", "variant"])
def test_half_precision_weights_are_read_as_float32(folder: Path, dtype: torch.dtype, name: str) -> None:
    rewrite_weights(folder, lambda tensors: {key: tensor.to(dtype) for key, tensor in tensors.items()}, name)
    loaded = checkpoint.load(folder)
    wanted = make_denoiser(CLASS_CONFIG)
    wanted.net.to(dtype).float()
    assert {p.dtype for p in loaded.net.parameters()} == {torch.float32}
    assert torch.equal(output(loaded), output(wanted))


def test_full_precision_is_preferred_to_a_variant(folder: Path) -> None:
    zeros = {key: torch.zeros_like(value).half() for key, value in load_file(folder / "unet" / WEIGHTS).items()}
    save_file(zeros, folder / "unet" / WEIGHTS.replace(".safe", ".fp16.safe"))
    assert torch.equal(output(checkpoint.load(folder)), output(make_denoiser(CLASS_CONFIG)))


def test_sharded_weights(folder: Path) -> None:
    (folder / "unet" / WEIGHTS).unlink()
    make_denoiser(CLASS_CONFIG).net.save_pretrained(folder / "unet", max_shard_size="100KB")
    assert (folder / "unet" / INDEX).is_file()
    assert len(list((folder / "unet").glob("*-of-*.safetensors"))) > 1
    assert torch.equal(output(checkpoint.load(folder)), output(make_denoiser(CLASS_CONFIG)))


def test_attention_names_of_old_diffusers(folder: Path) -> None:
    old = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def rename(tensors: Tensors) -> Tensors:
        renamed = {}
        for key, tensor in tensors.items():
            for new, name in old.items():
                key = key.replace(new, name)
            renamed[key] = tensor
        assert sum(".query." in key for key in renamed) > 1 and not any(".to_" in key for key in renamed)
        return renamed

    rewrite_weights(folder, rename)
    assert torch.equal(output(checkpoint.load(folder)), output(make_denoiser(CLASS_CONFIG)))


# Nothing there, or something else.


def test_no_such_folder(tmp_path: Path) -> None:
    refused(tmp_path / "absent", tmp_path / "absent", "no such folder")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "model.zip").write_bytes(b"PK")
    refused(tmp_path / "model.zip", tmp_path / "model.zip")


def test_empty_folder(tmp_path: Path) -> None:
    refused(tmp_path, tmp_path, "nothing", "UNet2DModel", "UNet2DConditionModel")


def test_folder_of_other_things_says_what_it_found(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"")
    (tmp_path / "transformer").mkdir()
    refused(tmp_path, tmp_path, "photo.png", "transformer", "UNet2DModel")


# Weights.


def test_truncated_weights(folder: Path) -> None:
    file = folder / "unet" / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1000])
    refused(folder, file)


@pytest.mark.parametrize("content", [b"", b"\xff" * 4096, b"<!DOCTYPE html>"], ids=["empty", "garbage", "html"])
def test_garbage_weights(folder: Path, content: bytes) -> None:
    (folder / "unet" / WEIGHTS).write_bytes(content)
    refused(folder, folder / "unet" / WEIGHTS)


def test_missing_key(folder: Path) -> None:
    rewrite_weights(folder, lambda tensors: {key: tensor for key, tensor in tensors.items() if key != "conv_in.bias"})
    refused(folder, folder / "unet", "missing conv_in.bias")


def test_extra_key(folder: Path) -> None:
    rewrite_weights(folder, lambda tensors: {**tensors, "lora.weight": torch.zeros(2)})
    refused(folder, folder / "unet", "unknown lora.weight")


def test_wrong_shape(folder: Path) -> None:
    rewrite_weights(folder, lambda tensors: {**tensors, "conv_in.bias": torch.zeros(7)})
    refused(folder, folder / "unet", "conv_in.bias is [7] and should be [16]")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(folder: Path, value: float) -> None:
    rewrite_weights(folder, lambda tensors: {**tensors, "conv_in.weight": torch.full((16, 1, 3, 3), value)})
    refused(folder, folder / "unet", "conv_in.weight holds NaN or infinity")


def test_many_faults_are_counted_not_listed(folder: Path) -> None:
    rewrite_weights(folder, lambda tensors: {"conv_in.bias": tensors["conv_in.bias"]})
    message = refused(folder, folder / "unet")
    assert " more" in message and len(message) < 1000


def test_weights_missing(folder: Path) -> None:
    (folder / "unet" / WEIGHTS).unlink()
    refused(folder, folder / "unet", WEIGHTS)


def test_shard_missing(folder: Path) -> None:
    edit = {"metadata": {}, "weight_map": {"conv_in.bias": "absent.safetensors"}}
    (folder / "unet" / INDEX).write_text(json.dumps(edit))
    refused(folder, folder / "unet" / "absent.safetensors")


@pytest.mark.parametrize("name", ["../stolen.safetensors", "/etc/passwd", "sub/x.safetensors"])
def test_index_that_names_a_file_outside_its_folder(folder: Path, name: str) -> None:
    shutil.copy(folder / "unet" / WEIGHTS, folder / "stolen.safetensors")
    (folder / "unet" / INDEX).write_text(json.dumps({"weight_map": {"conv_in.bias": name}}))
    refused(folder, folder / "unet" / INDEX, "outside")


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": []}', '{"weight_map": {"a": 5}}', '{"weight_map": 1}'])
def test_damaged_index(folder: Path, content: str) -> None:
    (folder / "unet" / INDEX).write_text(content)
    refused(folder, folder / "unet" / INDEX)


def test_damaged_null_embedding(folder: Path) -> None:
    save_file({"something": torch.zeros(2)}, folder / "null_embedding.safetensors")
    refused(folder, folder / "null_embedding.safetensors")


# Pickles.


def pickle_weights(folder: Path, content: Any) -> Path:
    (folder / "unet" / WEIGHTS).unlink(missing_ok=True)
    file = folder / "unet" / "diffusion_pytorch_model.bin"
    torch.save(content, file)
    return file


def test_pickled_weights_are_refused(folder: Path) -> None:
    file = pickle_weights(folder, load_file(folder / "unet" / WEIGHTS))
    refused(folder, file, "pickle", "--allow-pickle")


def test_pickled_weights_are_read_when_allowed(folder: Path) -> None:
    pickle_weights(folder, load_file(folder / "unet" / WEIGHTS))
    loaded = checkpoint.load(folder, allow_pickle=True)
    assert torch.equal(output(loaded), output(make_denoiser(CLASS_CONFIG)))


def test_safetensors_are_preferred_to_a_pickle(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"never opened")
    loaded = checkpoint.load(folder, allow_pickle=True)
    assert torch.equal(output(loaded), output(make_denoiser(CLASS_CONFIG)))


class Malicious:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("protocol", [None, 2, 4])
def test_malicious_pickle_runs_nothing(folder: Path, tmp_path: Path, allowed: bool, protocol: int | None) -> None:
    content = {"conv_in.bias": Malicious(tmp_path / "owned")}
    file = pickle_weights(folder, content)
    if protocol is not None:
        file.write_bytes(pickle.dumps(content, protocol))
    refused(folder, file, allow_pickle=allowed)
    assert not (tmp_path / "owned").exists()
    if protocol is not None:  # the pickle does what it says when it is opened carelessly
        pickle.loads(file.read_bytes())
        assert (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [b"", b"\x80", b"garbage", b"PK\x03\x04"])
def test_damaged_pickle(folder: Path, content: bytes) -> None:
    file = pickle_weights(folder, {})
    file.write_bytes(content)
    refused(folder, file, allow_pickle=True)


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"conv_in.bias": 3}, {"state_dict": {"a": torch.zeros(1)}}])
def test_pickle_of_something_else(folder: Path, content: Any) -> None:
    refused(folder, pickle_weights(folder, content), "dictionary of tensors", allow_pickle=True)


# Configs.


@pytest.mark.parametrize("name", ["FluxTransformer2DModel", None, 3])
def test_unsupported_architecture_names_the_supported_ones(folder: Path, name: Any) -> None:
    edit_json(folder / "unet" / "config.json", _class_name=name)
    refused(folder, folder / "unet", str(name), "UNet2DModel", "UNet2DConditionModel")


@pytest.mark.parametrize("change", [{"time_embedding_type": "fourier"}])
def test_unsupported_variant_of_the_architecture(folder: Path, change: dict) -> None:
    edit_json(folder / "unet" / "config.json", **change)
    refused(folder, folder / "unet" / "config.json", *change)


@pytest.mark.parametrize("change", [{"block_out_channels": [15, 32]}, {"down_block_types": ["NoBlock", "DownBlock2D"]}])
def test_config_that_diffusers_cannot_build(folder: Path, change: dict) -> None:
    edit_json(folder / "unet" / "config.json", **change)
    refused(folder, folder / "unet" / "config.json")


@pytest.mark.parametrize("content", [b"not json", b"[1, 2]", b"", b"\xff\xfe"])
@pytest.mark.parametrize(
    "name", ["unet/config.json", "scheduler/scheduler_config.json", "structure.json", "sampling.json"]
)
def test_file_that_is_no_json_object(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    refused(folder, folder / name)


def test_unsupported_scheduler(folder: Path) -> None:
    shutil.rmtree(folder / "scheduler")
    LCMScheduler().save_pretrained(folder / "scheduler")
    refused(folder, folder / "scheduler" / "scheduler_config.json", "LCMScheduler", "DDIMScheduler")


@pytest.mark.parametrize(
    "change",
    [
        {"num_train_timesteps": "many"},
        {"num_train_timesteps": None},
        {"beta_schedule": "cubic"},
        {"prediction_type": "flow"},
        {"trained_betas": 5},
        {"timestep_spacing": "random"},
    ],
    ids=lambda change: next(f"{key}={value}" for key, value in change.items()),
)
def test_scheduler_with_an_impossible_setting(folder: Path, change: dict) -> None:
    edit_json(folder / "scheduler" / "scheduler_config.json", **change)
    refused(folder, folder / "scheduler" / "scheduler_config.json")


def test_fault_of_the_scheduler_is_not_blamed_on_sampling_json(class_model: Denoiser, tmp_path: Path) -> None:
    checkpoint.save(class_model, tmp_path)
    edit_json(tmp_path / "scheduler" / "scheduler_config.json", _class_name="NoScheduler")
    message = refused(tmp_path, "scheduler_config.json", "NoScheduler", options=SamplingOptions(steps=2))
    assert "sampling.json" not in message


def test_no_scheduler_at_all(folder: Path) -> None:
    shutil.rmtree(folder / "scheduler")
    refused(folder, folder, "scheduler_config.json", "sampling: {scheduler")


def test_scheduler_of_the_recipe_stands_in_for_a_missing_one(folder: Path) -> None:
    shutil.rmtree(folder / "scheduler")
    loaded = checkpoint.load(folder, options=SamplingOptions(scheduler=SCHEDULER))
    assert loaded.sampling == from_scheduler_config(SCHEDULER)
    assert loaded.scheduler == SCHEDULER


@pytest.mark.parametrize(
    "change", [{"timesteps": "soon"}, {"timesteps": [5000]}, {"timesteps": []}, {"solver": "magic"}, {"surprise": 1}]
)
def test_damaged_sampling(class_model: Denoiser, tmp_path: Path, change: dict) -> None:
    checkpoint.save(class_model, tmp_path)
    edit_json(tmp_path / "sampling.json", **change)
    refused(tmp_path, tmp_path / "sampling.json")


# Hostile structures.


@pytest.mark.parametrize(
    "structure",
    [
        {"shapes": {"no_such_module.weight": [4]}},
        {"shapes": {"conv_in.no_such_parameter": [4]}},
        {"shapes": {"conv_in.weight": [-16, 1, 3, 3]}},
        {"shapes": {"conv_in.weight": [0, 1, 3, 3]}},
        {"shapes": {"conv_in.weight": [16]}},
        {"shapes": {"conv_in.weight": "big"}},
        {"shapes": {"conv_in.weight": [2**40, 1, 3, 3]}},
        {"shapes": {"conv_in.forward": [4]}},
        {"shapes": {"conv_in.__class__": [4]}},
        {"shapes": {"": [4]}},
        {"shapes": [1, 2]},
        {"attributes": {"no_such_module": {"heads": 1}}},
        {"attributes": {"conv_in": {"no_such_attribute": 1}}},
        {"attributes": {"conv_in": {"forward": 1}}},
        {"attributes": {"conv_in": {"__class__": "x"}}},
        {"attributes": {"conv_in": {"_parameters": 1}}},
        {"attributes": {"conv_in": {"in_channels": {"a": 1}}}},
        {"attributes": {"conv_in": 5}},
        {"attributes": 5},
        {"modules": {}},
        {"kept": 5},
        {"kept": {"mid_block": 5}},
        {"kept": {"mid_block": ["x"]}},
        {"quantization": 5},
        {"quantization": {}},
        {"quantization": {"scheme": "int3", "float_layers": []}},
    ],
    ids=lambda structure: json.dumps(structure)[:60],
)
def test_hostile_structure(folder: Path, structure: dict) -> None:
    (folder / "structure.json").write_text(json.dumps(structure))
    refused(folder, folder / "structure.json")


def test_structure_that_the_weights_do_not_have(folder: Path) -> None:
    (folder / "structure.json").write_text(json.dumps({"shapes": {"conv_in.bias": [8]}}))
    refused(folder, folder / "unet", "conv_in.bias is [16] and should be [8]")


# Schedules and guidance that cannot work.


def one_message(folder: Path, file: str, *mentions: str) -> None:
    message = refused(folder, folder / file, *mentions)
    assert "\n" not in message and "pydantic" not in message and len(message) < 600 + len(str(folder))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"beta_start": -0.1}, "beta_start"),
        ({"beta_start": -0.1, "beta_schedule": "scaled_linear"}, "beta_start"),
        ({"beta_end": 1.5, "beta_schedule": "linear"}, "beta_end"),
        ({"beta_end": float("nan"), "beta_schedule": "linear"}, "beta_end"),
        ({"beta_start": "small"}, "beta_start"),
        ({"beta_start": 0, "beta_end": 0, "beta_schedule": "linear"}, "betas"),
        ({"trained_betas": [0.1, 0.2]}, "2 numbers for 1000"),
        ({"trained_betas": "many"}, "trained_betas"),
        ({"trained_betas": {"a": 1}}, "trained_betas"),
        ({"trained_betas": ["x"] * 1000}, "trained_betas"),
        ({"trained_betas": [2.0] * 1000}, "trained_betas"),
        ({"trained_betas": [-0.1] * 1000}, "trained_betas"),
        ({"trained_betas": [0.0] * 1000}, "betas"),
        ({"num_train_timesteps": 10**9}, "num_train_timesteps"),
        ({"num_train_timesteps": float("inf")}, "scheduler_config.json"),
        ({"num_train_timesteps": [1000]}, "scheduler_config.json"),
        ({"steps_offset": 10**9, "timestep_spacing": "leading"}, "scheduler_config.json"),
        ({"clip_sample": True, "clip_sample_range": None}, "scheduler_config.json"),
        ({"prediction_type": ["epsilon"]}, "prediction_type"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_schedule_that_samples_cannot_be_drawn_with(folder: Path, change: dict, named: str) -> None:
    edit_json(folder / "scheduler" / "scheduler_config.json", **change)
    one_message(folder, "scheduler/scheduler_config.json", named)


def test_trained_betas_are_taken(folder: Path) -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).tolist()
    edit_json(folder / "scheduler" / "scheduler_config.json", trained_betas=betas)
    wanted = from_scheduler_config({**SCHEDULER, "beta_schedule": "linear"}).alphas_cumprod
    torch.testing.assert_close(checkpoint.load(folder).sampling.alphas_cumprod, wanted, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("guidance", "named"),
    [
        ({"kind": "cfg", "scale": 2.0}, "class-conditional; give null_class"),
        ({"kind": "cfg", "scale": 2.0, "null_class": 99}, "null_class: 99, but the model has the labels 0…10"),
        ({"kind": "baked", "scale": 2.0, "null_class": 11}, "null_class: 11"),
        ({"kind": "cfg", "scale": 2.0, "null_class": -1}, "null_class"),
        ({"kind": "embedded", "scale": 2.0, "scales": [1, 3]}, "takes no guidance scale"),
        ({"kind": "cfg", "scale": float("inf"), "null_class": 10}, "scale"),
    ],
)
def test_guidance_of_sampling_json_that_the_net_does_not_have(
    class_model: Denoiser, tmp_path: Path, guidance: dict, named: str
) -> None:
    checkpoint.save(class_model, tmp_path)
    edit_json(tmp_path / "sampling.json", guidance=guidance)
    one_message(tmp_path, "sampling.json", named)


def test_guidance_of_a_net_that_takes_no_condition(unconditional_model: Denoiser, tmp_path: Path) -> None:
    checkpoint.save(unconditional_model, tmp_path)
    for guidance, named in (({"kind": "cfg"}, "is unconditional"), ({"kind": "classifier"}, "class labels alone")):
        edit_json(tmp_path / "sampling.json", guidance=guidance)
        one_message(tmp_path, "sampling.json", named)


def test_guidance_without_its_null_embedding(text_model: Denoiser, tmp_path: Path) -> None:
    checkpoint.save(text_model, tmp_path)
    save_file({"encoder_hidden_states": torch.zeros(5, 7)}, tmp_path / "null_embedding.safetensors")
    one_message(tmp_path, "sampling.json", "null_embedding: should be [tokens, 12]; got (5, 7)")
    (tmp_path / "null_embedding.safetensors").unlink()
    one_message(tmp_path, "sampling.json", "null_embedding: should be [tokens, 12]; got None")


@pytest.mark.parametrize(
    "structure",
    [
        {"shapes": {"conv_in.weight": [2**20] * 4}},
        {"shapes": {"conv_in.weight": [True, True, True, True]}},
        {"shapes": {"conv_in.weight": [2**63, 1, 3, 3]}},
        {"edits": {"conv_in": {"kind": "low_rank", "rank": True}}},
        {"edits": {"conv_in": {"kind": "low_rank", "rank": 2**40}}},
        {"edits": {"forward": {"kind": "scalars", "names": ["steps"], "width": 64}}},
        {"edits": {"class_embedding": {"kind": "scalars", "names": ["steps"], "width": 2**40}}},
        {"kept": {"mid_block": [True]}},
        {"kept": {"mid_block": [-1]}},
        {"kept": {"mid_block": list(range(33))}},
        {"quantization": {"scheme": ["int8"], "float_layers": []}},
        {"quantization": {"scheme": "int8", "float_layers": "all"}},
    ],
    ids=lambda structure: json.dumps(structure)[:60],
)
def test_structure_of_impossible_sizes(folder: Path, structure: dict) -> None:
    (folder / "structure.json").write_text(json.dumps(structure))
    one_message(folder, "structure.json")


@pytest.fixture(scope="module")
def int8_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    model = make_denoiser(CLASS_CONFIG)
    config = quantize.Config(samples=4, evaluations=40)
    checkpoint.save(quantize.run(model, config, make_context(model, folder / "run")).model, folder / "model")
    return folder / "model"


def halved(tensors: Tensors) -> Tensors:
    return {
        name: tensor[:, : tensor.shape[1] // 2 + 1] if tensor.ndim == 2 else tensor for name, tensor in tensors.items()
    }


@pytest.mark.parametrize(
    "damage",
    [
        lambda tensors: {name: tensor[0, 0] for name, tensor in tensors.items()},
        lambda tensors: {name: tensor.flip(0) for name, tensor in tensors.items()},
        lambda tensors: {name: torch.cat([tensor, tensor]) for name, tensor in tensors.items()},
        lambda tensors: {name: tensor * float("nan") for name, tensor in tensors.items()},
        lambda tensors: {name: tensor.long() for name, tensor in tensors.items()},
        lambda tensors: {f"{name}x": tensor for name, tensor in tensors.items()},
        halved,
        lambda tensors: {name: tensor[:, :0] for name, tensor in tensors.items()},
    ],
)
def test_damaged_ranges(int8_folder: Path, tmp_path: Path, damage: Callable[[Tensors], Tensors]) -> None:
    shutil.copytree(int8_folder, tmp_path / "m")
    file = tmp_path / "m" / "quantization.safetensors"
    damaged = {name: tensor.contiguous() for name, tensor in damage(load_file(file)).items()}
    save_file(damaged, file)
    message = refused(tmp_path / "m", tmp_path / "m")
    assert "\n" not in message


def test_more_steps_than_timesteps_are_the_fault_of_the_setting(class_model: Denoiser, tmp_path: Path) -> None:
    checkpoint.save(class_model, tmp_path / "m")
    wanted = (
        r"^sampling\.steps: 1001 sampling steps: must lie in 1…1000, .* of .*scheduler_config\.json; set it in the rec"
    )
    with pytest.raises(CheckpointError, match=wanted):
        checkpoint.load(tmp_path / "m", options=SamplingOptions(steps=1001))

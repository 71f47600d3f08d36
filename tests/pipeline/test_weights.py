"""Which tensors are weights, and the files that hold them."""

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.model.denoiser import Denoiser
from compress.pipeline import checkpoint, weights
from tests.conftest import CLASS_CONFIG, make_denoiser
from tests.pipeline.test_checkpoint import WEIGHTS, output, pickle_weights, refused, rewrite_weights

BIAS = "conv_in.bias"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoint.save(make_denoiser(CLASS_CONFIG), tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "dtype",
    [torch.int64, torch.int8, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2],
    ids=str,
)
def test_what_is_no_weight_is_refused_by_name(folder: Path, dtype: torch.dtype) -> None:
    rewrite_weights(folder, lambda tensors: {**tensors, BIAS: torch.ones(16).to(dtype)})
    refused(folder, folder / "unet", f"{BIAS} is {str(dtype).removeprefix('torch.')}; weights are float32, float16")


def test_float64_is_read_where_it_fits(folder: Path) -> None:
    rewrite_weights(folder, lambda tensors: {name: tensor.double() for name, tensor in tensors.items()})
    assert torch.equal(output(checkpoint.load(folder)), output(make_denoiser(CLASS_CONFIG)))


def test_float64_that_becomes_infinite_is_refused(folder: Path) -> None:
    rewrite_weights(folder, lambda tensors: {**tensors, BIAS: torch.full((16,), 1e39, dtype=torch.float64)})
    refused(folder, f"{BIAS} holds values beyond float32")


def nested(tensors: dict) -> dict:
    return {**tensors, BIAS: torch.nested.nested_tensor([torch.zeros(8), torch.zeros(8)])}


PICKLES: dict[str, Callable[[dict], dict]] = {
    "nested": nested,
    "jagged": lambda t: {**t, BIAS: torch.nested.nested_tensor([torch.zeros(8)] * 2, layout=torch.jagged)},
    "meta": lambda t: {**t, BIAS: torch.zeros(16, device="meta")},
    "quantized": lambda t: {**t, BIAS: torch.quantize_per_tensor(torch.zeros(16), 0.1, 0, torch.qint8)},
    "sparse": lambda t: {**t, BIAS: torch.zeros(16).to_sparse()},
    "csr": lambda t: {**t, "conv_out.weight": torch.zeros(16, 16).to_sparse_csr()},
    "integer key": lambda t: {**t, 5: torch.zeros(2)},
    "none key": lambda t: {**t, None: torch.zeros(2)},
    "complex": lambda t: {**t, BIAS: torch.zeros(16, dtype=torch.complex64)},
    "stretched": lambda t: {**t, BIAS: torch.zeros(1).expand(2**40)},
}


@pytest.mark.parametrize("kind", PICKLES)
def test_pickles_of_what_are_no_plain_tensors(folder: Path, kind: str) -> None:
    tensors = load_file(folder / "unet" / WEIGHTS)
    pickle_weights(folder, PICKLES[kind](tensors))
    message = refused(folder, folder / "unet", allow_pickle=True)
    assert "\n" not in message and len(message) < 600


def test_pickled_views_and_parameters_are_fine(folder: Path) -> None:
    tensors: dict[str, Any] = load_file(folder / "unet" / WEIGHTS)
    tensors = {name: torch.nn.Parameter(tensor) for name, tensor in tensors.items()}
    tensors["conv_in.weight"] = tensors["conv_in.weight"].detach().flip(0).contiguous().flip(0).transpose(2, 3)
    tensors["conv_in.weight"] = tensors["conv_in.weight"].contiguous().transpose(2, 3)
    pickle_weights(folder, tensors)
    loaded = checkpoint.load(folder, allow_pickle=True)
    assert torch.equal(output(loaded), output(make_denoiser(CLASS_CONFIG)))
    assert all(parameter.is_contiguous() for parameter in loaded.net.parameters())


@pytest.mark.parametrize(
    "content", [{"encoder_hidden_states": torch.zeros(5, 12, dtype=torch.int64)}, {"other": torch.zeros(3)}]
)
def test_damaged_null_embedding(folder: Path, content: dict) -> None:
    save_file(content, folder / "null_embedding.safetensors")
    refused(folder, folder / "null_embedding.safetensors")


FILES = [f"unet/{WEIGHTS}", "unet/config.json", "sampling.json", "scheduler/scheduler_config.json", "structure.json"]
FILES += ["null_embedding.safetensors", "unet/diffusion_pytorch_model.safetensors.index.json"]


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_or_a_device_is_not_waited_for(folder: Path, name: str) -> None:
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (folder / name).unlink(missing_ok=True)
        make(folder / name)
        refused(folder, folder / name)


@pytest.mark.parametrize(
    "name", ["unet/config.json", "sampling.json", "structure.json", f"unet/{WEIGHTS}.index.json", "scheduler"]
)
@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_deep_json(folder: Path, name: str, brackets: str) -> None:
    first, last = ("[", "]") if brackets == "[]" else ('{"a":', "}")
    file = folder / name / "scheduler_config.json" if name == "scheduler" else folder / name
    file.write_text('{"x": ' + first * 100_000 + "1" + last * 100_000 + "}")
    refused(folder, file, "nested")


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_are_as_readable_as_the_umask_says(text_model: Denoiser, tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        checkpoint.save(text_model, tmp_path / "m")
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "m").rglob("*") if path.is_file()]
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o666 & ~mask}


def test_saved_tensors_come_back(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor(3.0)}
    weights.save(tensors, tmp_path / "x.safetensors")
    loaded = weights.load(tmp_path / "x.safetensors")
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())

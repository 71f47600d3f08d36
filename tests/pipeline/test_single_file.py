"""Single-file checkpoints: taken apart by diffusers, with configs that lie on this machine, and nothing downloaded."""

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from compress.errors import CheckpointError
from compress.pipeline import checkpoint
from compress.pipeline.pipeline import parts
from compress.pipeline.reference import Reference, folder_of
from tests.conftest import SHALLOW_CONFIG, make_denoiser, read_json
from tests.single_file import of_pipeline, write
from tests.text_to_image import save_pipeline

WEIGHTS = ("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
           "text_encoder/model.safetensors")  # fmt: skip


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folder, with its single file beside it."""
    folder = save_pipeline(tmp_path_factory.mktemp("pipeline"))
    write(folder, folder.parent / "one.safetensors")
    return folder


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cache of its own and without a network."""
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("asked the network"))


def found(file: Path, **more: Any) -> Path:
    return folder_of(Reference.model_validate({"checkpoint": str(file), **more}), False, lambda _: None)


def equal(folder: Path, teacher: Path, name: str) -> bool:
    one, other = load_file(folder / name), load_file(teacher / name)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_a_whole_pipeline(teacher: Path, tmp_path: Path) -> None:
    """Its weights are those of the file, its configs and its tokenizer the folder's, whose weights are not read."""
    configs = tmp_path / "configs"
    for file in teacher.rglob("*"):
        if file.is_file() and file.suffix != ".safetensors":
            (configs / file.relative_to(teacher)).parent.mkdir(parents=True, exist_ok=True)
            (configs / file.relative_to(teacher)).write_bytes(file.read_bytes())
    folder = found(teacher.parent / "one.safetensors", config=configs)
    assert all(equal(folder, teacher, name) for name in WEIGHTS)
    kinds = {name: kind for name, kind in read_json(teacher / "model_index.json").items() if isinstance(kind, list)}
    assert kinds.items() <= read_json(folder / "model_index.json").items()
    assert parts(str(folder), None).text is not None
    assert checkpoint.load(folder).scheduler == checkpoint.load(teacher).scheduler


def test_a_net_alone(teacher: Path, tmp_path: Path) -> None:
    own = {name: one for name, one in of_pipeline(teacher).items() if name.startswith("model.diffusion_model.")}
    save_file(own, tmp_path / "net.safetensors")
    scheduler = teacher / "scheduler" / "scheduler_config.json"
    for more in ({"config": teacher, "pipeline": False}, {"config": teacher / "unet"}):
        folder = found(tmp_path / "net.safetensors", **more)
        assert equal(folder, teacher / "unet", "diffusion_pytorch_model.safetensors")
        assert (folder / "scheduler" / scheduler.name).exists() == (more["config"] == teacher)
    with pytest.raises(CheckpointError, match=r"net.safetensors: cannot be read with the configs in .*: .*missing"):
        found(tmp_path / "net.safetensors", config=teacher)


def test_half_precision_stays(teacher: Path, tmp_path: Path) -> None:
    halves = {name: one.half() for name, one in of_pipeline(teacher).items()}
    save_file({**halves, "alphas_cumprod": torch.rand(10).double()}, tmp_path / "half.safetensors")
    folder = found(tmp_path / "half.safetensors", config=teacher)
    assert {one.dtype for name in WEIGHTS for one in load_file(folder / name).values()} == {torch.float16}


def test_it_is_taken_apart_once(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = found(teacher.parent / "one.safetensors", config=teacher)
    monkeypatch.setattr("compress.pipeline.single_file.convert", lambda *_: pytest.fail("again"))
    assert found(teacher.parent / "one.safetensors", config=teacher) == first


def refused(match: str, file: Path, **more: Any) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        found(file, **more)
    assert len(str(caught.value)) < 900


def test_what_is_refused(teacher: Path, tmp_path: Path) -> None:
    file = teacher.parent / "one.safetensors"
    refused("has no configs for it; give under `config`", file)
    (tmp_path / "one.ckpt").touch()
    refused("is a single file and a pickle", tmp_path / "one.ckpt")
    refused("is no single .safetensors file", teacher, config=teacher)
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:1000])
    save_file({"a": torch.zeros(3)}, tmp_path / "none.safetensors")
    refused("holds no weights of a net", tmp_path / "none.safetensors", config=teacher)
    refused("truncated or damaged", tmp_path / "cut.safetensors", config=teacher)
    checkpoint.save(make_denoiser(SHALLOW_CONFIG), tmp_path / "net")
    refused("diffusers reads no single file as a UNet2DModel", file, config=tmp_path / "net")
    tensors = of_pipeline(teacher)
    del tensors["model.diffusion_model.out.2.bias"]
    save_file(tensors, tmp_path / "less.safetensors")
    refused("it lacks weights", tmp_path / "less.safetensors", config=teacher)
    refused("it lacks weights", tmp_path / "less.safetensors", config=teacher / "unet")
    tensors["model.diffusion_model.out.2.bias"] = torch.zeros(4)
    save_file({**tensors, "model.diffusion_model.more": torch.zeros(4)}, tmp_path / "more.safetensors")
    refused("its net has .* weights and should have", tmp_path / "more.safetensors", config=teacher)
    assert not any((tmp_path / "cache" / "checkpoints").iterdir())

"""What a recipe says of its checkpoint: variants, shards, subfolders and hub ids end in a folder of plain names."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from safetensors.torch import load_file, save_file

from compress.errors import CheckpointError
from compress.pipeline import checkpoint, source
from compress.pipeline.pipeline import parts
from compress.pipeline.reference import Reference, folder_of
from tests.text_to_image import save_pipeline

NET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))


def found(reference: Path | str, **more: Any) -> Path:
    return folder_of(Reference.model_validate({"checkpoint": str(reference), **more}), False, lambda _: None)


def names(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} - {".compress"}


def is_whole(folder: Path) -> bool:
    """Whether stock diffusers loads the pipeline, and all its parts are read here."""
    loaded = parts(str(folder), None)
    drawn = StableDiffusionPipeline.from_pretrained(folder)
    return drawn.vae is not None and loaded.text is not None and loaded.decoder is not None


def test_a_plain_folder_stays_where_it_is(pipeline: Path, tmp_path: Path) -> None:
    assert found(pipeline) == pipeline and found(pipeline / "unet") == pipeline / "unet"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("more", [{}, {"max_shard_size": "10KB"}], ids=["whole", "shards"])
def test_weights_of_one_variant_alone(pipeline: Path, tmp_path: Path, more: dict[str, Any]) -> None:
    saved = StableDiffusionPipeline.from_pretrained(pipeline, torch_dtype=torch.float16)
    saved.save_pretrained(tmp_path / "half", variant="fp16", **more)
    assert any("fp16-00002-of" in name for name in names(tmp_path / "half")) == bool(more)
    folder = found(tmp_path / "half")
    assert is_whole(folder) and folder.is_relative_to(tmp_path / "cache")
    assert not any("fp16" in name and "-of-" not in name for name in names(folder))
    wanted = load_file(pipeline / NET)
    net = checkpoint.load(folder).net.state_dict()
    assert all(torch.equal(net[name], one.half().float()) for name, one in wanted.items())


def test_a_variant_that_is_asked_for(pipeline: Path, tmp_path: Path) -> None:
    """Of parts that have none of that name, the plain one."""
    shutil.copytree(pipeline, tmp_path / "both")
    other = {name: one + 1 for name, one in load_file(pipeline / NET).items()}
    save_file(other, tmp_path / "both" / NET.replace(".safe", ".non_ema.safe"), {"format": "pt"})
    assert found(tmp_path / "both") == tmp_path / "both"
    folder = found(tmp_path / "both", variant="non_ema")
    assert names(folder) == names(pipeline) and is_whole(folder)
    assert all(torch.equal(one, other[name]) for name, one in load_file(folder / NET).items())
    with pytest.raises(CheckpointError, match="unet/: no weights of the variant 'fp16'; there are: non_ema"):
        found(tmp_path / "both", variant="fp16")


@pytest.mark.parametrize("whole", [True, False], ids=["pipeline", "net"])
def test_the_net_in_another_subfolder(pipeline: Path, tmp_path: Path, whole: bool) -> None:
    shutil.copytree(pipeline, tmp_path / "trained")
    net = UNet2DConditionModel.from_pretrained(pipeline / "unet")
    with torch.no_grad():
        net.conv_out.bias.fill_(5)
    EMAModel(net.parameters(), model_cls=UNet2DConditionModel, model_config=net.config).save_pretrained(
        tmp_path / "trained" / "unet_ema"
    )
    folder = found(tmp_path / "trained", subfolder="unet_ema", pipeline=whole)
    assert torch.equal(checkpoint.load(folder).net.conv_out.bias, net.conv_out.bias)  # type: ignore[union-attr]
    assert not (folder / "unet_ema").exists() and (folder / "vae").is_dir() == whole
    assert not whole or is_whole(folder)
    with pytest.raises(CheckpointError, match="has no folder unet_none"):
        found(tmp_path / "trained", subfolder="unet_none")


class Hub:
    """A hub whose one repository is a folder; `asked`: the patterns of its downloads."""

    def __init__(self, repository: Path, snapshot: Path) -> None:
        self.repository, self.snapshot, self.asked = repository, snapshot, list[list[str]]()

    def list_files(self, name: str) -> list[str]:
        assert name == "owner/name"
        return sorted(names(self.repository))

    def download(self, name: str, allow_patterns: list[str]) -> str:
        assert name == "owner/name"
        self.asked.append(allow_patterns)
        for file in allow_patterns:
            (self.snapshot / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.repository / file, self.snapshot / file)
        return str(self.snapshot)


@pytest.fixture
def hub(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """With what is not needed: weights in other formats and variants, a single file, pictures."""
    shutil.copytree(pipeline, tmp_path / "repository")
    for name in ("one.safetensors", "unet/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.fp16.safetensors",
                 "text_encoder/pytorch_model.bin", "text_encoder/flax_model.msgpack", "vae_decoder/model.onnx",
                 NET.replace(".safe", ".non_ema.safe"), "text_encoder/model.fp16.safetensors", "a.png"):  # fmt: skip
        (tmp_path / "repository" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "repository" / name).touch()
    one = Hub(tmp_path / "repository", tmp_path / "snapshot")
    monkeypatch.setattr(source, "list_repo_files", one.list_files)
    monkeypatch.setattr(source, "snapshot_download", one.download)
    return one


def test_a_pipeline_of_the_hub_is_downloaded_whole_and_no_more(hub: Hub, pipeline: Path) -> None:
    folder = found("owner/name")
    assert folder == hub.snapshot and names(folder) == names(pipeline) and is_whole(folder)
    assert hub.asked[0] == ["unet/config.json", "model_index.json"]


def test_of_a_pipeline_of_the_hub_the_net_alone_can_be_had(hub: Hub) -> None:
    folder = found("owner/name", pipeline=False)
    assert names(folder) == {"unet/config.json", NET, "scheduler/scheduler_config.json"}
    assert parts(str(folder), False).index == {}


def test_a_variant_on_the_hub(hub: Hub, pipeline: Path) -> None:
    halves = {name: one.half() for name, one in load_file(pipeline / NET).items()}
    save_file(halves, hub.repository / NET.replace(".safe", ".fp16.safe"), {"format": "pt"})
    for part, name in (("text_encoder", "model"), ("vae", "diffusion_pytorch_model")):
        shutil.copyfile(pipeline / part / f"{name}.safetensors", hub.repository / part / f"{name}.fp16.safetensors")
    folder = found("owner/name", variant="fp16")
    assert is_whole(folder) and names(folder) == names(pipeline)
    weights = {name for name in names(hub.snapshot) if name.endswith(".safetensors")}
    assert len(weights) == 3 and all(name.endswith(".fp16.safetensors") for name in weights)

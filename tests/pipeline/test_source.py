"""Where a model lies: what a folder or a repository on the hub is, and which files of it are read."""

import json
from pathlib import Path
from typing import Any

import pytest

from compress.errors import CheckpointError
from compress.pipeline import source
from compress.pipeline.variants import OWN_WEIGHTS
from tests.conftest import TEXT_CONFIG

W = "diffusion_pytorch_model"
# as https://huggingface.co/stable-diffusion-v1-5/stable-diffusion-v1-5 has them
PIPELINE = [
    ".gitattributes", "README.md", "model_index.json", "v1-5-pruned.ckpt", "v1-5-pruned-emaonly.safetensors",
    "feature_extractor/preprocessor_config.json", "safety_checker/config.json", "safety_checker/model.safetensors",
    "scheduler/scheduler_config.json", "text_encoder/config.json", "text_encoder/model.safetensors",
    "unet/config.json", f"unet/{W}.bin", f"unet/{W}.fp16.bin", f"unet/{W}.fp16.safetensors",
    f"unet/{W}.non_ema.bin", f"unet/{W}.non_ema.safetensors", f"unet/{W}.safetensors",
    "vae/config.json", f"vae/{W}.safetensors",
]  # fmt: skip


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A hub whose one repository has `names`; its downloads lie in `folder`, what was asked for in `asked`."""

    class Hub:
        def __init__(self) -> None:
            self.names, self.folder = PIPELINE, tmp_path / "snapshot"
            self.asked: list[dict[str, Any]] = []
            self.config: dict[str, Any] = TEXT_CONFIG
            self.index: dict[str, Any] = {}

        def download(self, name: str, **options: Any) -> str:
            self.asked.append({"name": name, **options})
            for wanted in options.get("allow_patterns", []):
                (self.folder / wanted).parent.mkdir(parents=True, exist_ok=True)
                content = {"config.json": self.config, "model_index.json": self.index}.get(Path(wanted).name, "")
                (self.folder / wanted).write_text(json.dumps(content))
            return str(self.folder)

        @property
        def last(self) -> dict[str, Any]:
            return self.asked[-1]

    one = Hub()
    monkeypatch.setattr(source, "list_repo_files", lambda name: one.names)
    monkeypatch.setattr(source, "snapshot_download", one.download)
    return one


def refused(reference: Any, *mentions: str) -> str:
    with pytest.raises(CheckpointError) as caught:
        source.locate(reference)
    for mention in mentions:
        assert mention in str(caught.value)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


def shards(*names: str) -> list[str]:
    return [f"unet/{W}-{name}.safetensors" for name in names]


INDEX = f"unet/{W}.safetensors.index.json"
SHARDS = shards("00001-of-00002", "00002-of-00002")


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (PIPELINE, [f"unet/{W}.safetensors"]),
        ([n for n in PIPELINE if n != f"unet/{W}.safetensors"], [f"unet/{W}.fp16.safetensors"]),
        ([n for n in PIPELINE if not n.endswith(".safetensors")], [f"unet/{W}.bin"]),
        (["unet/config.json", INDEX, *SHARDS, *shards("fp16-00001-of-00002")], [INDEX, *SHARDS]),
        (["unet/config.json", f"unet/{OWN_WEIGHTS}", f"unet/{W}.bin"], [f"unet/{OWN_WEIGHTS}"]),
    ],
    ids=["whole", "half", "pickled", "shards", "own"],
)
def test_no_more_is_downloaded_than_is_read(hub: Any, names: list[str], weights: list[str]) -> None:
    hub.names = names
    found = source.locate("owner/name")
    schedule = [name for name in names if name == "scheduler/scheduler_config.json"]
    assert hub.asked[0] == {"name": "owner/name", "allow_patterns": ["unet/config.json"]}
    assert hub.last == {"name": "owner/name", "allow_patterns": ["unet/config.json", *weights, *schedule]}
    assert found.weights == tuple(hub.folder / name for name in weights)
    assert set(found.files) == {path for path in hub.folder.rglob("*") if path.is_file()}


def test_a_bare_model_on_the_hub(hub: Any) -> None:
    hub.names = ["config.json", f"{W}.safetensors", "scheduler_config.json", "samples/1.png", "random.safetensors"]
    source.locate("owner/name")
    assert hub.last["allow_patterns"] == ["config.json", f"{W}.safetensors", "scheduler_config.json"]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["README.md", "sd_xl_base_1.0.safetensors"], "is a single file"),
        (["README.md", "pytorch_model.txt"], "is no diffusers checkpoint"),
        ([*PIPELINE, "pytorch_lora_weights.safetensors"], "looks like a LoRA"),
        ([*PIPELINE, "unet/adapter_model.bin"], "looks like a LoRA"),
    ],
)
def test_what_is_not_supported_is_not_downloaded(hub: Any, names: list[str], reason: str) -> None:
    hub.names = names
    refused("owner/name", "owner/name: ", reason)
    assert not hub.asked


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            {"_class_name": "FluxTransformer2DModel"},
            "owner/name/unet: architecture FluxTransformer2DModel is not supported",
        ),
        ({**TEXT_CONFIG, "addition_embed_type": "text_time"}, "owner/name/unet/config.json: addition_embed_type"),
        ({**TEXT_CONFIG, "in_channels": 3}, "owner/name/unet/config.json: "),
        ({**TEXT_CONFIG, "layers_per_block": 5000}, "owner/name/unet/config.json: "),
    ],
    ids=["another net", "more conditions", "more channels", "enormous"],
)
def test_a_net_that_no_family_supports_is_refused_before_its_weights(hub: Any, config: dict, reason: str) -> None:
    hub.config = config
    refused("owner/name", reason)
    assert [one["allow_patterns"] for one in hub.asked] == [["unet/config.json"]]


def test_a_whole_pipeline_is_downloaded_when_asked_for(hub: Any) -> None:
    encoder = ["config.json", "model.safetensors", "model.fp16.safetensors", "pytorch_model.bin"]
    hub.names = [
        *PIPELINE, *(f"text_encoder/{name}" for name in encoder[2:]), "tokenizer/vocab.json", "samples/1.png",
        f"vae/{W}.fp16.safetensors", f"vae/{W}.bin", "tagger/only.fp16.bin",
    ]  # fmt: skip
    hub.index = {
        "_class_name": "StableDiffusionPipeline", "safety_checker": [None, None], "requires": False,
        "unet": ["diffusers", "UNet2DConditionModel"], "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"], "tokenizer": ["transformers", "CLIPTokenizer"],
        "vae": ["diffusers", "AutoencoderKL"], "tagger": ["transformers", "Tagger"],
    }  # fmt: skip
    source.locate("owner/name", whole=True)
    beside = [
        "text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/vocab.json", "vae/config.json",
        f"vae/{W}.safetensors", "tagger/only.fp16.bin", "model_index.json",
    ]  # fmt: skip
    net = ["unet/config.json", f"unet/{W}.safetensors", "scheduler/scheduler_config.json"]
    assert hub.last["allow_patterns"] == [*net, *beside]


def test_without_a_connection_what_was_downloaded_before_serves(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source.locate("owner/name")

    def fail(name: str) -> None:
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(source, "list_repo_files", fail)
    assert source.locate("owner/name").model == hub.folder / "unet"
    assert hub.last == {"name": "owner/name", "local_files_only": True}


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ConnectionError("Name or service not known\nlong trace"), "Name or service not known"), (TimeoutError(), "Time")],
)
def test_unreachable_hub_id(error: Exception, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, **_: Any) -> None:
        raise error

    monkeypatch.setattr(source, "list_repo_files", fail)
    monkeypatch.setattr(source, "snapshot_download", fail)
    assert "long trace" not in refused("owner/name", "owner/name", reason)


def folder_of(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_a_folder_of_a_whole_pipeline(tmp_path: Path) -> None:
    found = source.locate(folder_of(tmp_path, PIPELINE))
    assert found.scheduler == tmp_path / "scheduler" / "scheduler_config.json"
    assert [str(path.relative_to(tmp_path)) for path in found.files] == [
        "unet/config.json", f"unet/{W}.safetensors", "scheduler/scheduler_config.json",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_lora_weights.safetensors",
        "unet/my-LoRA_v2.safetensors",
        "adapter_model.safetensors",
        "pytorch_custom_diffusion_weights.bin",
        "unet/lora.pt",
    ],
)
def test_an_adapter_beside_the_net_is_not_ignored(tmp_path: Path, name: str) -> None:
    refused(folder_of(tmp_path, [*PIPELINE, name]), name, "not applied", "`lora` in the recipe")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"_class_name": "FluxTransformer2DModel"}, "architecture FluxTransformer2DModel is not supported"),
        ({"_class_name": "Transformer2DModel", "norm_type": "ada_norm"}, "norm_type 'ada_norm'"),
    ],
)
def test_weights_of_another_architecture_are_not_downloaded(hub: Any, config: dict[str, str], reason: str) -> None:
    hub.names, hub.config = ["model_index.json", "transformer/config.json", f"transformer/{W}.safetensors"], config
    refused("owner/name", reason)
    assert hub.last["allow_patterns"] == ["transformer/config.json"]


def test_a_transformer_in_a_config_of_its_old_class(hub: Any) -> None:
    hub.names = ["model_index.json", "transformer/config.json", f"transformer/{W}.bin"]
    hub.config = {"_class_name": "Transformer2DModel", "norm_type": "ada_norm_zero"}
    assert source.locate("owner/name").weights == (hub.folder / f"transformer/{W}.bin",)


@pytest.mark.parametrize(("name", "remedy"), [("model.safetensors", "as its `config`"), ("v1-5.ckpt", "a pickle")])
def test_a_single_file_is_named_as_the_reason(tmp_path: Path, name: str, remedy: str) -> None:
    folder_of(tmp_path, [name])
    assert remedy in refused(tmp_path / name, f"{tmp_path / name}: is a single file")
    refused(tmp_path, f"{tmp_path}: {name} is a single file")


@pytest.mark.parametrize("reference", ["a" * 5000, "x\0y", "b/" * 3000])
def test_what_is_no_path(reference: str) -> None:
    refused(reference)

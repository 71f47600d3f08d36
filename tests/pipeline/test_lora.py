"""LoRA files: what diffusers and peft make of them is what is fused, and what does not fit is refused."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextModel

from compress import plan as plans
from compress.errors import CheckpointError
from compress.model.reference import silent
from compress.pipeline import checkpoint, lora
from compress.pipeline.reference import Reference, folder_of
from compress.recipe.inputs import Inputs, Options
from compress.recipe.recipe import read
from tests.conftest import SHALLOW_CONFIG, make_denoiser, write_recipe
from tests.text_to_image import save_pipeline

Tensors = dict[str, torch.Tensor]
QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
KEY = QUERY.replace("to_q", "to_k")
PRUNE = {"prune_channels": {"target": {"macs": 0.6}, "importance": "l1", "widths": "stock"}}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape) / 3


def trained(net: Any, layers: list[str], alpha: float) -> tuple[Tensors, Tensors]:
    """(A and B of the layers by peft's names, the net's weights once peft has merged them)."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=2, lora_alpha=alpha, target_modules=layers)
    peft.inject_adapter_in_model(config, net)
    with torch.no_grad():
        for name, weight in net.named_parameters():
            if ".lora_" in name:
                weight.copy_(normal(*weight.shape))
    found = {name: one.clone() for name, one in peft.get_peft_model_state_dict(net).items()}
    for module in net.modules():
        if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer):
            module.merge()
    merged = {n.replace(".base_layer", ""): one for n, one in net.state_dict().items() if ".lora_" not in n}
    return found, merged


def loras(teacher: Path, alpha: float = 2) -> tuple[Tensors, Tensors, Tensors]:
    """(LoRA by diffusers' names, merged net, merged text encoder)."""
    net = UNet2DConditionModel.from_pretrained(teacher / "unet")
    text = CLIPTextModel.from_pretrained(teacher / "text_encoder")
    of_net, net_merged = trained(net, ["to_q", "to_out.0", "ff.net.0.proj", "conv1"], alpha)
    of_text, text_merged = trained(text, ["q_proj", "out_proj", "fc1"], alpha)
    file = {f"unet.{name}": one for name, one in of_net.items()}
    file |= {f"text_encoder.text_model.{name.removeprefix('text_model.')}": one for name, one in of_text.items()}
    return file, net_merged, text_merged


def in_kohyas_names(file: Tensors, alpha: float) -> Tensors:
    found = {}
    for name, one in file.items():
        layer, _, end = name.rpartition(".lora_")
        layer = layer.replace("unet.", "lora_unet_").replace("text_encoder.", "lora_te_").replace(".", "_")
        found[f"{layer}.lora_{'down' if end[0] == 'A' else 'up'}.weight"] = one
        found[f"{layer}.alpha"] = torch.tensor(alpha)
    return found


def fused(teacher: Path, *files: Path, scale: float = 1.0, told: list[str] | None = None, **more: Any) -> Path:
    named = [{"path": file, "scale": scale} for file in files]
    asked = Reference.model_validate({"checkpoint": str(teacher), "lora": named, **more})
    return folder_of(asked, False, (told if told is not None else []).append)


def assert_same(found: Tensors, wanted: Tensors) -> None:
    assert found.keys() == wanted.keys()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def net_of(folder: Path) -> Tensors:
    return UNet2DConditionModel.from_pretrained(folder / "unet").state_dict()


def text_of(folder: Path) -> Tensors:
    return CLIPTextModel.from_pretrained(folder / "text_encoder").state_dict()


@pytest.mark.parametrize("names", ["diffusers", "kohya"])
def test_what_is_fused_is_what_peft_merges(teacher: Path, tmp_path: Path, names: str) -> None:
    file, net, text = loras(teacher, alpha=1 if names == "kohya" else 2)
    save_file(in_kohyas_names(file, 1.0) if names == "kohya" else file, tmp_path / "one.safetensors")
    before = {name: (teacher / name).read_bytes() for name in ("text_encoder/model.safetensors", "vae/config.json")}
    folder = fused(teacher, tmp_path / "one.safetensors")
    assert_same(net_of(folder), net)
    assert_same(text_of(folder), text)
    assert_same(checkpoint.load(folder).net.state_dict(), net)
    assert before == {name: (teacher / name).read_bytes() for name in before}
    assert (folder / "vae" / "config.json").samefile(teacher / "vae" / "config.json")
    assert StableDiffusionPipeline.from_pretrained(folder).tokenizer is not None


def test_what_is_fused_is_what_diffusers_fuses(teacher: Path, tmp_path: Path) -> None:
    """Two files with scales, one of which keeps alphas of its layers in its header."""
    pipeline = StableDiffusionPipeline.from_pretrained(teacher)
    paths, layers = [], ["to_k", "proj_in"]
    for number, alpha in enumerate((4, 8)):
        config = peft.LoraConfig(
            r=4, lora_alpha=alpha, target_modules=layers, alpha_pattern={"proj_in": 1} if number else {}
        )
        pipeline.unet.add_adapter(config, adapter_name="new")
        for name, weight in pipeline.unet.named_parameters():
            if ".lora_" in name:
                weight.data = normal(*weight.shape)
        saved = peft.get_peft_model_state_dict(pipeline.unet, adapter_name="new")
        settings = {f"unet.{key}": value for key, value in config.to_dict().items() if "alpha" in key or key == "r"}
        header = {"lora_adapter_metadata": json.dumps({**settings, "unet.target_modules": layers})} if number else None
        paths.append(tmp_path / f"{number}.safetensors")
        save_file({f"unet.{name}": one.clone() for name, one in saved.items()}, paths[-1], header)
        pipeline.unet.delete_adapters("new")
    for path in paths:
        pipeline.load_lora_weights(path)
        pipeline.fuse_lora(["unet"], lora_scale=0.7)
        pipeline.unload_lora_weights()
    assert_same(net_of(fused(teacher, *paths, scale=0.7)), pipeline.unet.state_dict())


def test_layers_may_have_alphas_of_their_own(teacher: Path, tmp_path: Path) -> None:
    down, up = normal(2, 16), normal(16, 2)
    file: Tensors = {}
    for layer, alpha in ((QUERY, 1.0), (KEY, 6.0)):
        name = f"lora_unet_{layer.replace('.', '_')}"
        file |= {f"{name}.lora_down.weight": down.clone(), f"{name}.lora_up.weight": up.clone()}
        file[f"{name}.alpha"] = torch.tensor(alpha)
    save_file(file, tmp_path / "a.safetensors")
    before, after = net_of(teacher), net_of(fused(teacher, tmp_path / "a.safetensors"))
    for layer, factor in ((QUERY, 0.5), (KEY, 3.0)):
        wanted = before[f"{layer}.weight"] + factor * up @ down
        torch.testing.assert_close(after[f"{layer}.weight"], wanted, rtol=1e-5, atol=1e-6)


def test_a_net_alone_takes_what_is_of_a_net(teacher: Path, tmp_path: Path) -> None:
    file, net, _ = loras(teacher)
    save_file(file, tmp_path / "a.safetensors")
    told: list[str] = []
    bare = fused(teacher / "unet", tmp_path / "a.safetensors", told=told)
    assert_same(UNet2DConditionModel.from_pretrained(bare).state_dict(), net)
    assert "none of text_encoder, which the checkpoint has not" in told[0]
    alone = fused(teacher, tmp_path / "a.safetensors", pipeline=False)
    assert_same(net_of(alone), net)
    assert not (alone / "text_encoder").exists() and (alone / "scheduler").is_dir()


def test_it_is_fused_once(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, _, _ = loras(teacher)
    save_file(file, tmp_path / "a.safetensors")
    first = fused(teacher, tmp_path / "a.safetensors")
    assert fused(teacher, tmp_path / "a.safetensors", scale=0.5) != first
    monkeypatch.setattr(lora.Change, "added", lambda *_: pytest.fail("fused again"))
    assert fused(teacher, tmp_path / "a.safetensors") == first


def test_a_recipe_with_a_lora(teacher: Path, tmp_path: Path) -> None:
    """Its teacher, its texts and its identity are of what is fused."""
    file, net, text = loras(teacher)
    save_file(file, tmp_path / "a.safetensors")
    first = inputs(teacher, tmp_path)
    assert_same(first.teacher().net.state_dict(), net)
    encoder = first.parts().text
    assert encoder is not None
    assert_same(encoder.encoders["text_encoder"].net.state_dict(), text)
    identity = first.identity()
    save_file({name: one * 2 for name, one in file.items()}, tmp_path / "a.safetensors")
    assert inputs(teacher, tmp_path).identity() != identity


def inputs(teacher: Path, folder: Path) -> Inputs:
    """Of a recipe with the LoRA `a.safetensors`."""
    head = {"checkpoint": str(teacher), "guidance": {"scale": 2.0}, "lora": [{"path": "a.safetensors", "scale": 1.0}]}
    recipe = read(write_recipe(folder, json.dumps({"name": "one", **head, "passes": [PRUNE]})))
    return Inputs(recipe, Options(torch.device("cpu"), silent, lambda _: None))


def named(layer: str, down: tuple[int, ...], up: tuple[int, ...]) -> Tensors:
    return {f"{layer}.lora_A.weight": normal(*down), f"{layer}.lora_B.weight": normal(*up)}


WHOLE = named(f"unet.{QUERY}", (2, 16), (16, 2))
NOTHING = "fits nothing of this model: "
CASES: dict[str, tuple[Tensors, str]] = {
    "another model": (named("unet.down_blocks.7.to_q", (2, 16), (16, 2)), f"{NOTHING}unet has no down_blocks.7.to_q"),
    "wider": (named(f"unet.{QUERY}", (2, 320), (320, 2)), rf"{NOTHING}unet.{QUERY} is \[16, 16\] and"),
    "ranks": (named(f"unet.{QUERY}", (2, 16), (16, 3)), NOTHING),
    "a part": (
        {**WHOLE, **named("unet.mid_block.none", (2, 16), (16, 2))},
        "only a part .*: unet has no mid_block.n",
    ),
    "another part": (named("text_encoder_2.x", (2, 2), (2, 2)), "does not read it as a LoRA|has no text_encoder_2"),
    "half": ({f"unet.{QUERY}.lora_A.weight": normal(2, 16)}, "lacks unet.*lora_B"),
    "DoRA": ({**WHOLE, f"unet.{QUERY}.lora_magnitude_vector": normal(16)}, "no DoRA"),
    "no LoRA": ({"conv.weight": normal(2, 2)}, "does not read it as a LoRA|fits nothing"),
    "LoHa": ({"lora_unet_mid_block_x.hada_w1_a": normal(2, 2)}, "LoHa"),
    "kohya's, odd": ({"lora_unet_x.lora_down.weight": normal(2, 2)}, "does not read it as a LoRA"),
    "alpha alone": ({"lora_unet_x.alpha": torch.tensor(1.0)}, "does not read it as a LoRA"),
    "damaged": ({name: one * float("nan") for name, one in WHOLE.items()}, "holds NaN"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_does_not_fit_is_refused(teacher: Path, tmp_path: Path, case: str) -> None:
    tensors, message = CASES[case]
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=message) as caught:
        fused(teacher, tmp_path / "a.safetensors")
    assert str(caught.value).startswith(str(tmp_path / "a.safetensors")) and len(str(caught.value)) < 600
    assert not (tmp_path / "cache" / "checkpoints").exists()


def test_diffusers_reads_none_of_every_net(teacher: Path, tmp_path: Path) -> None:
    checkpoint.save(make_denoiser(SHALLOW_CONFIG), tmp_path / "net")
    save_file(WHOLE, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="reads no LoRA of UNet2DModel; it does of UNet2DConditionModel, SD3"):
        fused(tmp_path / "net", tmp_path / "a.safetensors")


def test_plan_refuses_it_before_weights_are_read(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(CASES["wider"][0], tmp_path / "a.safetensors")
    monkeypatch.setattr(checkpoint, "load", lambda *_: pytest.fail("read"))
    content = {"name": "one", "checkpoint": str(teacher), "lora": [{"path": "a.safetensors"}], "passes": [PRUNE]}
    recipe = read(write_recipe(tmp_path, json.dumps(content)))
    with pytest.raises(CheckpointError, match="fits nothing"):
        list(plans.plan(recipe, Options(torch.device("cpu"), silent, lambda _: None)))

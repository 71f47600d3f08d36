"""What is around a denoiser, as graphs of their own: in the folders and under the names of optimum's pipelines."""

import shutil
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from compress.files import write_json
from compress.model.denoiser import Denoiser
from compress.onnx_graph.export import to_onnx
from compress.pipeline.decoder import Decoder
from compress.pipeline.manifest import MODEL
from compress.pipeline.pipeline import Parts, index_of
from compress.pipeline.source import INDEX
from compress.pipeline.text import CONDITION, TextEncoder

GRAPH = "model.onnx"


def denoiser_file(model: Denoiser, parts: Parts) -> str:
    """Where the graph of the denoiser lies in its bundle."""
    return f"{model.family.folder}/{GRAPH}" if parts.folders else MODEL


def export_parts(model: Denoiser, parts: Parts, folder: Path, opset: int) -> dict[str, Any]:
    """Write text encoder, tokenizer and decoder into a bundle's folder, with the configs by which diffusers' clients
    know them; `text` and `decoder` of its bundle.json. Nothing where the net stands alone.
    """
    found: dict[str, Any] = {}
    if not parts.folders:
        return found
    if parts.text is not None:
        found["text"] = _text(parts.text, parts.folders["tokenizer"], folder, opset)
    if parts.decoder is not None:
        found["decoder"] = _decoder(parts.decoder, folder, model.sample_shape, opset)
    write_json(folder / INDEX, index_of(model, parts))
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler" / "scheduler_config.json", dict(model.scheduler))
    model.net.save_config(folder / model.family.folder)  # type: ignore[operator]
    return found


def _text(text: TextEncoder, tokenizer: Path, folder: Path, opset: int) -> dict[str, Any]:
    name = f"text_encoder/{GRAPH}"
    _write(_States(text.net), text.ids(["", ""]), "input_ids", "last_hidden_state", folder / name, opset)
    text.net.config.save_pretrained((folder / name).parent)  # type: ignore[operator, union-attr]
    shutil.copytree(tokenizer, folder / "tokenizer")
    rules = folder / "tokenizer" / "tokenizer.json"  # older tokenizers have their rules in other files
    text.tokenizer.backend_tokenizer.save(str(rules))
    return {
        "model": name,
        "tokenizer": "tokenizer/tokenizer.json",
        "tokens": text.tokens,
        "pad": text.tokenizer.pad_token_id,
        "condition": CONDITION,
    }


def _decoder(decoder: Decoder, folder: Path, sample_shape: tuple[int, ...], opset: int) -> dict[str, Any]:
    name = f"vae_decoder/{GRAPH}"
    _write(_Pixels(decoder.net), torch.zeros(2, *sample_shape), "latent_sample", "sample", folder / name, opset)
    decoder.net.save_config((folder / name).parent)  # type: ignore[operator]
    return {
        "model": name,
        "scale": decoder.scale,
        "shift": decoder.shift,
        "pixels": list(decoder.shape(sample_shape)),
    }


def _write(module: nn.Module, example: torch.Tensor, given: str, gives: str, file: Path, opset: int) -> None:
    graph = to_onnx(module.eval(), (example,), [given], None, opset)
    graph.graph.outputs[0].name = gives
    file.parent.mkdir()
    ir.save(graph, file)


class _States(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.net(input_ids).last_hidden_state
        return states


class _Pixels(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        pixels: torch.Tensor = self.net.decode(latents).sample  # type: ignore[operator]
        return pixels

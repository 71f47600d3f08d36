"""What is around a denoiser, as graphs of their own: in the folders and under the names of optimum's pipelines."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
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
from compress.quantization.part import quantized_part

GRAPH = "model.onnx"


def denoiser_file(model: Denoiser, parts: Parts) -> str:
    """Where the graph of the denoiser lies in its bundle."""
    return f"{model.family.folder}/{GRAPH}" if parts.folders else MODEL


@dataclass(frozen=True)
class Precisions:
    """Schemes of what is around a net. latents: float32 [n,…] of its data, by which a decoder is calibrated."""

    text: str = "float"
    decoder: str = "float"
    latents: Callable[[], torch.Tensor] = lambda: torch.zeros(0)


def export_parts(
    model: Denoiser,
    parts: Parts,
    folder: Path,
    opset: int,
    precisions: Precisions | None = None,
    any_size: bool = False,
) -> dict[str, Any]:
    """Write text encoder, tokenizer and decoder into a bundle's folder, with the configs by which diffusers' clients
    know them; `text` and `decoder` of its bundle.json. Nothing where the net stands alone.

    any_size: of latents that are decoded; else they are the model's.
    """
    found: dict[str, Any] = {}
    if not parts.folders:
        return found
    asked = precisions or Precisions()
    if parts.text is not None:
        found["text"] = _text(parts.text, parts.folders["tokenizer"], folder, opset, asked.text)
    if parts.decoder is not None:
        found["decoder"] = _decoder(parts.decoder, folder, model.sample_shape, opset, asked, 1 if any_size else None)
    write_json(folder / INDEX, index_of(model, parts))
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler" / "scheduler_config.json", dict(model.scheduler))
    model.net.save_config(folder / model.family.folder)  # type: ignore[operator]
    return found


def _text(text: TextEncoder, tokenizer: Path, folder: Path, opset: int, scheme: str) -> dict[str, Any]:
    name, ids = f"text_encoder/{GRAPH}", text.ids(["", ""])
    _write(_in(scheme, States(text.net), ids), ids, "input_ids", "last_hidden_state", folder / name, opset)
    text.net.config.save_pretrained((folder / name).parent)  # type: ignore[operator, union-attr]
    shutil.copytree(tokenizer, folder / "tokenizer")
    rules = folder / "tokenizer" / "tokenizer.json"  # older tokenizers have their rules in other files
    text.tokenizer.backend_tokenizer.save(str(rules))
    return {
        "model": name,
        "scheme": scheme,
        "tokenizer": "tokenizer/tokenizer.json",
        "tokens": text.tokens,
        "pad": text.tokenizer.pad_token_id,
        "condition": CONDITION,
    }


def _decoder(
    decoder: Decoder, folder: Path, sample_shape: tuple[int, ...], opset: int, asked: Precisions, multiple: int | None
) -> dict[str, Any]:
    name, example = f"vae_decoder/{GRAPH}", torch.zeros(2, *sample_shape)
    given = asked.latents() / decoder.scale + decoder.shift if asked.decoder != "float" else example
    module = _in(asked.decoder, Pixels(decoder.net), given, multiple)
    _write(module, example, "latent_sample", "sample", folder / name, opset, multiple)
    decoder.net.save_config((folder / name).parent)  # type: ignore[operator]
    return {
        "model": name,
        "scheme": asked.decoder,
        "scale": decoder.scale,
        "shift": decoder.shift,
        "pixels": list(decoder.shape(sample_shape)),
    }


def _in(scheme: str, module: nn.Module, points: torch.Tensor, multiple: int | None = None) -> nn.Module:
    return module.eval() if scheme == "float" else quantized_part(module.eval(), points, scheme, multiple)


def _write(
    module: nn.Module,
    example: torch.Tensor,
    given: str,
    gives: str,
    file: Path,
    opset: int,
    multiple: int | None = None,
) -> None:
    graph = to_onnx(module, (example,), [given], None, opset, multiple=multiple)
    graph.graph.outputs[0].name = gives
    file.parent.mkdir()
    ir.save(graph, file)


class States(nn.Module):
    """Of a text encoder, by token ids."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.net(input_ids).last_hidden_state
        return states


class Pixels(nn.Module):
    """Of a decoder, by latents."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        pixels: torch.Tensor = self.net.decode(latents).sample  # type: ignore[operator]
        return pixels

"""What is around a denoiser, as graphs of their own: in the folders and under the names of optimum's pipelines."""

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from compress.diffusion.stock_schedulers import stock_scheduler
from compress.files import read_json, write_json
from compress.model.denoiser import Denoiser
from compress.onnx_graph.export import to_onnx
from compress.onnx_graph.precompute import INLINE_LIMIT, constant_bytes
from compress.pipeline.decoder import Decoder
from compress.pipeline.manifest import MODEL
from compress.pipeline.pipeline import Parts, index_of
from compress.pipeline.source import INDEX
from compress.pipeline.text import TextEncoder
from compress.quantization.part import half_part, quantized_part
from compress.runtime.parts import MOMENTS

GRAPH, CONFIG = "model.onnx", "config.json"
# as which clients are told of every decoder: OpenVINO GenAI knows no other, and its graph says all
VAE = "AutoencoderKL"


def denoiser_file(model: Denoiser, parts: Parts) -> str:
    """Where the graph of the denoiser lies in its bundle."""
    return f"{model.family.folder}/{GRAPH}" if parts.folders else MODEL


def for_clients(graph: ir.Model) -> ir.Model:
    """A denoiser of any batch that may be given one timestep for all items, as optimum's pipelines do. Changes `graph`.

    Else onnxruntime, told that there are as many, writes what is computed for all items into the place of what is
    computed for timesteps.
    """
    (timestep,) = (value for value in graph.graph.inputs if value.name == "timestep")
    if timestep.shape is not None and not isinstance(timestep.shape[0], int):
        timestep.shape = ir.Shape(["timesteps"])
    return graph


def draws_from_pictures(parts: Parts) -> bool:
    """Whether a pipeline of this class encodes what it is given."""
    return any(word in str(parts.index.get("_class_name")) for word in ("Inpaint", "Img2Img"))


@dataclass(frozen=True)
class Precisions:
    """Schemes of what is around a net. encoder: whether the decoder's counterpart is wanted. latents: float32 [n,…] of
    its data, by which a decoder is calibrated.
    """

    text: str = "float"
    decoder: str = "float"
    encoder: bool = False
    latents: Callable[[], torch.Tensor] = lambda: torch.zeros(0)


def export_parts(
    model: Denoiser,
    parts: Parts,
    folder: Path,
    opset: int,
    precisions: Precisions | None = None,
    any_size: bool = False,
) -> dict[str, Any]:
    """Write text encoders, tokenizers and decoder into a bundle's folder, with the configs by which diffusers' clients
    know them; `text`, `decoder` and `encoder` of its bundle.json. Nothing where the net stands alone.

    any_size: of latents that are decoded, and of pictures that are encoded; else they are the model's.
    """
    found: dict[str, Any] = {}
    if not parts.folders:
        return found
    asked = precisions or Precisions()
    if parts.text is not None:
        encoders = {
            name: _text(name, one, parts.folders[one.about.tokenizer], folder, opset, asked.text)
            for name, one in parts.text.encoders.items()
        }
        found["text"] = {"encoders": encoders, **parts.text.about}
    if parts.decoder is not None:
        found["decoder"] = _decoder(parts.decoder, folder, model.sample_shape, opset, asked, 1 if any_size else None)
        sides = parts.decoder.factor if any_size else None
        found["encoder"] = _encoder(parts.decoder, folder, model.sample_shape, opset, sides) if asked.encoder else None
    model = dataclasses.replace(model, scheduler=stock_scheduler(model.sampling, model.scheduler).config)
    index = index_of(model, parts)
    write_json(folder / INDEX, index | ({"vae": ["diffusers", VAE]} if "vae" in index else {}))
    (folder / "scheduler").mkdir()
    write_json(folder / "scheduler" / "scheduler_config.json", dict(model.scheduler))
    model.net.save_config(folder / model.family.folder)  # type: ignore[operator]
    return found


def told(scheduler: str | None, around: Mapping[str, Any]) -> list[str]:
    """What a user of the graphs that `export_parts` wrote should know. scheduler: of the one beside them."""
    kept = (around.get("decoder") or {}).get("float_layers", ())
    said = f"decoder: stay float, as they meet values beyond float16: {', '.join(kept)}" if kept else None
    return [one for one in (scheduler if around else None, said) if one]


def _text(name: str, text: TextEncoder, tokenizer: Path, folder: Path, opset: int, scheme: str) -> dict[str, Any]:
    file, words, module = folder / name / GRAPH, folder / text.about.tokenizer, text.module
    given: tuple[torch.Tensor, ...] = text.read(["", ""])[: len(text.inputs)]
    outputs = dict(zip(text.outputs, (list(value.shape[1:]) for value in module(*given)), strict=True))
    _write(_in(scheme, module, given), dict(zip(text.inputs, given, strict=True)), list(outputs), file, opset)
    text.config.save_pretrained(file.parent)
    shutil.copytree(tokenizer, words)
    rules = words / "tokenizer.json"  # older tokenizers have their rules in other files
    text.tokenizer.backend_tokenizer.save(str(rules))
    return {
        "model": file.relative_to(folder).as_posix(),
        "scheme": scheme,
        "tokenizer": rules.relative_to(folder).as_posix(),
        "tokens": text.tokens,
        "pad": text.tokenizer.pad_token_id,
        "inputs": text.inputs,
        "outputs": outputs,
        "lowered": text.about.lowered,
    }


def _decoder(
    decoder: Decoder, folder: Path, sample_shape: tuple[int, ...], opset: int, asked: Precisions, multiple: int | None
) -> dict[str, Any]:
    name, example = f"vae_decoder/{GRAPH}", torch.zeros(2, *sample_shape)
    given = asked.latents() / decoder.scale + decoder.shift if asked.decoder != "float" else example
    pixels, kept = Pixels(decoder.net).eval(), list[str]()
    if asked.decoder == "fp16":
        module, kept = half_part(pixels, (given,), multiple)
    else:
        module = _in(asked.decoder, pixels, (given,), multiple)
    _write(module, {"latent_sample": example}, ["sample"], folder / name, opset, multiple)
    _describe(decoder, (folder / name).parent)
    return {
        "model": name,
        "scheme": asked.decoder,
        **({"float_layers": kept} if kept else {}),
        "scale": decoder.scale,
        "shift": decoder.shift,
        "pixels": list(decoder.shape(sample_shape)),
    }


def _encoder(
    decoder: Decoder, folder: Path, sample_shape: tuple[int, ...], opset: int, multiple: int | None
) -> dict[str, Any]:
    name, pixels = f"vae_encoder/{GRAPH}", decoder.shape(sample_shape)
    module, example = Encoded(decoder.net).eval(), torch.zeros(2, *pixels)
    gives = "latent_sample" if module(example).shape[1] == sample_shape[0] else MOMENTS
    _write(module, {"sample": example}, [gives], folder / name, opset, multiple)
    _describe(decoder, (folder / name).parent)
    about = {"scale": decoder.scale, "shift": decoder.shift, "pixels": list(pixels)}
    return {"model": name, "scheme": "float", **about, "gives": gives}


def _describe(decoder: Decoder, folder: Path) -> None:
    """The config beside a graph."""
    decoder.net.save_config(folder)  # type: ignore[operator]
    known = {name: value for name, value in read_json(folder / CONFIG).items() if name != "_name_or_path"}  # of ours
    write_json(folder / CONFIG, {**known, "_class_name": VAE})


def _in(scheme: str, module: nn.Module, points: tuple[torch.Tensor, ...], multiple: int | None = None) -> nn.Module:
    return module.eval() if scheme == "float" else quantized_part(module.eval(), points, scheme, multiple)


def _write(
    module: nn.Module,
    given: Mapping[str, torch.Tensor],
    gives: Sequence[str],
    file: Path,
    opset: int,
    multiple: int | None = None,
) -> None:
    graph = to_onnx(module, tuple(given.values()), list(given), None, opset, multiple=multiple)
    for value, name in zip(graph.graph.outputs, gives, strict=True):
        value.name = name
    file.parent.mkdir()
    beside = constant_bytes(graph) > INLINE_LIMIT
    ir.save(graph, file, external_data=f"{file.name}_data" if beside else None)


class Pixels(nn.Module):
    """Of a decoder, by latents."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        pixels: torch.Tensor = self.net.decode(latents).sample  # type: ignore[operator]
        return pixels


class Encoded(nn.Module):
    """Latents, or mean and variance of their distribution, of pixels."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        given: Any = self.net.encode(pixels)  # type: ignore[operator]
        found: torch.Tensor = given.latent_dist.parameters if hasattr(given, "latent_dist") else given.latents
        return found

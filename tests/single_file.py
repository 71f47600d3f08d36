"""A pipeline's weights in one file, in the layout and by the names of Stable Diffusion 1's own code."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
_NET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
_MIDDLE = {"resnets.0": "0", "attentions.0": "1", "resnets.1": "2"}


def _net(name: str, layers: int, attends: list[bool]) -> str:
    """Of a U-Net with so many layers a block, by whether its up blocks attend."""
    kind, _, rest = name.partition(".")
    if kind not in ("down_blocks", "up_blocks", "mid_block"):
        path, _, end = name.rpartition(".")
        return f"{_NET[path]}.{end}"
    if kind == "mid_block":
        part, index, *inner = rest.split(".")
        place = f"middle_block.{_MIDDLE[f'{part}.{index}']}"
    else:
        block, part, index, *inner = rest.split(".")
        number = int(block) * (layers + 1) + int(index)
        if kind == "down_blocks":
            number += layers if part == "downsamplers" else 0
            place = f"input_blocks.{number + 1}.{int(part == 'attentions')}"
        else:
            number += layers if part == "upsamplers" else 0
            beside = 1 + (part == "upsamplers" and attends[int(block)])
            place = f"output_blocks.{number}.{0 if part == 'resnets' else beside}"
        if part == "downsamplers":
            inner[0] = "op"
    if part == "resnets":
        inner[0] = _RESNET[inner[0]]
    return ".".join([place, *inner])


def _decoder(name: str, levels: int) -> str:
    """Of an AutoencoderKL, encoder and decoder."""
    name = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
    name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_norm_out", "norm_out")
    if ".attn_1." in name:
        for new, old in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
            name = name.replace(f".{new}.", f".{old}.")
    for level in range(levels):
        name = name.replace(f"up_blocks.{level}.", f"up.{levels - 1 - level}.", 1) if "up_blocks" in name else name
        name = name.replace(f"down_blocks.{level}.", f"down.{level}.")
    for new, old in (("resnets", "block"), ("upsamplers.0", "upsample"), ("downsamplers.0", "downsample")):
        name = name.replace(new, old)
    return name.replace("conv_shortcut", "nin_shortcut")


def of_pipeline(folder: Path, layers: int = 1, levels: int = 2) -> Tensors:
    """Every tensor of the miniature of `text_to_image.py`."""
    net = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    found = {f"model.diffusion_model.{_net(name, layers, [False, True])}": one for name, one in net.items()}
    decoder = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    for name, one in decoder.items():
        old = _decoder(name, levels)
        pointwise = ".attn_1." in old and one.ndim == 2
        found[f"first_stage_model.{old}"] = one[:, :, None, None].clone() if pointwise else one
    for name, one in load_file(folder / "text_encoder" / "model.safetensors").items():
        found[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = one
    return found


def write(folder: Path, file: Path) -> Path:
    """The file of a pipeline's folder, with tables that nobody needs."""
    save_file({**of_pipeline(folder), "alphas_cumprod": torch.rand(1000).double()}, file)
    return file

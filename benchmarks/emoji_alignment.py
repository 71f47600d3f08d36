"""`python -m benchmarks.emoji_alignment PICTURES`: trains what says how well an emoji fits its caption.

A miniature CLIP (Radford et al. 2021), with the tokenizer of the emoji teacher and nothing else of it, trained for
minutes on one core on the pictures that are not held out, each with its own caption among those of its batch. It saw no
model's picture. Written is `judges/emoji/clip`, a folder that transformers loads as a CLIPModel with its processor.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessor, CLIPModel

from benchmarks.emoji import Picture, read
from benchmarks.emoji_attributes import tensor, varied
from compress import terminal

HERE = Path(__file__).parent
FOLDER, TOKENIZER = HERE / "judges" / "emoji" / "clip", HERE / "teachers" / "emoji" / "tokenizer"
EPOCHS, BATCH, RATE = 40, 128, 1e-3
SIZES: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 384, "num_attention_heads": 4}


def new_model(tokenizer: Any) -> CLIPModel:
    """Random weights, 1.4 M of them."""
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    text = {**SIZES, **ends, "vocab_size": len(tokenizer), "num_hidden_layers": 2}
    text["max_position_embeddings"] = tokenizer.model_max_length
    vision = {**SIZES, "num_hidden_layers": 4, "image_size": 64, "patch_size": 16}
    torch.manual_seed(0)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def embedded(model: nn.Module, ids: torch.Tensor, pixels: torch.Tensor) -> Any:
    """(of texts, of pictures), each of length 1, float32 [n,64]."""
    found = model(input_ids=ids, pixel_values=pixels)
    return found.text_embeds.float(), found.image_embeds.float()


def train(model: CLIPModel, ids: torch.Tensor, pictures: Sequence[Picture], epochs: int) -> None:
    """AdamW under a cosine, in bfloat16 where that is exact enough: the same weights from the same pictures."""
    random, images = torch.Generator().manual_seed(0), tensor(pictures)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.2}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, epochs * steps, pct_start=0.1, cycle_momentum=False)
    right = torch.arange(BATCH)
    model.train()
    with terminal.progress("alignment of emoji", epochs * steps) as task:
        for _ in range(epochs):
            order = torch.randperm(len(images), generator=random)
            for chosen in order[: steps * BATCH].split(BATCH):
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    texts, seen = embedded(model, ids[chosen], varied(images[chosen], random))
                logits = model.logit_scale.clamp(max=math.log(50)).exp() * texts @ seen.T
                loss = (functional.cross_entropy(logits, right) + functional.cross_entropy(logits.T, right)) / 2
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                task.advance(1, loss=float(loss.detach()))
    model.eval()


@torch.no_grad()
def retrieved(model: CLIPModel, ids: torch.Tensor, pictures: Sequence[Picture]) -> tuple[float, float]:
    """The share of pictures whose own caption is the nearest of all; and is among the nearest five."""
    texts, seen = embedded(model, ids, tensor(pictures))
    ranks = ((seen @ texts.T) > (seen * texts).sum(dim=1, keepdim=True)).sum(dim=1)
    return float((ranks < 1).float().mean()), float((ranks < 5).float().mean())


def main() -> None:
    """Train, save, and print how often the captions of held-out pictures are found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.emoji_alignment", description=__doc__)
    parser.add_argument("pictures", type=Path, help="folder with captions.json and a sheet of pictures for each style")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    asked = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER, local_files_only=True)
    pictures, held_out = (read(asked.pictures, apart) for apart in (False, True))
    ids, held_out_ids = (
        tokenizer([one.text for one in part], padding="max_length", truncation=True, return_tensors="pt").input_ids
        for part in (pictures, held_out)
    )
    model = new_model(tokenizer)
    train(model, ids, pictures, asked.epochs)
    model.half().save_pretrained(FOLDER)
    tokenizer.save_pretrained(FOLDER)
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}  # pixels in [-1, 1]
    CLIPImageProcessor(do_resize=False, do_center_crop=False, **half).save_pretrained(FOLDER)
    first, five = retrieved(model.float(), held_out_ids, held_out)
    print(f"{len(held_out)} held-out pictures: own caption nearest {first:.1%}, among the nearest five {five:.1%}")


if __name__ == "__main__":
    main()

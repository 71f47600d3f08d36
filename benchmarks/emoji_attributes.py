"""`python -m benchmarks.emoji_attributes PICTURES`: trains what names style, group and dominant colour of an emoji.

A small convolutional network, trained for minutes on one core on the pictures that are not held out (`benchmarks.emoji`
reads them). It saw no model's picture. Written are `judges/emoji/attributes.onnx`, which knows how often it names
held-out pictures rightly, and `held_out.jsonl`: the held-out prompts with their true attributes.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import nn
from torch.nn import functional

from benchmarks.emoji import COLOURS, Picture, read
from compress import terminal
from compress.files import write_atomically, write_text

FOLDER = Path(__file__).parent / "judges" / "emoji"
EPOCHS, BATCH, WIDTH, SHIFT = 36, 64, 24, 4
LOSSES = {"style": 0.5, "group": 1.0, "colour": 0.5, "subgroup": 0.5}  # the last is not kept: it teaches the trunk


class Attributes(nn.Module):
    """Logits of each attribute of pictures [n,3,h,w] in [-1, 1], by name."""

    def __init__(self, classes: dict[str, list[str]]) -> None:
        super().__init__()
        self.classes = classes
        self.trunk = nn.Sequential(
            _convolution(3, WIDTH, 2),
            _convolution(WIDTH, 2 * WIDTH, 2),
            Residual(2 * WIDTH),
            _convolution(2 * WIDTH, 4 * WIDTH, 2),
            Residual(4 * WIDTH),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.2),
        )
        self.heads = nn.ModuleDict({name: nn.Linear(4 * WIDTH, len(known)) for name, known in classes.items()})

    def forward(self, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
        """Every attribute's."""
        found = self.trunk(pictures)
        return {name: head(found) for name, head in self.heads.items()}


class Residual(nn.Module):
    """Two convolutions beside the way straight through."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            _convolution(width, width), nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n,c,h,w] → the same."""
        return functional.relu(x + self.inner(x))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


def tensor(pictures: Sequence[Picture]) -> torch.Tensor:
    """Pixels float32 [n,3,h,w] in [-1, 1]."""
    return torch.from_numpy(np.stack([one.pixels for one in pictures]).transpose(0, 3, 1, 2) / np.float32(127.5)) - 1


def varied(pictures: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """The pictures [n,3,h,w] shifted on their white paper, half of them mirrored and a third of them blurred: what a
    small model draws is soft, and no attribute says so."""
    count, _, height, width = pictures.shape
    wide = functional.pad(pictures, [SHIFT] * 4, value=1.0)
    found = torch.empty_like(pictures)
    mirrored = torch.rand(count, generator=random) < 0.5
    soft = torch.rand(count, generator=random)
    for i, (down, right) in enumerate(torch.randint(2 * SHIFT + 1, (count, 2), generator=random).tolist()):
        one = wide[i, :, down : down + height, right : right + width]
        found[i] = one.flip(-1) if mirrored[i] else one
    small = functional.interpolate(functional.avg_pool2d(found, 2), size=(height, width), mode="bilinear")
    share = (soft * 3).clamp(max=1)[:, None, None, None]  # of the sharp picture: 1 for two thirds
    return share * found + (1 - share) * small


def train(net: Attributes, pictures: Sequence[Picture], epochs: int) -> None:
    """Adam with one cycle of its rate; the same weights from the same pictures."""
    random, images = torch.Generator().manual_seed(0), tensor(pictures)
    labels = {
        name: torch.tensor([known.index(value(one, name)) for one in pictures]) for name, known in net.classes.items()
    }
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, epochs * steps)
    with terminal.progress("attributes of emoji", epochs * steps) as task:
        for _ in range(epochs):
            order = torch.randperm(len(images), generator=random)
            for chosen in order[: steps * BATCH].split(BATCH):
                given = varied(images[chosen], random).contiguous(memory_format=torch.channels_last)
                logits = net(given)
                loss = torch.stack(
                    [
                        LOSSES[name] * functional.cross_entropy(logits[name], labels[name][chosen], label_smoothing=0.1)
                        for name in labels
                    ]
                ).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                task.advance(1, loss=float(loss.detach()))


def value(picture: Picture, attribute: str) -> str:
    """An attribute of a picture."""
    return picture.subgroup if attribute == "subgroup" else picture.attributes[attribute]


@torch.no_grad()
def named(net: Attributes, pictures: Sequence[Picture]) -> dict[str, float]:
    """The share of pictures whose attribute is named rightly."""
    chosen, found = {name: logits.argmax(dim=1).tolist() for name, logits in net(tensor(pictures)).items()}, {}
    for name, known in net.classes.items():
        right = [known[i] == value(one, name) for one, i in zip(pictures, chosen[name], strict=True)]
        found[name] = float(np.mean(right))
    return found


def save(net: Attributes, accuracy: dict[str, float], count: int) -> None:
    """As `verify` reads it: an output for each attribute, what it knows of itself in the metadata."""
    kept = [name for name in net.classes if name != "subgroup"]
    for name in [*net.heads]:
        if name not in kept:
            del net.heads[name]
    program = torch.onnx.export(
        net, (torch.zeros(2, 3, 64, 64),), input_names=["pixels"], output_names=kept, dynamo=True, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("count")},),
    )  # fmt: skip
    assert program is not None
    about = {name: {"classes": net.classes[name], "accuracy": accuracy[name], "count": count} for name in kept}
    program.model.metadata_props["attributes"] = json.dumps(about)
    FOLDER.mkdir(parents=True, exist_ok=True)
    write_atomically(FOLDER / "attributes.onnx", lambda part: ir.save(program.model, part))


def main() -> None:
    """Train, save, and print how often held-out pictures are named rightly."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.emoji_attributes", description=__doc__)
    parser.add_argument("pictures", type=Path, help="folder with captions.json and a sheet of pictures for each style")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    asked = parser.parse_args()
    pictures, held_out = (read(asked.pictures, apart) for apart in (False, True))
    classes = {name: sorted({value(one, name) for one in pictures}) for name in LOSSES}
    classes["colour"] = list(COLOURS)
    torch.manual_seed(0)
    net = Attributes(classes)
    train(net, pictures, asked.epochs)
    net.eval()
    accuracy = named(net, held_out)
    save(net, accuracy, len(held_out))
    lines = [json.dumps({"text": one.text, **one.attributes}, ensure_ascii=False) for one in held_out]
    write_text(FOLDER / "held_out.jsonl", "\n".join(lines) + "\n")
    for name in classes:
        print(f"{name}: {accuracy[name]:.1%} of {len(held_out)} held-out pictures")


if __name__ == "__main__":
    main()

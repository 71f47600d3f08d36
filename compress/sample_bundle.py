"""`compress sample`: a picture of images that a bundle draws, with numpy and onnxruntime alone."""

import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from compress.errors import BundleError, short
from compress.options import EngineName, Threads

if TYPE_CHECKING:  # the command line reads the asked below before anything that takes time is imported
    from compress.runtime import Bundle

STRENGTH = 0.8  # as diffusers' pipelines have it


@dataclass(frozen=True)
class Sample:
    """What to draw: the options of `compress sample`."""

    bundle: Annotated[Path, typer.Argument(help="bundle folder, or the result folder that holds it")]
    out: Annotated[Path, typer.Option(help="picture to write (PNG), or .npz")] = Path("grid.png")
    class_: Annotated[int | None, typer.Option("--class", help="label; default: every one in turn")] = None
    prompt: Annotated[list[str] | None, typer.Option(help="what to draw; several: in turn")] = None
    negative_prompt: Annotated[str | None, typer.Option(help="what guidance leads away from; default: nothing")] = None
    image: Annotated[Path | None, typer.Option(help="picture to begin with, or, with a mask, to draw in")] = None
    strength: Annotated[
        float | None,
        typer.Option(help="of a picture to begin with: share of the steps that draw it anew; default: 0.8"),
    ] = None
    mask: Annotated[Path | None, typer.Option(help="of inpainting: a picture of its size, bright where to draw")] = None
    embeddings: Annotated[Path | None, typer.Option(help=".npz with `embeddings`, for text models")] = None
    guidance_scale: Annotated[float | None, typer.Option(help="diffusers' convention; default: the bundle's own")] = (
        None
    )
    steps: Annotated[int | None, typer.Option(min=1, help="of those that the bundle serves")] = None
    size: Annotated[
        str | None, typer.Option(metavar="HEIGHTxWIDTH", help="of pictures that the bundle takes; default: its own")
    ] = None
    psnr: Annotated[
        float | None, typer.Option(help="as many steps as each image needs for this many dB to the bundle's own steps")
    ] = None
    milliseconds: Annotated[float | None, typer.Option(help="time that all images may take together")] = None
    count: Annotated[int | None, typer.Option(min=1, max=1000, help="of images; default: a prompt each, or 10")] = None
    seed: Annotated[int, typer.Option(min=0, max=2**64 - 1, help="determines the noise")] = 0
    threads: Threads = None
    engine: EngineName = "onnxruntime"

    @property
    def number(self) -> int:
        """Of images."""
        return self.count or len(self.prompt or ()) or 10


def sample(asked: Sample) -> None:
    """Draw images from a bundle, with numpy and onnxruntime alone."""
    from compress.files import check_target, write_npz
    from compress.measure.fastest import chosen
    from compress.pages.pictures import draw, picture
    from compress.runtime import Bundle
    from compress.runtime.contents import find
    from compress.runtime.served import from_strength, noised

    check_target(asked.out)
    engine, _ = chosen(asked.engine, find(asked.bundle), asked.threads)
    model = Bundle(find(asked.bundle), asked.threads, engine=engine)
    if len(model.sample_shape) != 3 and asked.out.suffix != ".npz":
        shape = list(model.sample_shape)
        raise BundleError(f"--out {asked.out}: samples of this model are {shape}, no images; give the name of an .npz")
    model = model if asked.negative_prompt is None else model.without(asked.negative_prompt)
    model = model if asked.guidance_scale is None else model.at_scale(asked.guidance_scale)
    model = model if asked.steps is None else model.at_steps(asked.steps)
    sides = model.sample_shape[1:] if asked.size is None else _sides(model, asked.size)
    conditions = _conditions(model, asked)
    drawn = (asked.number, model.sample_shape[0], *sides)
    noise = np.random.default_rng(asked.seed).standard_normal(drawn, dtype=np.float32)
    if asked.strength is not None and (asked.image is None or asked.mask is not None):
        raise BundleError(f"{model.path}: --strength is of a picture to begin with: give --image, and no --mask")
    if asked.image is not None and "masked_image_latents" not in model.conditions:
        begun, strength = _begun(model, asked), STRENGTH if asked.strength is None else asked.strength
        model = model.with_sampling(from_strength(model.path, model.sampling, strength))
        noise = noised(model.sampling, begun, noise)
    if asked.psnr is None and asked.milliseconds is None:
        images = model.sample(noise, **conditions)
    else:
        limits: dict[str, Any] = {"psnr": asked.psnr, "milliseconds": asked.milliseconds}
        images, taken = model.sample_adaptively(noise, **limits, **conditions)
        print(f"{taken.mean():.1f} steps an image, of {len(model.steps)}")
    images = model.pixels(images)
    if not np.isfinite(images).all():
        scale = model.guidance["scale"]
        raise BundleError(f"{model.path}: drew what is not finite, at guidance scale {scale:g}; no picture was written")
    if asked.out.suffix == ".npz":
        write_npz(asked.out, {"samples": images})
    elif len(images) == 1:
        picture(images[0], asked.out)
    else:
        titles = [str(label) for label in conditions["class_labels"]] if "class_labels" in conditions else None
        draw({"": images}, asked.out, titles)
    print(asked.out)


def _sides(model: "Bundle", size: str) -> list[int]:
    """Sides of the samples whose pictures have the size that --size names. Raises BundleError."""
    from compress.runtime.signature import sides_for

    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", size)
    if found is None:
        raise BundleError(f"--size {size}: should be HEIGHTxWIDTH, e.g. 48x64")
    return sides_for(model.path, model.manifest, [int(found[1]), int(found[2])])


def _conditions(model: "Bundle", asked: Sample) -> dict[str, Any]:
    """The conditions [n, …] that the bundle takes, by name. Raises BundleError, and DataError of the embeddings."""
    label, turns = asked.class_, np.arange(asked.number)
    conditions: dict[str, Any] = {}
    if "class_labels" in model.conditions:
        classes = model.manifest["classes"]
        if label is not None and not 0 <= label < classes:
            raise BundleError(f"--class {label}: {model.path} has the classes 0…{classes - 1}")
        conditions["class_labels"] = turns % classes if label is None else np.full(asked.count, label)
    elif label is not None:
        raise BundleError(f"{model.path}: takes no class label; leave --class out")
    others = [name for name in model.conditions if name != "class_labels"]
    if asked.prompt:
        if model.text is None:
            raise BundleError(f"{model.path}: has no text encoder; leave --prompt out")
        for text, tokens in model.text.cut([*asked.prompt, asked.negative_prompt or ""]).items():
            print(f"prompt is cut to {tokens} tokens: {short(text)}", file=sys.stderr)
        height, width = map(int, asked.size.split("x")) if asked.size else model.text.picture
        told = replace(model.text, picture=(height, width)).encode(asked.prompt)
        conditions |= {name: made[turns % len(made)] for name, made in told.items()}
    if asked.mask is not None or (asked.image is not None and "masked_image_latents" in model.conditions):
        conditions |= {name: np.repeat(one, asked.number, axis=0) for name, one in _painted(model, asked).items()}
    others = [name for name in others if name not in conditions]
    if asked.embeddings is not None and not others:
        raise BundleError(f"{model.path}: takes no embeddings; leave --embeddings out")
    for name in others:
        from compress.data import key, read_embeddings  # needs torch, which a class label does not

        if asked.embeddings is None:
            wanted = f"--embeddings with an .npz that holds `{key(name)}`"
            wanted = wanted if model.text is None else f"--prompt, or {wanted}"
            raise BundleError(f"{model.path}: takes {name}; give {wanted}")
        given = read_embeddings(asked.embeddings, name)
        conditions[name] = given[turns % len(given)]
    return conditions


def _painted(model: "Bundle", asked: Sample) -> dict[str, np.ndarray]:
    """Conditions [1,…] of inpainting: the mask, and what is not under it as latents. Raises BundleError, DataError."""
    from compress.data.pictures import read_image  # needs torch

    if model.encoder is None or "masked_image_latents" not in model.conditions:
        raise BundleError(f"{model.path}: draws in no picture, as inpainting does; leave --image and --mask out")
    if asked.image is None or asked.mask is None:
        raise BundleError(f"{model.path}: inpainting needs a picture and its mask; give --image and --mask")
    channels, height, width = model.encoder.about["pixels"]
    image, hidden = read_image(asked.image, (channels, height, width)), read_image(asked.mask, (1, height, width)) >= 0
    factor = height // model.sample_shape[1]
    seen = model.encoder.encode(np.where(hidden, 0, image)[None])
    return {"mask": hidden[None, :, ::factor, ::factor].astype(np.float32), "masked_image_latents": seen}


def _begun(model: "Bundle", asked: Sample) -> np.ndarray:
    """The sample [1,…] of the picture to begin with. Raises BundleError, DataError."""
    from compress.data.pictures import read_image  # needs torch

    assert asked.image is not None
    if asked.psnr is not None or asked.milliseconds is not None or asked.size is not None:
        raise BundleError(
            f"{model.path}: begins with pictures of its own size, and by its steps; drop --size, --psnr, --milliseconds"
        )
    if model.decoder is None:
        return read_image(asked.image, model.sample_shape)[None]
    if model.encoder is None:
        raise BundleError(f"{model.path}: has no encoder to begin with a picture; export it with `encoder: true`")
    return model.encoder.encode(read_image(asked.image, tuple(model.encoder.about["pixels"]))[None])

"""Whether the graphs around a net compute what PyTorch computes, and the one graph of all what they do."""

from collections.abc import Callable, Sequence
from string import ascii_lowercase

import numpy as np
import torch
from torch.nn import functional

from compress.data import Dataset
from compress.errors import ExportError
from compress.judge.quality import sqnr
from compress.model.denoiser import Denoiser
from compress.model.reference import conditions_for, noise_like
from compress.pipeline.pipeline import Parts
from compress.randomness import Draw, generator
from compress.runtime import Bundle
from compress.runtime.contents import parts_around
from compress.runtime.schemes import SCHEMES

CHECKED_PARTS = 4  # items on which what is around the net is compared
LEAST_PART_DB = {"float": 60.0, "fp16": 30.0, "int8_weights": 20.0, "int8": 15.0}  # to float


def check_parts(
    parts: Parts,
    bundle: Bundle,
    given: Callable[[], torch.Tensor],
    others: Sequence[tuple[int, ...]],
    seed: int,
    name: str,
) -> dict[str, float]:
    """SQNR in dB of the graphs around a net against PyTorch, for the record. name: of the pass. Raises ExportError.

    given: latents [n,…] by which a decoder was calibrated, if it was; else it is held against itself on noise. others:
    sides of latents at which it is compared, too; stretched to them.
    """
    random, found = generator(seed, Draw.PARTS_CHECK), {}
    encoders = {} if parts.text is None or bundle.text is None else bundle.text.encoders
    for name, text in parts.text.encoders.items() if parts.text is not None and encoders else ():
        ids = torch.randint(text.tokenizer.vocab_size, (CHECKED_PARTS, text.tokens), generator=random)
        mask = (torch.arange(text.tokens) <= torch.arange(CHECKED_PARTS)[:, None]).long()
        read = (ids, mask)[: len(text.inputs)]
        feeds = {key: value.numpy() for key, value in zip(text.inputs, read, strict=True)}
        pairs = zip(text.module(*read), encoders[name].run(feeds), strict=True)
        found[name] = min(sqnr(wanted.numpy(), got) for wanted, got in pairs)
    if parts.decoder is not None:
        latents = torch.randn(CHECKED_PARTS, *bundle.sample_shape, generator=random)
        latents = given()[:CHECKED_PARTS] if bundle.manifest["decoder"]["scheme"] in ("int8", "fp16") else latents
        asked = [latents, *(functional.interpolate(latents, sides) for sides in others)]
        found["decoder"] = min(sqnr(parts.decoder.decode(each).numpy(), bundle.pixels(each.numpy())) for each in asked)
    if parts.decoder is not None and bundle.encoder is not None:
        pixels = torch.rand(CHECKED_PARTS, *bundle.encoder.about["pixels"], generator=random) * 2 - 1
        found["encoder"] = sqnr(parts.decoder.encode(pixels).numpy(), bundle.encoder.encode(pixels.numpy()))
    around = parts_around(bundle.manifest)
    for part, agreement in found.items():
        least = LEAST_PART_DB[around[part]["scheme"]]
        if not agreement >= least:
            raise ExportError(
                f"{name}: {around[part]['model']} differs from the PyTorch model: {agreement:.1f} dB "
                f"SQNR, at least {least:.0f} expected; export it as float, or calibrate on more data"
            )
    return {f"{part}_sqnr_db": round(agreement, 2) for part, agreement in found.items()}


def check_sampler(model: Denoiser, bundle: Bundle, dataset: Callable[[], Dataset], seed: int, name: str) -> float:
    """SQNR in dB of the one graph against the steps and what is around them. name: of the pass. Raises ExportError."""
    count = bundle.batch or 2
    rounds = max(1, 4 // count)
    noise = noise_like(model, rounds * count, seed, Draw.SAMPLER_CHECK).numpy()
    made, tokens = dict[str, np.ndarray](), dict[str, np.ndarray]()
    if bundle.text is not None:
        texts = [ascii_lowercase[:length] for length in range(len(noise))]
        made, tokens = bundle.text.encode(texts), bundle.text.tokens(texts)
    others = dict[str, np.ndarray]()
    if bundle.conditions.keys() - made.keys():  # which data alone tell of
        others = {key: value.numpy() for key, value in conditions_for(model, len(noise), dataset, seed).items()}
        others = {key: value for key, value in others.items() if key not in made}
    given, told = others | made, others | tokens
    agreement = sqnr(bundle.pixels(bundle.sample(noise, **given)), bundle.sample_at_once(noise, **told))
    least = SCHEMES[model.scheme].least_sampler_db
    if not agreement >= least:
        raise ExportError(
            f"{name}: {bundle.manifest['sampler']} differs from sampling step by step: {agreement:.1f} dB SQNR, at "
            f"least {least:.0f} expected; please report the model's config"
        )
    return agreement

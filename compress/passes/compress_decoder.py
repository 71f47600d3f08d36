"""A small decoder in place of a pipeline's own: where steps are few, most of a picture's time is decoding.

The student has the shape of diffusers' AutoencoderTiny and learns from the teacher's autoencoder alone: its decoder to
make the teacher's pixels of latents, its encoder to make latents of those pixels again. The latents are those of the
recipe's data, disturbed a little, as those of a compressed denoiser are.
"""

from collections.abc import Mapping

import torch
from diffusers import AutoencoderTiny
from pydantic import Field
from torch import nn

from compress import training
from compress.contract import Context, Forecast, PassConfig, PassResult
from compress.data import Batch
from compress.devices import send
from compress.errors import PassError
from compress.pipeline.decoder import Decoder, of_net
from compress.randomness import Draw, generator

HELD_OUT = 100  # latents on which the two decoders are compared, for the record


class Losses(PassConfig):
    """Weights of the losses; 0 leaves one out."""

    pixels: float = Field(1.0, ge=0, description="mean absolute difference of pixels")
    edges: float = Field(1.0, ge=0, description="of differences between neighbours, at three sizes")
    perceptual: float = Field(0.1, ge=0, description="of the latents that the teacher's encoder makes of both pictures")
    latents: float = Field(1.0, ge=0, description="of the small encoder's latents")


class Config(training.TrainingConfig):
    """Settings of `compress_decoder`."""

    width: int = Field(32, ge=1, le=4096, description="channels of the small autoencoder; AutoencoderTiny's own: 64")
    blocks: int = Field(3, ge=1, le=100, description="residual blocks at each size but the largest, which has one")
    noise: float = Field(0.1, ge=0, description="of latents: greatest standard deviation that is added to them")
    batch_size: int = Field(16, ge=1, le=training.LARGEST_BATCH, description="latents a step")
    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate of AdamW; decays to 0 by a cosine")
    losses: Losses = Field(Losses(), description="weights of the losses")


class Imitation(nn.Module):
    """The objective: the teacher's pixels of the same latents."""

    average = None

    def __init__(self, student: Decoder, teacher: Decoder, config: Config) -> None:
        super().__init__()
        self.net = student.net
        self.student, self.teacher, self.config = student, teacher, config

    def forward(self, batch: Batch, random: torch.Generator) -> Mapping[str, torch.Tensor]:
        """Losses of disturbed latents [b,…]."""
        latents, weights = batch.images, self.config.losses
        strength = torch.rand(len(latents), *[1] * (latents.ndim - 1), generator=random) * self.config.noise
        latents = latents + send(strength * torch.randn(latents.shape, generator=random), latents.device)
        with torch.no_grad():
            wanted = self.teacher.pixels(latents)
        found = self.student.pixels(latents).float()
        losses = {"pixels": (found - wanted).abs().mean(), "edges": edges(found, wanted)}
        if weights.perceptual:
            own = self.teacher.latents(wanted)
            losses["perceptual"] = (self.teacher.latents(found) - own).abs().mean()
        if weights.latents:
            losses["latents"] = (self.student.latents(wanted).float() - latents).abs().mean()
        return {name: getattr(weights, name) * loss for name, loss in losses.items()}


def edges(found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Mean absolute difference of the gradients of pictures [b,c,h,w], at full, half and quarter size."""
    total = torch.zeros((), device=found.device)
    difference = found - wanted
    for _ in range(3):
        for dim in (2, 3):
            total = total + difference.diff(dim=dim).abs().mean()
        difference = nn.functional.avg_pool2d(difference, 2)
    return total


def student(teacher: Decoder, config: Config, context: Context) -> Decoder:
    """A small autoencoder with random weights, determined by the recipe's seed. Raises PassError."""
    latent = context.teacher().sample_shape
    channels, *size = teacher.shape(latent)
    factor = size[0] // latent[1]
    if len(latent) != 3 or factor & (factor - 1) or [factor * side for side in latent[1:]] != size:
        raise PassError(
            f"{context.name}: makes pictures of {size} of latents of {list(latent[1:])}; a small decoder doubles sizes"
        )
    levels = factor.bit_length()
    blocks = (*[config.blocks] * (levels - 1), 1)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator(context.seed, Draw.SMALL_DECODER).initial_seed())
        net = AutoencoderTiny(
            in_channels=channels,
            out_channels=channels,
            latent_channels=latent[0],
            encoder_block_out_channels=(config.width,) * levels,
            decoder_block_out_channels=(config.width,) * levels,
            num_encoder_blocks=blocks[::-1],
            num_decoder_blocks=blocks,
        )
    return of_net(teacher.name, net.to(context.device))


def objective(model: Decoder, config: Config, context: Context) -> Imitation:
    """The small decoder, taught by the teacher's, whatever stands in its place by now."""
    teacher = context.around().decoder or model
    teacher.net.to(context.device)
    return Imitation(student(teacher, config, context), teacher, config)


def run(model: Decoder, config: Config, context: Context) -> PassResult[Decoder]:
    """Teach a small decoder on the latents of the recipe's data."""
    taught = objective(model, config, context)
    notes = training.train(taught, taught.student.net, config, context, context.training_data())
    taught.student.net.requires_grad_(False).eval()
    small, held_out = taught.student, context.dataset().split()[1].images[:HELD_OUT]
    wanted, found = taught.teacher.decode(held_out), small.decode(held_out)
    sizes = {"params": small.parameters, "ratio": round(small.parameters / taught.teacher.parameters, 4)}
    return PassResult(small, changed=True, notes={**notes, **sizes, "psnr_db": round(_psnr(wanted, found), 2)})


def _psnr(wanted: torch.Tensor, found: torch.Tensor) -> float:
    error = (wanted.clamp(-1, 1) - found.clamp(-1, 1)).square().mean()
    return float(10 * torch.log10(4 / error))


def forecast(model: Decoder, config: Config, context: Context) -> Forecast:
    """The decoder's size is known at once; training time is measured on a few steps."""
    taught = objective(model, config, context)
    seconds, memory = training.forecast(taught, context.teacher(), config, context)
    taught.student.net.requires_grad_(False).eval()
    return Forecast(taught.student, seconds, memory)

"""`Denoiser`: a torch model and everything needed to draw a sample from it."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NewType

import torch
from torch import nn

from compress.devices import send
from compress.diffusion.levels import spread
from compress.diffusion.sampling import Sampling
from compress.families.family import Condition, Family
from compress.model import noise_classifier, scalars
from compress.runtime.sampling import classifier_free_guidance, solve

DEFAULT_TOKENS = 77  # text length of CLIP, which conditions most text-to-image models


@dataclass(frozen=True)
class Precision:
    """Arithmetic other than float32, and what it is made again from.

    scheme: a row of `runtime.schemes`. module: f(sample, timestep, *inputs) in that arithmetic. ranges: observed ones,
    by tensor. float_layers: patterns of the layers that were left in float.
    """

    scheme: str
    module: nn.Module
    ranges: Mapping[str, torch.Tensor] = field(default_factory=dict)
    float_layers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Denoiser:
    """A net, its sampling and its precision.

    net: of float weights, whatever the precision. precision: None: float32; else the model is drawn from and exported,
    and no longer pruned or trained.
    scheduler: the diffusers scheduler config that `sampling` was read from.
    null: what guidance without a null class puts in place of each condition that it leaves out, for one item.
    classifier: of noisy samples, for guidance of that kind.
    kept: stage tap → the teacher's channels that survive, in order; the pairing that `distill` uses.
    """

    net: nn.Module
    family: Family
    sampling: Sampling
    scheduler: Mapping[str, Any]
    null: Mapping[str, torch.Tensor] = field(default_factory=dict)
    classifier: nn.Module | None = None
    kept: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    precision: Precision | None = None

    @cached_property
    def module(self) -> nn.Module:
        """f(sample [b,…], timestep [b], *inputs) -> output [b,…]; timestep: as it is told; inputs: as in `inputs`."""
        return self.precision.module if self.precision else self.family.positional(self.net)

    @property
    def scheme(self) -> str:
        """Name of the precision, a row of `runtime.schemes`."""
        return self.precision.scheme if self.precision else "float"

    def in_float(self) -> "Denoiser":
        """The model that this one was quantized from; itself, if it is float."""
        return dataclasses.replace(self, precision=None) if self.precision else self

    @property
    def config(self) -> Mapping[str, Any]:
        """The diffusers config of the net."""
        config: Mapping[str, Any] = self.net.config  # type: ignore[assignment]
        return config

    @property
    def tokens(self) -> int:
        """Text length for which the model is exported and counted."""
        text = self.null.get("encoder_hidden_states")
        return DEFAULT_TOKENS if text is None else len(text)

    @property
    def conditions(self) -> dict[str, Condition]:
        """What a sample is drawn for: class labels, texts."""
        return self.family.conditions(self.net, self.tokens)

    @property
    def inputs(self) -> dict[str, Condition]:
        """The net's inputs beside sample and timestep, in order: conditions, then numbers that sampling sets."""
        return self.conditions | {name: Condition(torch.float32) for name in scalars.names(self.net, self.family)}

    @property
    def dropped(self) -> tuple[str, ...]:
        """The conditions that guidance leaves out; the others stay as they are."""
        if self.sampling.guidance.null_class is not None:
            return ("class_labels",)
        return tuple(name for name, condition in self.conditions.items() if condition.dropped)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """(channels, …) of one sample: height and width of an image, length of a sound."""
        return self.family.sample_shape(self.config)

    @property
    def classes(self) -> int | None:
        """Number of labels that can be asked for, without the null class; None: not class-conditional.

        A null class counts as 'none of these' only where it is the last label.
        """
        count = self.family.classes(self.net)
        null = self.sampling.guidance.null_class
        return count - 1 if count is not None and null == count - 1 else count

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.net.parameters()).device

    def to(self, device: torch.device) -> "Denoiser":
        """This model, with its weights moved to a device."""
        self.net.to(device)
        if self.classifier is not None:
            self.classifier.to(device)
        return self


Quantized = NewType("Quantized", Denoiser)  # what a pass says that takes or gives a model of other precision


def null_conditions(model: Denoiser, conditions: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`conditions` with the null condition in place of each that guidance leaves out."""
    null_class = model.sampling.guidance.null_class
    given = {name: conditions[name] for name in model.dropped}
    if null_class is not None:
        return {**conditions, **{name: torch.full_like(value, null_class) for name, value in given.items()}}
    null = {name: send(model.null[name], value.device).to(value.dtype) for name, value in given.items()}
    return {**conditions, **{name: null[name].expand_as(value) for name, value in given.items()}}


def predict(
    model: Denoiser, sample: torch.Tensor, timestep: torch.Tensor, conditions: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """Raw model output [b,…], one evaluation, for timesteps [b] of its sampling.

    conditions: may hold the model's scalars, float32 [b]; else they are those of its sampling.
    """
    return evaluate(model, sample, model.sampling.told(timestep), conditions)


def evaluate(
    model: Denoiser, sample: torch.Tensor, told: torch.Tensor, conditions: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """As `predict`, for numbers [b] that the net is told, whatever its sampling."""
    usual = {scalars.GUIDANCE_SCALE: model.sampling.guidance.scale, scalars.STEPS: len(model.sampling.timesteps)}
    given = (
        conditions[name] if name in conditions else torch.full((len(sample),), float(usual[name]), device=sample.device)
        for name in model.inputs
    )
    output: torch.Tensor = model.module(sample, told, *given)
    return output


def guided(
    model: Denoiser, sample: torch.Tensor, timestep: torch.Tensor, conditions: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """Model output [b,…] with its guidance, which for `cfg` takes a doubled batch, and for `classifier` a gradient.

    conditions: may hold a guidance scale for each item, float32 [b], instead of the model's own.
    """
    guidance = model.sampling.guidance
    if not guidance.online:
        return predict(model, sample, timestep, conditions)
    scale: Any = guidance.scale
    if scalars.GUIDANCE_SCALE in conditions:
        scale = spread(conditions[scalars.GUIDANCE_SCALE], sample)
        conditions = {name: value for name, value in conditions.items() if name != scalars.GUIDANCE_SCALE}
    if guidance.kind == "classifier":
        return predict(model, sample, timestep, conditions) + scale * steered(model, sample, timestep, conditions)
    null = null_conditions(model, conditions)
    both = {name: torch.cat([value, null[name]]) for name, value in conditions.items()}
    return guided_halves(predict(model, torch.cat([sample] * 2), torch.cat([timestep] * 2), both), scale)


def guided_halves(both: torch.Tensor, scale: Any) -> torch.Tensor:
    """Guided output [b,…] from the outputs [2b,…] with the conditions and without."""
    conditional, unconditional = both.chunk(2)
    result: torch.Tensor = classifier_free_guidance(conditional, unconditional, scale)
    return result


def steered(
    model: Denoiser, sample: torch.Tensor, timestep: torch.Tensor, conditions: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """What the model's classifier adds to its output [b,c,h,w] at guidance scale 1."""
    assert model.classifier is not None, "guidance of kind classifier has one"
    return noise_classifier.direction(model.classifier, model.sampling, sample, timestep, conditions["class_labels"])


@torch.no_grad()
def draw(
    model: Denoiser,
    noise: torch.Tensor,
    conditions: Mapping[str, torch.Tensor],
    on_step: Callable[[], None] | None = None,
    on_sample: Callable[[torch.Tensor], None] = lambda _: None,
) -> torch.Tensor:
    """Clean samples [b,…] from standard normal noise [b,…], by the model's own sampling.

    on_sample: is shown the samples on the way, noise first, that are denoised. on_step: called after each evaluation.
    """

    def denoise(sample: torch.Tensor, timestep: float) -> torch.Tensor:
        on_sample(sample)
        return guided(model, sample, torch.full((len(sample),), timestep, device=sample.device), conditions)

    samples: torch.Tensor = solve(denoise, noise, model.sampling.steps(), model.sampling.clip_range, on_step)
    return samples


def walk(model: Denoiser, noise: torch.Tensor, conditions: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The samples [steps + 1,b,…] that drawing from noise [b,…] goes through: noise first, clean last."""
    states: list[torch.Tensor] = []
    clean = draw(model, noise, conditions, on_sample=states.append)
    return torch.stack([*states, clean])


def example_inputs(model: Denoiser, batch: int) -> tuple[torch.Tensor, ...]:
    """Zero-filled inputs of the right shapes and types on the model's device: sample, timestep, `inputs`.

    Scalars are ones, which have an embedding.
    """
    device = model.device
    return (
        torch.zeros(batch, *model.sample_shape, device=device),
        torch.zeros(batch, dtype=model.sampling.dtype, device=device),
        *(torch.zeros(batch, *c.shape, dtype=c.dtype, device=device) for c in model.conditions.values()),
        *(torch.ones(batch, device=device) for _ in scalars.names(model.net, model.family)),
    )

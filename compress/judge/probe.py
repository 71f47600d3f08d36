"""What a student computes, held against its teacher on the same noisy samples: no sampler, no classifier between.

A frozen set: clean samples of the teacher, noised by fixed noise to the level of every timestep. The sharpest of all
figures, since nothing random stands between cause and effect.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from compress.diffusion.prediction import add_noise, clean_coefficients
from compress.judge.quality import sqnr
from compress.measure.workers import parallel
from compress.model.denoiser import Denoiser, guided, null_conditions, predict, steered
from compress.model.reference import Drawn, noise_like
from compress.randomness import Draw
from compress.report.parts import Figure, against
from compress.report.statistics import bootstrap, interval
from compress.runtime import Bundle
from compress.runtime.sampling import classifier_free_guidance

COUNT = 30  # with and without the condition at once: below the 63 that a quantized graph takes
ROUNDS = 500
ROUNDING = 10.0  # a runtime may round ten times as much as another before the figure counts it

# (sample [b,c,h,w], place in the sampler's table, timestep, conditions) -> guided output [b,c,h,w]
Evaluate = Callable[[np.ndarray, int, float, Mapping[str, np.ndarray]], np.ndarray]


@dataclass(frozen=True)
class Probe:
    """samples, conditional, unconditional: float32 [timesteps,b,c,h,w], the teacher's outputs on the samples.

    scale: of the teacher's guidance; 1 where there is none.
    """

    timesteps: tuple[float, ...]
    samples: np.ndarray
    conditions: Mapping[str, np.ndarray]
    conditional: np.ndarray
    unconditional: np.ndarray
    scale: float

    @property
    def guided(self) -> np.ndarray:
        """The teacher's guided outputs [timesteps,b,c,h,w]."""
        return classifier_free_guidance(self.conditional, self.unconditional, self.scale)


def make(teacher: Denoiser, drawn: Drawn, timesteps: tuple[float, ...], seed: int) -> Probe:
    """The probe set of a teacher from samples of its own, at these timesteps."""
    clean = drawn[:COUNT].samples
    device = teacher.device
    conditions = {name: value[:COUNT].to(device) for name, value in drawn.conditions.items()}
    guidance = teacher.sampling.guidance
    noise = noise_like(teacher, len(clean), seed, Draw.PROBE)
    samples: list[np.ndarray] = []
    conditional: list[np.ndarray] = []
    unconditional: list[np.ndarray] = []
    with torch.no_grad():
        for timestep in timesteps:
            times = torch.full((len(clean),), timestep)
            sample = add_noise(clean, noise, *teacher.sampling.alpha_sigma(times, clean))
            samples.append(sample.numpy())
            ends = _ends(teacher, sample.to(device), times.to(device), conditions)
            for outputs, end in zip((conditional, unconditional), ends, strict=True):
                outputs.append(end.cpu().numpy())
    return Probe(
        timesteps=timesteps,
        samples=np.stack(samples),
        conditions={name: value.cpu().numpy() for name, value in conditions.items()},
        conditional=np.stack(conditional),
        unconditional=np.stack(unconditional),
        scale=guidance.scale if guidance.online else 1.0,
    )


def _ends(
    teacher: Denoiser, sample: torch.Tensor, timestep: torch.Tensor, conditions: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs [b,c,h,w] at guidance scales 1 and 0; every other lies on the line through them."""
    conditional = predict(teacher, sample, timestep, conditions)
    guidance = teacher.sampling.guidance
    if guidance.kind == "classifier":
        return conditional + steered(teacher, sample, timestep, conditions), conditional
    if guidance.kind == "cfg":
        return conditional, predict(teacher, sample, timestep, null_conditions(teacher, conditions))
    return conditional, conditional


def of_bundle(bundle: Bundle) -> Evaluate:
    """How a bundle is evaluated: at the timestep that its *own* table has in this place, by its own guidance."""

    def evaluate(sample: np.ndarray, place: int, timestep: float, given: Mapping[str, np.ndarray]) -> np.ndarray:
        missing = -len(sample) % (bundle.batch or 1)  # a fixed batch is filled by repeating items
        index = np.arange(len(sample) + missing) % len(sample)
        conditions = {name: value[index] for name, value in given.items()}
        return bundle.guided(sample[index], bundle.steps[place].timestep, conditions)[: len(sample)]

    return evaluate


def of_model(model: Denoiser) -> Evaluate:
    """How a PyTorch model is evaluated: by its own guidance."""

    def evaluate(sample: np.ndarray, place: int, timestep: float, given: Mapping[str, np.ndarray]) -> np.ndarray:
        conditions = {name: torch.from_numpy(value).to(model.device) for name, value in given.items()}
        times = torch.full((len(sample),), timestep, device=model.device)
        with torch.no_grad():
            return guided(model, torch.from_numpy(sample).to(model.device), times, conditions).float().cpu().numpy()

    return evaluate


@dataclass(frozen=True)
class Answer:
    """A model's guided outputs on a probe, float32 [timesteps,b,c,h,w]."""

    probe: Probe
    guided: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """Squared error of the guided output and squared teacher's output of every item, [timesteps,b,2]."""
        wanted = self.probe.guided
        axes = tuple(range(2, wanted.ndim))
        return np.stack([np.square(self.guided - wanted).sum(axes), np.square(wanted).sum(axes)], axis=-1)

    def curve(self, rounds: int = ROUNDS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(relative squared error of the guided output at each timestep [timesteps], low, high)."""
        errors = self.errors
        replicates = bootstrap(lambda i: _relative(errors[:, i]), errors.shape[1], rounds=rounds)
        low, high = np.percentile(replicates, [2.5, 97.5], axis=0)
        return _relative(errors), low, high

    def sqnr(self) -> float:
        """Of the guided outputs against the teacher's, in dB over all timesteps."""
        return sqnr(self.probe.guided, self.guided)

    @property
    def guidance(self) -> np.ndarray:
        """[b,2]: ⟨d, e⟩ and ⟨d, d⟩ of each item, d = the teacher's c − u, e = the student's guided output − u."""
        direction = self.probe.conditional - self.probe.unconditional
        step = self.guided - self.probe.unconditional
        axes = (0, *range(2, direction.ndim))
        return np.stack([(direction * step).sum(axes), np.square(direction).sum(axes)], axis=-1)


def answer(probe: Probe, evaluate: Evaluate, threads: int | None = None) -> Answer:
    """The outputs of a model on the probe. threads: that an evaluation takes, as for `parallel`."""

    def at(place: int) -> np.ndarray:
        return evaluate(probe.samples[place], place, probe.timesteps[place], probe.conditions)

    return Answer(probe, np.stack(list(parallel(at, range(len(probe.timesteps)), threads))))


def figures(student: Answer, rounding: Answer, rounds: int = ROUNDS) -> dict[str, Figure]:
    """output_error, worst_timestep_error and, of a guided model, guidance_ratio.

    output_error: mean over timesteps of the relative squared error of the guided output; worst_timestep_error: the
    largest of them. guidance_ratio: the scale s at which the teacher's u + s·(c − u) comes nearest to the student's
    guided output, ÷ the scale that was asked for. rounding: the answer of the teacher itself in another runtime.
    """
    found, errors = {}, student.errors
    for name, over in (("output_error", np.mean), ("worst_timestep_error", np.max)):
        own, floor = (float(over(_relative(given.errors))) for given in (student, rounding))
        ends = interval(bootstrap(lambda i, f=over: f(_relative(errors[:, i])), errors.shape[1], rounds=rounds))
        found[name] = against(own, "less", ends, errors.shape[1], floor, ROUNDING * floor)
    scale = student.probe.scale
    if scale != 1:
        own, teacher = (_scale(given.guidance) / scale for given in (student, rounding))
        parts = student.guidance
        ends = interval(bootstrap(lambda i: _scale(parts[i]) / scale, len(parts), rounds=rounds))
        floor = ROUNDING * abs(teacher - 1) + 1e-6
        found["guidance_ratio"] = against(own, "more" if own < 1 else "less", ends, len(parts), teacher, floor)
    return found


def sampling_error(bundle: Bundle, teacher: Denoiser) -> Figure:
    """Largest difference between the noise level that the solver's table supposes and that of its timesteps.

    Compares the coefficients of the clean estimate with those that the teacher's schedule gives at the timestep that
    the net is told, or anywhere that it is told this whole number. Exact: 0 but for rounding.
    """
    sampling, worst = teacher.sampling, 0.0
    kind = bundle.manifest["sampling"]["prediction_type"]
    for step in bundle.steps:
        ends = sampling.told_at(step.timestep)
        levels = zip(*(level.tolist() for level in sampling.level(ends)), strict=True)
        wanted = [clean_coefficients(kind, alpha, sigma, sampling.sigma_data) for alpha, sigma in levels]
        found = (step.clean_from_sample, step.clean_from_output)
        for one, *others in zip(found, *wanted, strict=True):
            worst = max(worst, min(others) - one, one - max(others))
    return against(worst, "less", (worst, worst), len(bundle.steps), 0.0, 1e-6)


def kernel_loss(whole: np.ndarray, simulated: np.ndarray, shipped: np.ndarray) -> Figure:
    """By how many dB the shipped kernels are less exact than simulated ones, on outputs [timesteps,b,…].

    Both against the float student's outputs `whole`, and not against each other: roundings decorrelate in a deep net.
    0 for a faithful export.
    """
    axes = (0, *range(2, whole.ndim))
    errors = np.stack([np.square(x - whole).sum(axes) for x in (simulated, shipped)], axis=1).astype(np.float64)

    def loss(i: np.ndarray) -> float:
        fake, real = np.maximum(errors[i].sum(axis=0), 1e-30)
        return float(10 * np.log10(real / fake))

    value, ends = loss(np.arange(len(errors))), interval(bootstrap(loss, len(errors), rounds=ROUNDS))
    return against(value, "less", ends, len(errors), 0.0, (ends[1] - ends[0]) / 2)


def _relative(errors: np.ndarray) -> np.ndarray:
    """[timesteps,b,2] -> [timesteps]."""
    sums = errors.sum(axis=1)
    return sums[:, 0] / np.maximum(sums[:, 1], 1e-30)


def _scale(parts: np.ndarray) -> float:
    product, energy = parts.sum(axis=0)
    return float(product / energy)

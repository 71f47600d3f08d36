"""Distribution matching where the truth is known: guided mixtures of Gaussians, and faults that must not go unseen.

Given its class, a point of the plane is normal along the first axis, about the class's own mean, and one of two normals
along the second. Without the class it is the same about 0, so that guidance of scale s has an exact answer: the scores
are those of the mixture whose first mean is s times the class's.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from compress import training
from compress.data import Batch, Dataset
from compress.diffusion.sampling import Guidance
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.diffusion.targets import Grid
from compress.families.family import Condition
from compress.model.denoiser import Denoiser, draw
from compress.randomness import generator
from compress.training.match import Match
from compress.training.trajectories import Trajectories
from tests.conftest import SCHEDULER, make_context
from tests.families.test_family import TOKENS

SCALE, MEANS, APART, DEVIATION = 2.0, (-0.6, 0.0, 0.6), 0.5, 0.25
CLASSES = len(MEANS)
SETTINGS = {**SCHEDULER, "prediction_type": "sample"}
CONFIG = {"in_channels": 2, "sample_size": 1}
FAMILY = dataclasses.replace(
    TOKENS,
    classes=lambda net: CLASSES + 1,
    conditions=lambda net, tokens: {"class_labels": Condition(torch.int64)},
    call=lambda net, sample, timestep, conditions, scalars: net(sample, timestep, conditions["class_labels"]),
    scalars=lambda net: {},
)


class Exact(nn.Module):
    """x̂_0 of the mixture, in closed form."""

    config = CONFIG

    def __init__(self, levels: Callable) -> None:
        super().__init__()
        self.levels = levels
        self.idle = nn.Parameter(torch.zeros(()))  # says on which device it is

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        alpha, sigma = self.levels(timestep, sample)
        first, second = sample.flatten(1).unbind(1)
        alpha, variance = alpha.flatten(), (alpha.square() * DEVIATION**2 + sigma.square()).flatten()
        gain = alpha * DEVIATION**2 / variance
        mean = torch.tensor([*MEANS, 0.0])[labels]
        places = torch.tensor([-APART, APART])
        away = second[:, None] - alpha[:, None] * places
        share = torch.softmax(-away.square() / (2 * variance[:, None]), 1)
        clean = (share * (places + gain[:, None] * away)).sum(1)
        return torch.stack([mean + gain * (first - alpha * mean), clean], 1)[:, :, None, None]


class Learner(nn.Module):
    config = CONFIG

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Linear(3 + CLASSES + 1, 96), nn.SiLU(), nn.Linear(96, 96), nn.SiLU(), nn.Linear(96, 2)
        )

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        one_hot = nn.functional.one_hot(labels, CLASSES + 1)
        given = torch.cat([sample.flatten(1), timestep[:, None] / 1000, one_hot], 1)
        return self.layers(given)[:, :, None, None]


def models(steps: int) -> tuple[Denoiser, Denoiser, Denoiser, Grid]:
    """(student, teacher, fake, the student's grid)."""
    sampling = from_scheduler_config(SETTINGS, SamplingOptions(steps=8))
    guided = Guidance(kind="cfg", scale=SCALE, null_class=CLASSES)
    teacher = Denoiser(
        Exact(sampling.alpha_sigma).requires_grad_(False),
        FAMILY,
        sampling.model_copy(update={"guidance": guided}),
        SETTINGS,
    )
    grid = Grid(sampling, [steps], ())
    own = tuple(sampling.timesteps[place] for place in grid.places[steps][:-1])
    baked = {"timesteps": own, "distilled": True, "guidance": guided.model_copy(update={"kind": "baked"})}
    student = Denoiser(Learner(0), FAMILY, sampling.model_copy(update=baked), SETTINGS)
    return student, teacher, Denoiser(Learner(1), FAMILY, sampling, SETTINGS), grid


def points(model: Denoiser, label: int, random: torch.Generator) -> torch.Tensor:
    noise = torch.randn(4000, 2, 1, 1, generator=random)
    return draw(model, noise, {"class_labels": torch.full((4000,), label)}).flatten(1)


def distances(student: Denoiser, teacher: Denoiser | None = None) -> list[float]:
    """Wasserstein distance along each axis of each class, from the guided mixture's own samples, or the teacher's."""
    random, found = generator(0, "judged"), []
    for label, mean in enumerate(MEANS):
        samples = points(student, label, random)
        sides = torch.where(torch.rand(4000, generator=random) < 0.5, -APART, APART)
        wanted = torch.stack([torch.full((4000,), SCALE * mean), sides], 1)
        wanted = wanted + DEVIATION * torch.randn(4000, 2, generator=random)
        wanted = wanted if teacher is None else points(teacher, label, random)
        found += (samples.sort(0).values - wanted.sort(0).values).abs().mean(0).tolist()
    return found


def sampled(teacher: Denoiser, count: int = 6000) -> Trajectories:
    """The teacher's own samples, of all classes."""
    labels = {"class_labels": torch.arange(count) % CLASSES}
    drawn = draw(teacher, torch.randn(count, 2, 1, 1, generator=generator(0, "known")), labels)
    return Trajectories(drawn[None], torch.tensor(teacher.sampling.timesteps), labels)


def matched(
    folder: Path, steps: int, kind: type[Match] = Match, updates: int = 2000, learned: bool = False
) -> list[float]:
    student, teacher, fake, grid = models(steps)
    real, known = (dataclasses.replace(fake, net=Learner(2)), sampled(teacher)) if learned else (teacher, None)
    objective = kind(student, real, fake, grid, 2, known)
    labels = torch.arange(300) % CLASSES
    data = Dataset(torch.zeros(300, 2, 1, 1), {"class_labels": labels})
    config = training.TrainingConfig(steps=updates, batch_size=256, learning_rate=3e-3, ema=0.98)
    training.train(objective, student.net, config, make_context(teacher, folder), data)
    judged = dataclasses.replace(student, net=student.net.requires_grad_(False).eval())
    return distances(judged, teacher if learned else None)


@pytest.mark.parametrize(
    ("steps", "updates", "learned", "most"),
    [(1, 1500, False, 0.25), (1, 4000, False, 0.1), (2, 2000, False, 0.15), (1, 4000, True, 0.1)],
)
def test_samples_become_those_of_the_guided_mixture(
    steps: int, updates: int, learned: bool, most: float, tmp_path: Path
) -> None:
    assert max(distances(models(steps)[0])) > 0.4  # before
    assert max(matched(tmp_path, steps, updates=updates, learned=learned)) < most


class WrongSign(Match):
    def _moved(self, samples: torch.Tensor, still: Batch, random: torch.Generator) -> torch.Tensor:
        return -super()._moved(samples, still, random)


class Swapped(Match):
    def _moved(self, samples: torch.Tensor, still: Batch, random: torch.Generator) -> torch.Tensor:
        self.teacher, self.fake = self.fake, self.teacher
        moved = super()._moved(samples, still, random)
        self.teacher, self.fake = self.fake, self.teacher
        return moved


class Stale(Match):
    def _followed(self, model: Denoiser, still: Batch, random: torch.Generator) -> torch.Tensor:
        return 0 * super()._followed(model, still, random)


class Unguided(Match):
    def __init__(self, student: Denoiser, teacher: Denoiser, *others: Any, **more: Any) -> None:
        plain = teacher.sampling.model_copy(update={"guidance": Guidance()})
        super().__init__(student, dataclasses.replace(teacher, sampling=plain), *others, **more)


@pytest.mark.parametrize("kind", [WrongSign, Swapped, Stale, Unguided])
def test_faults_are_seen(kind: type[Match], tmp_path: Path) -> None:
    found = matched(tmp_path, 1, kind, updates=1500)
    assert not max(found) < 0.3


def test_a_step_of_the_fake_leaves_the_student_alone() -> None:
    student, teacher, fake, grid = models(1)
    objective = Match(student, teacher, fake, grid, pace=4)
    batch = Batch(torch.zeros(8, 2, 1, 1), {"class_labels": torch.arange(8) % CLASSES})
    led = 0
    for step in range(60):
        objective.zero_grad(set_to_none=True)
        losses: Mapping[str, torch.Tensor] = objective(batch, generator(step))
        torch.stack(list(losses.values())).sum().backward()
        leads = bool(losses["match"] > 0)
        assert all((weight.grad is not None) == leads for weight in student.net.parameters())
        assert all(weight.grad is not None for weight in fake.net.parameters())
        led += leads
    assert 5 < led < 27  # a quarter


def test_its_gradient_is_the_difference_of_scores() -> None:
    """Against the formula, by hand, at the same draws."""
    student, teacher, fake, grid = models(1)
    objective = Match(student, teacher, fake, grid, pace=1)
    samples = torch.randn(16, 2, 1, 1, generator=generator(3)).requires_grad_()
    still = Batch(samples.detach(), {"class_labels": torch.arange(16) % CLASSES})
    objective._moved(samples, still, generator(4)).backward()
    random = generator(4)
    timestep = objective.timesteps[torch.randint(len(objective.timesteps), (16,), generator=random)]
    noise = torch.randn(samples.shape, generator=random)
    alpha, sigma = teacher.sampling.alpha_sigma(timestep, noise)
    noisy = alpha * still.images + sigma * noise
    labels = still.conditions["class_labels"]
    with torch.no_grad():
        null = teacher.net(noisy, timestep, torch.full_like(labels, CLASSES))
        real = null + SCALE * (teacher.net(noisy, timestep, labels) - null)
        fake = fake.net(noisy, timestep, labels)
    size = (still.images - real).abs().mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(samples.grad, (fake - real) / size / samples.numel())
    first, last = int(objective.timesteps.min()), int(objective.timesteps.max())
    assert (first, last) == (20, 979) and math.isclose(np.diff(objective.timesteps.numpy()).max(), 1)

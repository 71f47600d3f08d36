"""The gap between moments, against the Fréchet distance and against what it is for."""

import math

import pytest
import torch

from compress.diffusion.moments import MomentGap
from compress.judge.distribution import frechet_distance

PLACES = torch.Generator()


def samples(count: int, shape: tuple[int, int, int] = (1, 4, 4), seed: int = 0) -> torch.Tensor:
    """Images whose directions vary very differently, about a mean that is not 0."""
    random = torch.Generator().manual_seed(seed)
    size = shape[0] * shape[1] * shape[2]
    mix = torch.randn(size, size, generator=torch.Generator().manual_seed(9)) * torch.logspace(0, -1.5, size)
    return (torch.randn(count, size, generator=random) @ mix.T / size**0.5 - 0.5).view(count, *shape)


@pytest.mark.parametrize("change", ["mean", "scale", "blur"])
def test_is_the_frechet_distance_to_second_order(change: str) -> None:
    teacher = samples(8000)
    student = {
        "mean": teacher + 0.05,
        "scale": teacher.mean(0) + 0.97 * (teacher - teacher.mean(0)),
        "blur": 0.96 * teacher + 0.04 * teacher.roll(1, dims=3),  # turns the axes too
    }[change]
    gap = MomentGap(teacher)
    found = float(gap(student, teacher, PLACES) * gap.variance.sum())
    wanted = frechet_distance(student.flatten(1).numpy(), teacher.flatten(1).numpy())
    assert found == pytest.approx(wanted, rel=0.06), change


def test_restores_the_variance_that_a_regression_averages_away() -> None:
    """The student sees its teacher's samples through noise: the least squared error shrinks them."""
    random = torch.Generator().manual_seed(1)
    teacher = samples(6000)
    seen = teacher + 0.3 * torch.randn(teacher.shape, generator=random)
    gap = MomentGap(teacher)
    spread, off = {}, {}
    for weight in (0.0, 10.0):
        layer = torch.nn.Linear(16, 16)
        torch.nn.init.eye_(layer.weight)  # near the answer, wherever the process's random numbers stand
        torch.nn.init.zeros_(layer.bias)
        optimizer = torch.optim.Adam(layer.parameters(), lr=3e-3)
        for _ in range(1200):
            which = torch.randint(len(teacher), (64,), generator=random)
            ours = layer(seen[which].flatten(1)).view(-1, 1, 4, 4)
            loss = (ours - teacher[which]).square().mean() / teacher.var()
            loss = loss + weight * gap(ours, teacher[which], random)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            ours = layer(seen.flatten(1))
        spread[weight] = float(ours.var(0).sum() / teacher.flatten(1).var(0).sum())
        off[weight] = frechet_distance(ours.numpy(), teacher.flatten(1).numpy())
    assert spread[0.0] < 0.85 and spread[10.0] > 0.95 and off[10.0] < 0.2 * off[0.0], (spread, off)


def test_is_right_on_average_where_there_is_no_gap() -> None:
    """A student of the same distribution whose samples are not the teacher's: a squared estimate would be above 0."""
    teacher = samples(40_000)
    others = samples(40_000, seed=1)
    gap = MomentGap(teacher)
    found = torch.stack([gap(a, b, PLACES) for a, b in zip(others.split(32), teacher.split(32), strict=True)])
    assert abs(float(found.mean())) < 4 * float(found.std()) / len(found) ** 0.5
    assert float(found.std()) > 0


def test_large_images_are_seen_through_the_same_crop() -> None:
    teacher = samples(6, (3, 40, 24))
    gap = MomentGap(teacher)
    assert gap.size == (18, 18) and gap.basis.shape == (972, 972)
    for seed in range(5):
        place = torch.Generator().manual_seed(seed)
        assert float(gap(teacher, teacher, place)) == 0
        assert float(gap(0.5 * teacher, teacher, place)) > 0


@pytest.mark.parametrize("shape", [(3, 900), (2, 8, 12, 12)])
def test_sound_and_film_are_seen_through_crops_of_their_own_rank(shape):
    random = torch.Generator().manual_seed(0)
    gap = MomentGap(torch.randn(200, *shape, generator=random))
    assert shape[0] * math.prod(gap.size) <= 1024 and gap.mean.shape == (shape[0] * math.prod(gap.size),)
    samples = torch.randn(16, *shape, generator=random)
    assert gap(samples, samples, random).abs() < 1e-6 < gap(1.5 * samples, samples, random)

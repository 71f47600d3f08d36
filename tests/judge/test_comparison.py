"""A student beside its teacher in a feature space: what is resolved, what is not, and in which direction."""

import numpy as np
import pytest

from compress.judge.comparison import Sets, compare, paired_means
from compress.judge.features import FeatureSpace
from compress.report.figure import beside
from compress.report.parts import Figure, Space
from tests.sample_report import but, entry, full

WIDTH, COUNT, OTHERS = 6, 300, 600
SPACE = FeatureSpace("flat", WIDTH, lambda images: images.reshape(len(images), -1).astype(np.float64))
LABELS = np.arange(COUNT) % 5


def images(count: int, seed: int) -> np.ndarray:
    """Five classes of normal features, as images [n,1,1,6]."""
    random = np.random.default_rng(seed)
    centres = 3 * np.random.default_rng(99).standard_normal((5, WIDTH))
    return (centres[np.arange(count) % 5] + random.standard_normal((count, WIDTH))).reshape(count, 1, 1, WIDTH)


def sets(student: np.ndarray, twin: np.ndarray, **more: np.ndarray) -> Sets:
    other_labels = np.arange(OTHERS) % 5
    return Sets(student, twin, images(OTHERS, 1), labels=LABELS, other_labels=other_labels, **more)


TWIN = images(COUNT, 0)
REAL = {"training": images(400, 2), "held_out": images(150, 3)}


def test_teacher_itself_is_never_told_apart() -> None:
    figures = compare(sets(TWIN + 1e-7, TWIN, **REAL), SPACE, rounds=60)
    assert set(figures) == {
        "frechet", "kid", "two_sample", "density", "coverage", "vendi", "class_variance", "frechet_real", "memorised",
    }  # fmt: skip
    for name, figure in figures.items():
        assert figure.resolved is False, name
        assert figure.value == pytest.approx(figure.teacher, abs=1e-3), name


def test_equally_good_student_of_other_noise_is_within_a_few_floors() -> None:
    figures = compare(sets(images(COUNT, 5), TWIN, **REAL), SPACE, rounds=60)
    for name, figure in figures.items():
        assert figure.floor is not None and figure.excess is not None
        assert abs(figure.excess) < 4 * figure.floor + 1e-9, name


@pytest.mark.parametrize(
    ("broken", "names"),
    [
        (TWIN + 1.0, ("frechet", "kid", "two_sample", "coverage", "frechet_real")),
        (TWIN[LABELS], ("coverage", "class_variance")),  # one image a class
        (REAL["training"][:COUNT] + 1e-3, ("memorised",)),
    ],
    ids=["shifted", "collapsed", "memorised"],
)  # fmt: skip
def test_fault_is_resolved_as_worse(broken: np.ndarray, names: tuple[str, ...]) -> None:
    figures = compare(sets(broken, TWIN, **REAL), SPACE, rounds=60)
    for name in names:
        figure = figures[name]
        assert figure.resolved, name
        assert figure.excess is not None and (figure.excess > 0) == (figure.better == "less"), name


def test_ratio_to_real_images_where_the_teacher_is_told_from_them() -> None:
    """Means 1 and 2 away from the real ones: squared distances 6 and 24."""
    figures = compare(sets(TWIN + 2, TWIN + 1, **REAL), SPACE, rounds=60)
    ratio = figures["frechet_ratio"]
    assert ratio.value == pytest.approx(4, rel=0.15) and ratio.resolved and ratio.teacher == 1
    assert ratio.interval is not None and ratio.interval[0] < 4 < ratio.interval[1]
    itself = compare(sets(TWIN + 1, TWIN + 1, **REAL), SPACE, rounds=60)["frechet_ratio"]
    assert itself.value == 1 and itself.resolved is False
    assert "frechet_ratio" not in compare(sets(TWIN, TWIN, **REAL), SPACE, rounds=60)


def test_without_labels_or_real_images_the_rest_is_measured() -> None:
    figures = compare(Sets(TWIN, TWIN, images(OTHERS, 1)), SPACE, rounds=10)
    assert set(figures) == {"frechet", "kid", "two_sample", "density", "coverage", "vendi"}


def test_same_seed_same_figures() -> None:
    first, second = (compare(sets(TWIN + 0.1, TWIN), SPACE, rounds=10, seed=4) for _ in range(2))
    assert first == second


def test_floor_is_half_the_spread_of_the_teachers_own_figure() -> None:
    """Replicates with a known spread: N(0, 1) for the teacher, and the same plus 5 for the student."""
    own = np.random.default_rng(0).standard_normal(20_000)
    figure = beside(5.0, 0.0, np.stack([own + 5, own], axis=1), "less", 7)
    assert figure.floor == pytest.approx(1.96, abs=0.05)
    assert figure.excess_interval == pytest.approx((5, 5)) and figure.resolved
    near = beside(1.0, 0.0, np.stack([own + 1, own], axis=1), "less", 7)
    assert near.resolved is False, "sure to differ, but less than two runs of the teacher do"
    unsure = beside(2.5, 0.0, np.stack([own[::-1] + 2.5, own], axis=1), "less", 7)
    assert unsure.resolved is False, "over the floor, but the interval holds 0"


def test_paired_means_see_small_differences_of_noisy_items() -> None:
    noise = np.random.default_rng(1).standard_normal(4000)
    figure = paired_means(noise + 0.2, noise, "more", 500)
    assert figure.excess == pytest.approx(0.2) and figure.excess_interval == pytest.approx((0.2, 0.2))
    assert figure.resolved and figure.floor == pytest.approx(1.96 / 4000**0.5, rel=0.15)


def test_a_figure_is_of_finite_numbers_of_its_own_kind() -> None:
    for wrong in ({"value": float("nan")}, {"value": 1.0, "floor": float("inf")}, {"value": "1"}, {"value": True}):
        with pytest.raises(ValueError, match=r"value|floor"):
            Figure(better="more", **wrong)
    assert Figure(value=1.0, better="more").resolved is None


def test_agreement_of_spaces() -> None:
    same = entry(1.0, 0.0, 0.1, 0.5)
    other = entry(1.0, 0.0, 0.1, 1.5)
    assert same.resolved and other.resolved is False
    spaces = {"a": {"kid": same, "vendi": same}, "b": {"kid": same, "vendi": other}, "c": {"density": other}}
    parts = {name: Space(dimension=1, enough=True, real_halves=None, metrics=found) for name, found in spaces.items()}
    assert but(full(), spaces=parts).agreement == {"kid": True, "vendi": False}

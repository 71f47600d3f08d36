"""A student beside its teacher: what is resolved, what is not, and in which direction; metrics as rows of a table."""

import dataclasses
import importlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from compress import passes
from compress.judge.classifier import Classifier
from compress.judge.metrics import (
    METRICS,
    REASONS,
    Metric,
    Sets,
    by_class,
    figures,
    lacking,
    of_pairs,
    of_sets,
    paired_means,
)
from compress.pages.page import page
from compress.report.parts import Figure, Space, beside
from compress.report.report import read
from tests.conftest import UNCONDITIONAL_CONFIG, make_context, make_denoiser
from tests.sample_report import but, entry, full

WIDTH, COUNT, OTHERS, ROUNDS = 6, 300, 600, 60
LABELS = np.arange(COUNT) % 5


def features(count: int, seed: int) -> np.ndarray:
    """Five classes of normal features [n,6]."""
    random = np.random.default_rng(seed)
    centres = 3 * np.random.default_rng(99).standard_normal((5, WIDTH))
    return centres[np.arange(count) % 5] + random.standard_normal((count, WIDTH))


def compared(student: np.ndarray, twin: np.ndarray, **more: np.ndarray) -> dict[str, Figure]:
    other_labels = np.arange(OTHERS) % 5
    given = {"labels": LABELS, "other_labels": other_labels, "others": features(OTHERS, 1), **more}
    return figures(Sets(student, twin, rounds=ROUNDS, **given))


TWIN = features(COUNT, 0)
REAL = {"training": features(400, 2), "held_out": features(150, 3)}


def test_teacher_itself_is_never_told_apart() -> None:
    found = compared(TWIN + 1e-7, TWIN, **REAL)
    assert set(found) == {
        "frechet", "kid", "two_sample", "density", "coverage", "vendi", "class_variance", "frechet_real", "memorised",
    }  # fmt: skip
    for name, figure in found.items():
        assert figure.resolved is False, name
        assert figure.value == pytest.approx(figure.teacher, abs=1e-3), name


def test_equally_good_student_of_other_noise_is_within_a_few_floors() -> None:
    found = compared(features(COUNT, 5), TWIN, **REAL)
    for name, figure in found.items():
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
    found = compared(broken, TWIN, **REAL)
    for name in names:
        figure = found[name]
        assert figure.resolved, name
        assert figure.excess is not None and (figure.excess > 0) == (figure.better == "less"), name


def test_ratio_to_real_images_where_the_teacher_is_told_from_them() -> None:
    """Means 1 and 2 away from the real ones: squared distances 6 and 24."""
    found = compared(TWIN + 2, TWIN + 1, **REAL)
    ratio = found["frechet_ratio"]
    assert ratio.value == pytest.approx(4, rel=0.15) and ratio.resolved and ratio.teacher == 1
    assert ratio.interval is not None and ratio.interval[0] < 4 < ratio.interval[1]
    itself = compared(TWIN + 1, TWIN + 1, **REAL)["frechet_ratio"]
    assert itself.value == 1 and itself.resolved is False
    assert "frechet_ratio" not in compared(TWIN, TWIN, **REAL)


def test_without_labels_or_real_images_the_rest_is_measured() -> None:
    found = figures(Sets(TWIN, TWIN, others=features(OTHERS, 1), rounds=10))
    assert set(found) == {"frechet", "kid", "two_sample", "density", "coverage", "vendi"}


def test_same_sets_same_figures() -> None:
    assert compared(TWIN + 0.1, TWIN) == compared(TWIN + 0.1, TWIN)


def test_floor_is_half_the_spread_of_the_teachers_own_figure() -> None:
    """Replicates with a known spread: N(0, 1) for the teacher, and the same plus 5 for the student."""
    own = np.random.default_rng(0).standard_normal(20_000)
    figure = beside((5.0, 0.0), np.stack([own + 5, own], axis=1), "less", 7)
    assert figure.floor == pytest.approx(1.96, abs=0.05)
    assert figure.excess_interval == pytest.approx((5, 5)) and figure.resolved
    near = beside((1.0, 0.0), np.stack([own + 1, own], axis=1), "less", 7)
    assert near.resolved is False, "sure to differ, but less than two runs of the teacher do"
    unsure = beside((2.5, 0.0), np.stack([own[::-1] + 2.5, own], axis=1), "less", 7)
    assert unsure.resolved is False, "over the floor, but the interval holds 0"


def test_paired_means_see_small_differences_of_noisy_items() -> None:
    noise = np.random.default_rng(1).standard_normal(4000)
    figure = paired_means([noise + 0.2, noise], "more", 500)
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
    parts = {name: Space(dimension=1, enough=True, metrics=found) for name, found in spaces.items()}
    assert but(full(), spaces=parts).agreement == {"kid": True, "vendi": False}


class Brightest:
    """Names an image by the place of its brightest pixel."""

    def predict(self, flat: np.ndarray) -> np.ndarray:
        return flat.argmax(axis=1)


BRIGHTEST = Classifier(Brightest(), 1.0)


def digits(labels: np.ndarray) -> np.ndarray:
    images = np.full((len(labels), 1, 4, 4), -0.9, dtype=np.float32)
    images.reshape(len(labels), -1)[np.arange(len(labels)), labels] = 0.9
    return images


ASKED = np.arange(200) % 10


def named(theirs: np.ndarray, ours: np.ndarray) -> Sets:
    classes = BRIGHTEST.classify(ours), BRIGHTEST.classify(theirs)
    return Sets(ours, theirs, again=theirs[:10], labels=ASKED, classes=classes)


def test_names_and_intervals() -> None:
    ours = digits(np.where(np.arange(200) < 20, (ASKED + 1) % 10, ASKED))
    found = figures(named(digits(ASKED), ours))
    agreement, accuracy = found["class_agreement"], found["class_accuracy"]
    assert agreement.value == accuracy.value == pytest.approx(0.9)
    assert accuracy.teacher == 1 and accuracy.excess == pytest.approx(-0.1) and accuracy.resolved
    assert agreement.resolved and agreement.interval == pytest.approx((0.8506, 0.9343), abs=1e-3)  # Wilson, by hand


def test_same_names_are_not_resolved() -> None:
    found = figures(named(digits(ASKED), digits(ASKED)))
    assert [found[name].resolved for name in ("class_agreement", "class_accuracy")] == [False, False]
    assert found["class_agreement"].value == 1


def test_dropped_class_shows_in_its_row() -> None:
    rows = by_class(named(digits(ASKED), digits(np.where(ASKED == 3, 4, ASKED))))
    assert [(row.label, row.teacher, row.student) for row in rows] == [(n, 1.0, float(n != 3)) for n in range(10)]
    assert by_class(Sets(digits(ASKED), digits(ASKED), labels=ASKED)) == ()


def test_rounding_of_another_runtime_is_the_floor() -> None:
    random = np.random.default_rng(0)
    teacher = random.uniform(-0.9, 0.9, (60, 1, 16, 16)).astype(np.float32)
    rounding = (teacher + 1e-5 * random.standard_normal(teacher.shape)).astype(np.float32)
    as_good = (teacher + 1e-5 * random.standard_normal(teacher.shape)).astype(np.float32)
    worse = (teacher + 1e-2 * random.standard_normal(teacher.shape)).astype(np.float32)
    again = rounding[:20]
    for name, figure in figures(Sets(as_good, teacher, again)).items():
        assert figure.resolved is False, name
    found = figures(Sets(worse, teacher, again))
    assert set(found) == {"psnr", "ssim"}
    for name, figure in found.items():
        assert figure.resolved and figure.excess is not None and figure.excess < 0, name
    assert found["psnr"].value == pytest.approx(20 * np.log10(2 / 1e-2), abs=0.2)


def test_every_need_of_a_metric_is_a_field_or_said_where_it_is_measured_and_has_a_reason() -> None:
    for name, metric in METRICS.items():
        assert metric.needs and set(metric.needs) <= set(REASONS), name
        assert metric.figure is None or all(hasattr(Sets(TWIN, TWIN), need) for need in metric.needs), name
    assert set(lacking("again")) == {"psnr", "ssim", "class_agreement", "attribute_agreement"}
    assert set(lacking("evaluations")) == {"output_error", "worst_timestep_error", "guidance_ratio"}


@pytest.fixture
def with_two_more(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`verify` with two rows more in the table: brightness, of pairs of images; reach, of features."""

    def apart(theirs: np.ndarray, ours: np.ndarray) -> np.ndarray:
        return np.abs(ours - theirs).mean(axis=(1, 2, 3))

    def reach(x: np.ndarray, others: np.ndarray) -> float:
        return float(np.linalg.norm(x.mean(axis=0) - others.mean(axis=0)))

    monkeypatch.setitem(METRICS, "brightness", Metric(("again",), "less", partial(of_pairs, apart)))
    monkeypatch.setitem(METRICS, "reach", Metric(("others",), "less", partial(of_sets, reach)))
    yield importlib.reload(passes.module("verify"))
    monkeypatch.undo()
    with pytest.raises(ValueError, match="should be 'psnr'"):
        importlib.reload(passes.module("verify")).Config.model_validate({"gates": {"brightness": {"max": 1}}})


def test_a_metric_from_outside_goes_through_the_report(tmp_path: Path, with_two_more: ModuleType) -> None:
    teacher = make_denoiser(UNCONDITIONAL_CONFIG, scale=None)
    student = make_denoiser(UNCONDITIONAL_CONFIG, scale=None, seed=1)
    torch.jit.script(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))).save(str(tmp_path / "mine.pt"))
    export = passes.module("export_onnx")
    bundle = export.run(student, export.Config(), make_context(student, tmp_path / "export")).model
    gates = {"brightness": {"max": 1e-3}, "psnr": {"min": -100}}
    given = {"samples": 80, "features": [tmp_path / "mine.pt"], "gates": gates}
    config = with_two_more.Config.model_validate({"rounds": 10, "batches": [], "starts": 0, **given})
    context = dataclasses.replace(make_context(teacher, tmp_path), allow_pickle=True)
    with_two_more.run(bundle, config, context)
    report = read(tmp_path / "files")
    assert report.verdict == "fail" and [gate.name for gate in report.gates if gate.passed is False] == ["brightness"]
    assert report.quality["brightness"].resolved and report.quality["brightness"].value > 1e-3
    assert report.spaces["mine.pt"].metrics["reach"].value > 0
    text = page(report, [], None)
    assert all(f'<th scope="row">{name} ↓</th>' in text for name in ("brightness", "reach (mine.pt)"))
    with pytest.raises(ValueError, match="a gate on reach needs at least 640 samples"):
        with_two_more.Config.model_validate({"gates": {"reach": {"max": 1}}})

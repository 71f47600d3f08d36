"""Injected faults are what they are said to be, and leave the rest alone."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import faults, verifier_power
from compress.runtime import Bundle

ROOT = Path(__file__).parents[2]
LABELS = np.arange(100) % 10


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle(ROOT / "exported" / "digits-edge" / "onnx", threads=1)


def output(bundle: Bundle) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((2, *bundle.sample_shape), dtype=np.float32)
    return bundle.denoise(noise, 500, {"class_labels": np.array([3, 7])})


@pytest.mark.parametrize("name", ["weights_noised", "quantizer_saturated"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fault_of_the_file_changes_what_it_computes(bundle: Bundle, tmp_path: Path, name: str, seed: int) -> None:
    faulty = faults.OF_BUNDLE[name](bundle, tmp_path / "faulty", seed)
    assert not np.array_equal(output(faulty), output(bundle))
    assert np.isfinite(output(faulty)).all()
    again = faults.OF_BUNDLE[name](bundle, tmp_path / "again", seed)
    assert (again.path / "denoiser.onnx").read_bytes() == (faulty.path / "denoiser.onnx").read_bytes()
    before, after = (onnx.load(b.path / "denoiser.onnx").graph for b in (bundle, faulty))
    assert [node.op_type for node in before.node] == [node.op_type for node in after.node]
    old = {tensor.name: tensor for tensor in before.initializer}
    changed = [tensor.name for tensor in after.initializer if tensor != old.get(tensor.name)]
    assert len(changed) == 1, "one tensor alone"


def test_seeds_choose_different_places(bundle: Bundle, tmp_path: Path) -> None:
    for name in ("weights_noised", "quantizer_saturated"):
        made = [faults.OF_BUNDLE[name](bundle, tmp_path / f"{name}{seed}", seed) for seed in range(4)]
        assert len({(b.path / "denoiser.onnx").read_bytes() for b in made}) > 1


@pytest.mark.parametrize(("seed", "scale"), [(0, 1.5), (1, 2.5)])
def test_guidance_is_off_by_a_half(bundle: Bundle, tmp_path: Path, seed: int, scale: float) -> None:
    faulty = faults.guidance_off(bundle, tmp_path / "faulty", seed)
    assert faulty.guidance["scale"] == scale
    assert np.array_equal(output(faulty), output(bundle))


def test_two_timesteps_are_swapped(bundle: Bundle, tmp_path: Path) -> None:
    faulty = faults.timesteps_swapped(bundle, tmp_path / "faulty", 5)
    one, two = ([step.timestep for step in b.steps] for b in (bundle, faulty))
    moved = [i for i in range(len(one)) if one[i] != two[i]]
    assert len(moved) == 2 and moved[1] == moved[0] + 1
    assert sorted(one) == sorted(two)


def test_dropped_class_is_drawn_as_the_next() -> None:
    samples = LABELS.astype(np.float32).reshape(-1, 1, 1, 1) + np.arange(100).reshape(-1, 1, 1, 1) / 1000
    found = faults.class_dropped(samples, LABELS, samples, 0)
    wrong = np.floor(found.ravel()) != LABELS
    (dropped,) = np.unique(LABELS[wrong])
    assert wrong.sum() == 10 and set(np.floor(found.ravel()[wrong])) == {(dropped + 1) % 10}


def test_collapsed_classes_keep_three_images() -> None:
    samples = np.arange(100, dtype=np.float32).reshape(-1, 1, 1, 1)
    found = faults.mode_collapse(samples, LABELS, samples, 0).ravel()
    for label in range(10):
        assert 1 < len(np.unique(found[label == LABELS])) <= faults.MODES
        assert set(found[label == LABELS] % 10) == {label}


def test_memorised_samples_are_near_training_images() -> None:
    random = np.random.default_rng(0)
    samples, training = (random.standard_normal((n, 1, 4, 4)).astype(np.float32) for n in (30, 50))
    found = faults.memorised(samples, LABELS[:30], training, 0)
    distances = np.abs(found[:, None] - training[None]).max(axis=(2, 3, 4))
    assert (distances.min(axis=1) < 0.1).all() and found.dtype == np.float32


def test_every_fault_has_somebody_to_blame() -> None:
    assert set(faults.BLAME) == set(faults.OF_BUNDLE) | set(faults.OF_SAMPLES)
    gated = set(verifier_power.limits())
    for fault, names in faults.BLAME.items():
        assert set(names) & gated, f"no gate could blame {fault}"


def test_table_counts_what_was_caught_and_blamed() -> None:
    results = {
        "digits-edge/clean/0": {"verdict": "pass", "failed": []},
        "digits-edge/clean/1": {"verdict": "fail", "failed": ["psnr"]},
        "digits-edge/guidance_off/0": {"verdict": "fail", "failed": ["guidance_ratio"]},
        "digits-edge/guidance_off/1": {"verdict": "fail", "failed": ["psnr"]},
        "digits-edge/guidance_off/2": {"verdict": "pass", "failed": []},
    }
    rows = verifier_power.table(results).splitlines()
    (alarm,) = [row for row in rows if "exported/digits-edge" in row]
    assert "| 2 | 1 failed (9% … 91%) | psnr |" in alarm
    (caught,) = [row for row in rows if "guidance off" in row]
    assert "| 3 | 2 caught" in caught and "1 blamed" in caught


def test_trials_of_one_student_share_no_noise_and_faults_all_come() -> None:
    found = verifier_power.trials(12, 2)
    assert len({trial.name for trial in found}) == len(found)
    clean = [trial.number for trial in found if trial.student == "digits-edge" and not trial.fault]
    assert len({number % verifier_power.PLACES for number in clean}) == 12
    assert {trial.fault for trial in found} == {"", *faults.BLAME}

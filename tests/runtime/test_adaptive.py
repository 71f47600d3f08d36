"""Steps that adapt: nothing changes at tolerance 0, easy images need few steps, and time is kept to."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from compress.diffusion.sampling import Sampling
from compress.errors import BundleError, PassError
from compress.passes import export_onnx
from compress.runtime import Bundle
from compress.runtime.adaptive import Grid, solve_adaptively
from compress.runtime.sampling import solve
from tests.conftest import CLASS_CONFIG, make_context, make_denoiser
from tests.runtime.test_bundle import arrays, assert_close_db, edit, inputs_for

SPREAD = 0.3  # standard deviation of the Gaussian data


def sampling(solver: str, steps: int, **more: object) -> Sampling:
    timesteps = tuple(999 - i * 1000 // steps for i in range(steps))
    return Sampling(
        timesteps=timesteps, solver=solver, prediction_type="sample", beta_schedule="squaredcos_cap_v2", **more
    )


def grid_of(given: Sampling) -> Grid:
    levels = dict(zip(("alpha", "sigma"), given.levels(), strict=True))
    return Grid.read(Path(), given.steps(), {"solver": given.solver, "levels": levels})


def gaussian(given: Sampling, mean: np.ndarray | float = 0.5):
    """The exact denoiser of data N(mean, SPREAD²): x̂_0 = mean + α·s²/(α²s² + σ²)·(x − α·mean)."""
    cumulative = given.alphas_cumprod.numpy()

    def denoise(sample: np.ndarray, timesteps: np.ndarray, items: np.ndarray) -> np.ndarray:
        level = cumulative[timesteps][:, None, None, None]
        alpha, variance = np.sqrt(level), 1 - level
        middle = mean if np.isscalar(mean) else mean[items][:, None, None, None]
        gain = alpha * SPREAD**2 / (level * SPREAD**2 + variance)
        return (middle + gain * (sample - alpha * middle)).astype(np.float32)

    return denoise


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((count, 1, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
@pytest.mark.parametrize("final", ["clean", "first"])
@pytest.mark.parametrize("steps", [6, 20])
def test_tolerance_0_is_the_solver(solver: str, final: str, steps: int) -> None:
    given = sampling(solver, steps, final=final)
    exact = gaussian(given)
    wanted = solve(lambda x, t: exact(x, np.full(len(x), t), np.arange(len(x))), noise(3), given.steps())
    found, evaluations = solve_adaptively(exact, noise(3), grid_of(given), 0.0)
    assert_close_db(wanted, found, 100)
    assert evaluations.tolist() == [steps] * 3


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_error_and_evaluations_follow_the_tolerance(solver: str) -> None:
    given = sampling(solver, 100)
    exact, start = gaussian(given), noise(4)
    # the flow of a Gaussian maps noise linearly: x_0 = mean + SPREAD·(x_T − α_T·mean)/√(α_T²·SPREAD² + σ_T²)
    level = float(given.alphas_cumprod[given.timesteps[0]])
    truth = 0.5 + SPREAD * (start - level**0.5 * 0.5) / np.sqrt(level * SPREAD**2 + 1 - level)
    errors, counts = [], []
    for tolerance in (0.03, 0.003, 0.0003):
        found, evaluations = solve_adaptively(exact, start, grid_of(given), tolerance)
        errors.append(float(np.sqrt(np.square(found - truth).mean())))
        counts.append(evaluations.mean())
    assert errors[0] > errors[1] > errors[2] and counts[0] < counts[1] < counts[2] <= 100
    assert errors[0] < 10 * 0.03 and errors[1] < 10 * 0.003
    assert counts[0] < 20


def test_an_image_that_is_known_takes_two_evaluations() -> None:
    given = sampling("ddim", 50)
    found, evaluations = solve_adaptively(lambda x, t, items: np.full_like(x, 0.25), noise(2), grid_of(given), 1e-6)
    assert evaluations.tolist() == [2, 2]
    np.testing.assert_allclose(found, 0.25, atol=1e-6)


def test_every_image_goes_its_own_way() -> None:
    given = sampling("dpmpp_2m", 40)
    means = np.array([0.0, 3.0, -0.5], dtype=np.float32)
    together, evaluations = solve_adaptively(gaussian(given, means), noise(3), grid_of(given), 0.01)
    assert len(set(evaluations.tolist())) > 1
    for i in range(3):
        one, count = solve_adaptively(gaussian(given, means[i : i + 1]), noise(3)[i : i + 1], grid_of(given), 0.01)
        assert count[0] == evaluations[i]
        np.testing.assert_array_equal(one[0], together[i])


def test_time_is_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    given = sampling("ddim", 50)
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def slow(sample: np.ndarray, timesteps: np.ndarray, items: np.ndarray) -> np.ndarray:
        clock[0] += 1.0
        return gaussian(given)(sample, timesteps, items)

    for seconds, most in ((0.1, 1), (1.5, 1), (7.5, 7), (1000.0, 50)):
        clock[0] = 0.0
        found, evaluations = solve_adaptively(slow, noise(2), grid_of(given), 0.0, seconds=seconds)
        assert np.isfinite(found).all()
        assert evaluations.max() <= most and evaluations.max() >= min(most, 50) - 1, seconds


def test_bundle_keeps_the_quality_that_was_calibrated(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG, steps=12)
    result = export_onnx.run(model, export_onnx.Config(adaptive=True), make_context(model, tmp_path))
    bundle = Bundle(result.model.path, threads=1)
    start, _, conditions = inputs_for(model, 3)
    given = arrays(conditions)
    whole = bundle.sample(start.numpy(), **given)
    same, evaluations = bundle.sample_adaptively(start.numpy(), tolerance=0.0, **given)
    assert_close_db(whole, same, 80)
    assert evaluations.tolist() == [12, 12, 12]
    table = bundle.manifest["sampling"]["adaptive"]
    assert table == result.notes["adaptive"]
    assert [row["evaluations"] for row in table] == sorted(row["evaluations"] for row in table)
    row = table[len(table) // 2]
    found, _ = bundle.sample_adaptively(start.numpy(), psnr=row["psnr"], **given)
    wanted, _ = bundle.sample_adaptively(start.numpy(), tolerance=row["tolerance"], **given)
    assert_close_db(wanted, found, 20)
    with pytest.raises(BundleError, match="more than adaptive steps reach"):
        bundle.sample_adaptively(start.numpy(), psnr=250.0, **given)
    with pytest.raises(BundleError, match="give psnr, tolerance or milliseconds"):
        bundle.sample_adaptively(start.numpy(), **given)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda manifest: manifest["sampling"].update(distilled=True), "steps were distilled"),
        (lambda manifest: manifest["sampling"].pop("levels"), "export it again"),
        (lambda manifest: manifest["sampling"].pop("adaptive", None), "no quality was calibrated"),
    ],
)
def test_what_cannot_adapt_says_why(exported, tmp_path: Path, change, said: str) -> None:
    folder = Path(shutil.copytree(exported("class")[1], tmp_path / "bundle"))
    edit(folder, change)
    bundle = Bundle(folder, threads=1)
    with pytest.raises(BundleError, match=said):
        bundle.sample_adaptively(noise(1), psnr=30.0, class_labels=np.array([1]))


def test_a_fixed_batch_is_refused_before_it_is_exported(tmp_path: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    with pytest.raises(PassError, match="batch: 1"):
        export_onnx.run(model, export_onnx.Config(adaptive=True, batch=4), make_context(model, tmp_path))

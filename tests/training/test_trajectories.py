"""Trajectories are drawn once: what is there is used, whatever drew it; what is missing or damaged is drawn."""

from pathlib import Path

import pytest
import torch

from compress.files import cache_folder
from compress.model.denoiser import Denoiser
from compress.model.scalars import GUIDANCE_SCALE
from compress.training import trajectories
from tests.conftest import CLASS_CONFIG, make_context, make_denoiser


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path))
    monkeypatch.setattr(trajectories, "AT_ONCE", 4)
    return tmp_path / "trajectories"


def drawn(model: Denoiser, count: int, **more: object) -> trajectories.Trajectories:
    return trajectories.drawn(model, count, make_context(model, cache_folder()), **more)


def states(model: Denoiser, count: int, **more: object) -> torch.Tensor:
    return drawn(model, count, **more).states


def test_drawing_goes_on_where_it_was_stopped(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_denoiser(CLASS_CONFIG)
    whole = states(model, 10)
    files = sorted(cache.rglob("*.safetensors"))
    assert len(files) == 3
    files[1].write_bytes(files[1].read_bytes()[:100])
    files[2].unlink()
    walks = []
    walk = trajectories.walk
    monkeypatch.setattr(trajectories, "walk", lambda *given: walks.append(1) or walk(*given))
    assert torch.equal(states(model, 10), whole) and len(walks) == 2
    assert torch.equal(states(model, 10), whole) and len(walks) == 2
    assert torch.equal(states(model, 8), whole[:, :8]) and len(walks) == 2, "a smaller count is the beginning"
    assert not torch.equal(states(make_denoiser(CLASS_CONFIG, seed=1), 10), whole) and len(walks) == 5
    assert not torch.equal(states(model, 10, scales=(1.0, 4.0)), whole) and len(walks) == 8


def test_those_left_to_an_earlier_pass_are_other_ones(cache: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    whole = drawn(model, 12, scales=(1.0, 4.0))
    rest = drawn(model, 4, scales=(1.0, 4.0), skip=8)
    assert torch.equal(rest.states, whole.states[:, 8:])
    assert all(torch.equal(value, whole.conditions[name][8:]) for name, value in rest.conditions.items())
    odd = states(model, 4, skip=3)
    assert odd.shape[1] == 4 and not torch.isin(odd[0], states(model, 3)[0]).any()


def test_scales_belong_to_their_trajectories(cache: Path) -> None:
    model = make_denoiser(CLASS_CONFIG)
    walked = drawn(model, 6, scales=(1.0, 4.0))
    one = {name: value[5:] for name, value in walked.conditions.items()}
    assert 1 <= float(one[GUIDANCE_SCALE]) <= 4
    again = trajectories.walk(model, walked.states[0, 5:], one)
    assert torch.allclose(again, walked.states[:, 5:], atol=1e-4)


def test_files_filled_together_are_those_of_one_at_a_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU; the arithmetic of larger batches alone may differ."""
    model = make_denoiser(CLASS_CONFIG)
    own = states(model, 14, scales=(1.0, 4.0))
    names = sorted(file.name for file in cache.rglob("*.safetensors"))
    for file in cache.rglob("*.safetensors"):
        if "-000004-" not in file.name:
            file.unlink()
    monkeypatch.setattr(trajectories, "_at_once", lambda files: [files] if files else [])
    walks = []
    walk = trajectories.walk
    monkeypatch.setattr(trajectories, "walk", lambda *given: walks.append(len(given[1])) or walk(*given))
    torch.testing.assert_close(states(model, 14, scales=(1.0, 4.0)), own, rtol=1e-4, atol=1e-5)
    assert walks == [10], "all but those of the file that was left"
    assert sorted(file.name for file in cache.rglob("*.safetensors")) == names
    torch.testing.assert_close(states(model, 14, scales=(1.0, 4.0)), own, rtol=1e-4, atol=1e-5)
    assert walks == [10]

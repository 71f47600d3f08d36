"""The engine: reuse, resume, ownership of folders, and bad luck."""

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import SafetensorError

from compress import engine
from compress.errors import CompressError, OutputError, PassError
from compress.files import write_json
from compress.model.reference import silent
from compress.pipeline import checkpoint
from compress.recipe import identity
from compress.recipe.inputs import Options
from compress.recipe.recipe import read
from tests.conftest import SCHEDULER, SHALLOW_CONFIG, make_denoiser, read_json, write_recipe

ROOT = Path(__file__).parents[1]


def options(log: list[str] | None = None, fresh: bool = False) -> Options:
    return Options(torch.device("cpu"), silent, (log if log is not None else []).append, fresh)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    checkpoint.save(make_denoiser(SHALLOW_CONFIG), tmp_path / "teacher")
    return tmp_path / "teacher"


def recipe_text(teacher: Path, passes: list, name: str = "test") -> str:
    return yaml.safe_dump(
        {
            "name": name,
            "checkpoint": str(teacher),
            "data": {"source": "teacher", "count": 40},
            "guidance": {"scale": 2.0, "null_class": 10},
            "sampling": {"steps": 4},
            "passes": passes,
        }
    )


PRUNE = {"prune_channels": {"target": {"macs": 0.6}, "importance": "l2"}}
DISTILL = {"distill": {"steps": 3, "batch_size": 8}}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load(folder).net.state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_second_run_reuses_everything(teacher: Path, tmp_path: Path) -> None:
    recipe = read(write_recipe(tmp_path, recipe_text(teacher, [PRUNE, DISTILL])))
    log: list[str] = []
    engine.apply(recipe, tmp_path / "out", options(log))
    assert not log
    engine.apply(recipe, tmp_path / "out", options(log))
    assert log == ["prune_channels: unchanged, used again", "distill: unchanged, used again"]
    assert not list((tmp_path / "out" / "passes").glob("*.work"))


def test_changed_setting_repeats_that_pass_and_those_after_it(teacher: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, recipe_text(teacher, [PRUNE, DISTILL]))
    engine.apply(read(path), tmp_path / "out", options())
    log: list[str] = []
    engine.apply(read(path, ["passes.distill.steps=4"]), tmp_path / "out", options(log))
    assert log == ["prune_channels: unchanged, used again"]
    log.clear()
    engine.apply(read(path, ["passes.prune_channels.importance=l1"]), tmp_path / "out", options(log))
    assert not log


def test_changed_checkpoint_repeats_everything(teacher: Path, tmp_path: Path) -> None:
    recipe = read(write_recipe(tmp_path, recipe_text(teacher, [PRUNE])))
    engine.apply(recipe, tmp_path / "out", options())
    checkpoint.save(make_denoiser(SHALLOW_CONFIG, seed=5), teacher)
    log: list[str] = []
    engine.apply(recipe, tmp_path / "out", options(log))
    assert not log


def test_changed_code_repeats_everything(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = read(write_recipe(tmp_path, recipe_text(teacher, [PRUNE])))
    engine.apply(recipe, tmp_path / "out", options())
    monkeypatch.setattr(identity, "code_identity", lambda kind: "other")
    log: list[str] = []
    engine.apply(recipe, tmp_path / "out", options(log))
    assert not log


def test_fresh_starts_over(teacher: Path, tmp_path: Path) -> None:
    recipe = read(write_recipe(tmp_path, recipe_text(teacher, [PRUNE])))
    engine.apply(recipe, tmp_path / "out", options())
    log: list[str] = []
    engine.apply(recipe, tmp_path / "out", options(log, fresh=True))
    assert not log


def test_result_folder_is_complete(teacher: Path, tmp_path: Path) -> None:
    recipe = read(write_recipe(tmp_path, recipe_text(teacher, [PRUNE, DISTILL])))
    engine.apply(recipe, tmp_path / "out", options())
    record = read_json(tmp_path / "out" / "record.json")
    assert [entry["name"] for entry in record["passes"]] == ["prune_channels", "distill"]
    assert record["passes"][0]["after"]["macs"] < record["passes"][0]["before"]["macs"]
    assert (tmp_path / "out" / "README.md").read_text().startswith("---")
    assert same(weights(tmp_path / "out" / "student"), weights(tmp_path / "out" / "passes" / "02-distill" / "model"))


def test_teacher_data_is_drawn_once(teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_recipe(tmp_path, recipe_text(teacher, [DISTILL]))
    engine.apply(read(path), tmp_path / "out", options())
    monkeypatch.setattr("compress.model.reference.draw", lambda *_: pytest.fail("drew images again"))
    engine.apply(read(path, ["passes.distill.steps=2"]), tmp_path / "out", options())


def test_folder_of_another_recipe_is_refused(teacher: Path, tmp_path: Path) -> None:
    engine.apply(read(write_recipe(tmp_path, recipe_text(teacher, [PRUNE]))), tmp_path / "out", options())
    before = sorted((tmp_path / "out").rglob("*"))
    other = read(write_recipe(tmp_path, recipe_text(teacher, [PRUNE], name="other"), "other.yaml"))
    with pytest.raises(OutputError, match="belongs to recipe 'test'"):
        engine.apply(other, tmp_path / "out", options(fresh=True))
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_folder_of_other_files_is_refused(teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="no recipe wrote"):
        engine.apply(read(write_recipe(tmp_path, recipe_text(teacher, [PRUNE]))), tmp_path / "out", options(fresh=True))
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_file_as_output_is_refused(teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="is no folder"):
        engine.apply(read(write_recipe(tmp_path, recipe_text(teacher, [PRUNE]))), tmp_path / "out", options())


def test_place_that_cannot_be_written_is_refused(teacher: Path, tmp_path: Path) -> None:
    recipe = read(write_recipe(tmp_path, recipe_text(teacher, [PRUNE])))
    with pytest.raises(OutputError, match="cannot be written"):
        engine.apply(recipe, Path("/proc/no-such-place/out"), options())


def test_full_disk_leaves_earlier_results_alone(teacher: Path, tmp_path: Path) -> None:
    """A real limit on file size stands in for a disk without space: writes fail in the middle of a file."""
    path = write_recipe(tmp_path, recipe_text(teacher, [PRUNE]))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    command = [sys.executable, "-m", "compress", "apply", str(path), "--output", str(tmp_path / "out")]
    done = subprocess.run(command, preexec_fn=limit, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr and "Traceback" not in done.stderr
    assert not list((tmp_path / "out" / "passes").glob("[0-9]*-*/record.json"))
    engine.apply(read(path), tmp_path / "out", options())  # with space again, the same command works
    assert (tmp_path / "out" / "student").is_dir()


def test_loss_that_is_not_finite_names_step_and_checkpoint(teacher: Path, tmp_path: Path) -> None:
    distill = {
        "distill": {"steps": 50, "batch_size": 8, "learning_rate": 1e30, "max_grad_norm": 1e30, "losses": {"task": 1}}
    }
    recipe = read(write_recipe(tmp_path, recipe_text(teacher, [distill])))
    with pytest.raises(PassError, match=r"step \d+.*last good state.*training.safetensors") as caught:
        engine.apply(recipe, tmp_path / "out", options())
    named = Path(str(caught.value).split(") is ")[1].split(";")[0])
    assert named.is_file()


def test_damaged_training_state_is_reported(teacher: Path, tmp_path: Path) -> None:
    recipe = read(write_recipe(tmp_path, recipe_text(teacher, [DISTILL])))
    engine.apply(recipe, tmp_path / "out", options())
    record = read_json(tmp_path / "out" / "passes" / "01-distill" / "record.json")
    work = tmp_path / "out" / "passes" / "01-distill.work"
    work.mkdir()
    (work / "identity").write_text(record["identity"])
    (work / "training.safetensors").write_bytes(b"rubbish")
    write_json(tmp_path / "out" / "passes" / "01-distill" / "record.json", {})
    with pytest.raises(PassError, match="is damaged"):
        engine.apply(recipe, tmp_path / "out", options())


RESUMABLE = """
import sys
import compress.training.loop
compress.training.loop.CHECKPOINT_SECONDS = 0.05
from compress.cli import main
sys.argv = ["compress", *sys.argv[1:]]
main()
"""


def test_killed_training_ends_with_the_same_weights(tmp_path: Path) -> None:
    train = {"train": {"model": SHALLOW_CONFIG, "steps": 80, "batch_size": 16}}
    content = {
        "name": "kill",
        "data": {"source": "npz", "path": "data.npz"},
        "guidance": {"scale": 2.0, "null_class": 10},
        "sampling": {"scheduler": SCHEDULER, "steps": 4},
        "passes": [train],
    }
    import numpy as np

    images = np.random.default_rng(0).integers(0, 255, (30, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.arange(30) % 10)
    path = write_recipe(tmp_path, yaml.safe_dump(content))
    # the number of threads decides the order of sums, so both runs are processes of the same kind
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole = [sys.executable, "-m", "compress", "apply", str(path), "--output", str(tmp_path / "whole")]
    subprocess.run(whole, cwd=ROOT, env=environment, capture_output=True, check=True)
    state = tmp_path / "killed" / "passes" / "01-train.work" / "training.safetensors"
    command = [sys.executable, "-c", RESUMABLE, "apply", str(path), "--output", str(tmp_path / "killed")]
    dice = random.Random(time.time_ns())
    kills = 0
    for _ in range(2):
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        began = state.stat().st_mtime_ns if state.exists() else 0
        while process.poll() is None and (not state.exists() or state.stat().st_mtime_ns == began):
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 0.3))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills, "training was too short to be killed"
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "killed" / "record.json").read_text())
    assert record["passes"][0]["notes"]["resumed_at"] > 0
    assert same(weights(tmp_path / "killed" / "student"), weights(tmp_path / "whole" / "student"))


def test_every_error_is_a_compress_error() -> None:
    assert issubclass(OutputError, CompressError) and issubclass(PassError, CompressError)


def test_error_of_the_system_blames_what_it_was_about(tmp_path: Path) -> None:
    output, full, gone = tmp_path / "out", OSError(errno.ENOSPC, "No space left on device"), "No such file"
    cases = [
        (full, OutputError, "out: cannot be written: No space left on device; free some space"),
        (SafetensorError("I/O error: File too large"), OutputError, "free some space"),
        (FileNotFoundError(errno.ENOENT, gone, str(output / "passes")), OutputError, "out: cannot be written"),
        (FileNotFoundError(errno.ENOENT, gone, "images/7.png"), CompressError, "images/7.png: cannot be read: No such"),
        (ConnectionError("hub.example: timed out"), CompressError, "ConnectionError: hub.example: timed out"),
    ]
    for error, kind, said in cases:
        blamed = engine._blame(output, error)
        assert type(blamed) is kind and said in str(blamed)
        assert ("space" in str(blamed)) == (error is full or "too large" in str(error))


def test_somebodys_folder_in_the_output_is_refused_before_any_work(teacher: Path, tmp_path: Path) -> None:
    recipe = read(write_recipe(tmp_path, recipe_text(teacher, [PRUNE])))
    engine.claim(tmp_path / "out", recipe)
    write_json(tmp_path / "out" / "recipe.json", engine._owner(recipe))
    for place in ("student", "passes/01-prune_channels", "passes/thesis"):
        (tmp_path / "out" / place).mkdir(parents=True)
        (tmp_path / "out" / place / "thesis.txt").write_text("mine")
        if place != "passes/thesis":
            with pytest.raises(OutputError, match=f"{place}: was not written by"):
                engine.apply(recipe, tmp_path / "out", options(fresh=True))
            shutil.move(tmp_path / "out" / place, tmp_path / place.replace("/", "-"))
    engine.apply(recipe, tmp_path / "out", options(fresh=True))
    assert len([path for path in tmp_path.rglob("thesis.txt") if path.read_text() == "mine"]) == 3


def test_passes_that_the_recipe_no_longer_has_go(teacher: Path, tmp_path: Path) -> None:
    for kept in ([PRUNE, DISTILL], [PRUNE]):
        engine.apply(read(write_recipe(tmp_path, recipe_text(teacher, kept))), tmp_path / "out", options())
    assert [path.name for path in (tmp_path / "out" / "passes").iterdir()] == ["01-prune_channels"]


def test_a_finished_pass_is_loaded_once_however_many_ask_for_it(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    truly = checkpoint.load
    monkeypatch.setattr(checkpoint, "load", lambda folder, *more: loaded.append(str(folder)) or truly(folder, *more))
    passes = [PRUNE, {**DISTILL, "as": "first"}, {"distill": {**DISTILL["distill"], "teacher": "prune_channels"}}]
    engine.apply(read(write_recipe(tmp_path, recipe_text(teacher, passes))), tmp_path / "out", options())
    assert sum("01-prune_channels" in folder for folder in loaded) == 1
    before = weights(tmp_path / "out" / "passes" / "01-prune_channels" / "model")
    assert not same(before, weights(tmp_path / "out" / "passes" / "02-first" / "model"))

"""Runs that are killed, interrupted, doubled, out of space, or robbed of their folder.

Kills in training are in test_engine.py, a lock that ends with its process in test_folders.py.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from compress import engine
from compress.contract import Task
from compress.errors import OutputError
from compress.folders import alone
from compress.model.reference import silent
from compress.pipeline import checkpoint
from compress.recipe.inputs import Options
from compress.recipe.recipe import read
from tests.conftest import SHALLOW_CONFIG, make_denoiser, read_json, write_recipe

ROOT = Path(__file__).parents[1]
PRUNE = {"prune_channels": {"target": {"macs": 0.6}, "importance": "l2"}}
DISTILL = {"distill": {"steps": 3, "batch_size": 8}}
VERIFY = {"verify": {"samples": 10, "rounds": 10, "batches": [2], "starts": 0, "judge_accuracy": 0}}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    checkpoint.save(make_denoiser(SHALLOW_CONFIG), folder)
    return folder


def recipe_of(teacher: Path, folder: Path, passes: list) -> Path:
    content = {
        "name": "test",
        "checkpoint": str(teacher),
        "data": {"source": "teacher", "count": 40},
        "guidance": {"scale": 2.0, "null_class": 10},
        "sampling": {"steps": 4},
        "passes": passes,
    }
    return write_recipe(folder, yaml.safe_dump(content))


def options(progress: Any = silent) -> Options:
    return Options(torch.device("cpu"), progress, lambda _: None)


def leftovers(output: Path) -> list[Path]:
    return [path for path in output.rglob("*") if path.name.endswith((".part", ".old"))]


def judged(report: dict[str, Any]) -> dict[str, Any]:
    """What of a report does not depend on how fast the machine was."""
    return {key: report[key] for key in ("quality", "spaces", "probe", "by_class", "reference")}


def stop(command: list[str], output: Path, how: signal.Signals, dice: random.Random) -> tuple[int, str]:
    """Start a command and stop it somewhere in verify: (exit code, what it said)."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background processes ignore it
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    ) as process:
        while process.poll() is None and not list((output / "passes").glob(f".*-verify.{process.pid}.part/files")):
            time.sleep(0.01)
        time.sleep(dice.uniform(0, 1))
        assert process.poll() is None, f"ended before it was stopped: {process.stderr.read()}"
        process.send_signal(how)
        said = process.stderr.read()
        return process.wait(), said


def test_verify_that_was_stopped_and_killed_reports_the_same(teacher: Path, tmp_path: Path) -> None:
    path = recipe_of(teacher, tmp_path, [PRUNE, {"export_onnx": {}}, VERIFY])
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    engine.apply(read(path), whole, options())
    shutil.copytree(whole, stopped)
    for left in ("passes/03-verify", "report.json", "report.html", "record.json"):  # as if it had not come so far
        shutil.rmtree(stopped / left) if (stopped / left).is_dir() else (stopped / left).unlink()
    command = [sys.executable, "-m", "compress", "apply", str(path), "--output", str(stopped)]
    dice = random.Random(time.time_ns())
    code, said = stop(command, stopped, signal.SIGINT, dice)
    assert code == 130 and said.endswith("stopped; the same command continues from here\n") and "Traceback" not in said
    assert not leftovers(stopped) and not (stopped / "report.json").exists()
    code, _ = stop(command, stopped, signal.SIGKILL, dice)
    assert code == -signal.SIGKILL and not (stopped / "report.json").exists()
    engine.apply(read(path), stopped, options())
    assert not leftovers(stopped)
    assert judged(read_json(stopped / "report.json")) == judged(read_json(whole / "report.json"))


def test_a_second_run_in_the_same_folder_is_told_at_once(teacher: Path, tmp_path: Path) -> None:
    recipe = read(recipe_of(teacher, tmp_path, [PRUNE]))
    (tmp_path / "out").mkdir()
    with alone(tmp_path / "out"), pytest.raises(OutputError, match="another run is at work in it"):
        engine.apply(recipe, tmp_path / "out", options())
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    engine.apply(recipe, tmp_path / "out", options())


@pytest.mark.parametrize("deed", ["deleted", "moved"])
def test_a_folder_that_goes_while_the_recipe_runs_is_one_message(teacher: Path, tmp_path: Path, deed: str) -> None:
    recipe, output = read(recipe_of(teacher, tmp_path, [DISTILL])), tmp_path / "out"

    def progress(title: str, total: int) -> AbstractContextManager[Task]:
        if output.exists() and "distill" in title:
            shutil.rmtree(output) if deed == "deleted" else output.rename(tmp_path / "elsewhere")
        return silent(title, total)

    with pytest.raises(OutputError, match=r"out: was moved or deleted while the recipe ran"):
        engine.apply(recipe, output, options(progress))
    assert not output.exists()
    engine.apply(recipe, output, options())
    assert (output / "student").is_dir()


def test_a_small_disk_that_fills_up_is_one_message(teacher: Path, tmp_path: Path) -> None:
    path, disk = recipe_of(teacher, tmp_path, [PRUNE]), tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=48k compress-test {disk}"
    space = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        tried = subprocess.run([*space, mount], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no `unshare` here, so no disk of its own; test_engine.py limits the size of files instead")
    if tried.returncode:
        pytest.skip(f"no tmpfs may be mounted here ({tried.stderr.strip()}); test_engine.py limits the size of files")
    run = f"{sys.executable} -m compress apply {path} --output {disk}/out; code=$?; find {disk}; exit $code"
    command = [*space, f"{mount} && {{ {run}; }}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    faults = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(faults) == 1 and "Traceback" not in done.stderr
    assert "cannot be written" in done.stderr and "free some space" in done.stderr
    assert ".part" not in done.stdout and "record.json" not in done.stdout, json.dumps(done.stdout)

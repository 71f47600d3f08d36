"""Two processes of torchrun: they give one process's weights, survive a death, and say what is wrong once."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from compress import passes
from compress.pipeline import checkpoint
from compress.processes import Processes
from tests.command import compress
from tests.conftest import SHALLOW_CONFIG, make_denoiser, read_json, write_recipe

ROOT = Path(__file__).parents[1]
TRAINING = {"steps": 6, "batch_size": 8, "accumulate": 2, "learning_rate": 0.002, "ema": 0.5}
STOP = {"every": 2, "patience": 9, "images": 8}
PASSES = [
    {"prune_channels": {"target": {"macs": 0.7}, "importance": "l2"}},
    {"distill": {**TRAINING, "states": "trajectory", "trajectories": 100, "early_stop": STOP}},
    {"distill_guidance": TRAINING},
    {"distill_steps": {**TRAINING, "method": "progressive", "sampling_steps": 2}},
    {"distill_steps": {**TRAINING, "as": "match", "method": "distribution", "sampling_steps": 2, "pace": 2}},
]
TRAINED = ("02-distill", "03-distill_guidance", "04-distill_steps", "05-match")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    checkpoint.save(make_denoiser(SHALLOW_CONFIG), folder / "teacher")
    content = {
        "name": "test",
        "checkpoint": str(folder / "teacher"),
        "data": {"source": "teacher", "count": 140},
        "guidance": {"scale": 2.0, "null_class": 10},
        "sampling": {"steps": 4},
        "passes": PASSES,
    }
    return write_recipe(folder, yaml.safe_dump(content))


def two(recipe: Path, output: Path, *more: str, **environment: str) -> subprocess.CompletedProcess:
    """The recipe in two processes, with a cache of their own."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "--no-python"]
    own = {**os.environ, "OMP_NUM_THREADS": "1", "COMPRESS_CACHE": str(output.with_name("kept")), **environment}
    command = [sys.executable, "-m", "tests.ranks", "apply", str(recipe), "--output", str(output), *more]
    return subprocess.run([*launch, *command], cwd=ROOT, env=own, capture_output=True, text=True, check=False)


def weights(output: Path, name: str) -> Mapping[str, torch.Tensor]:
    (file,) = (output / "passes" / name / "model" / "unet").glob("*.safetensors")
    return load_file(file)


def apart(one: Path, other: Path, name: str) -> float:
    """The largest difference of two weights, relative to the largest weight of their tensor."""
    first, second = weights(one, name), weights(other, name)
    assert set(first) == set(second)
    return max(float((first[key] - second[key]).abs().max() / first[key].abs().max().clamp_min(1e-3)) for key in first)


def one(recipe: Path, output: Path, *more: str) -> Path:
    """The recipe in this process, in one thread as each of two has: the number of threads decides the order of sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    done = compress("apply", recipe, "--output", output, *more, folder=ROOT)
    torch.set_num_threads(threads)
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def alone(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return one(recipe, tmp_path_factory.mktemp("alone") / "out")


@pytest.fixture(scope="module")
def both(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("both") / "out"
    done = two(recipe, output)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("result: ") == 1  # the first alone speaks
    return output


def test_two_processes_give_the_weights_of_one(alone: Path, both: Path) -> None:
    for name in TRAINED:
        assert apart(alone, both, name) < 1e-5, name
        assert apart(alone, both, "01-prune_channels") == 0
    shares = {file.name[:22] for file in (both.with_name("kept")).rglob("*.npz")}
    assert len(shares) == 2 and read_json(both / "record.json")["passes"][1]["notes"]["steps"] == TRAINING["steps"]


def test_a_seed_of_its_own_gives_other_weights(recipe: Path, alone: Path, tmp_path: Path) -> None:
    """What the comparison above would find if the processes drew other numbers than one does."""
    one(recipe, tmp_path / "out", "--set", "seed=1")
    for name in TRAINED:
        assert apart(alone, tmp_path / "out", name) > 1e-2, name


def test_split_nets_are_trained_alike(recipe: Path, alone: Path, tmp_path: Path) -> None:
    sharded = [word for name in TRAINED[:3] for word in ("--set", f"passes.{name[3:]}.shard=true")]
    done = two(recipe, tmp_path / "out", *sharded, DIES="0:4")
    assert done.returncode != 0 and (tmp_path / "out" / "passes" / "02-distill.work" / "training.safetensors").is_file()
    done = two(recipe, tmp_path / "out", *sharded)
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "out" / "record.json")["passes"][1]["notes"]["resumed_at"] > 0
    for name in TRAINED[:3]:  # Adam makes much of the last bits of small gradients
        assert apart(alone, tmp_path / "out", name) < 1e-3, name


def test_one_that_dies_ends_both_and_the_same_command_goes_on(recipe: Path, both: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    died = two(recipe, output, DIES="1:3")
    assert died.returncode != 0 and not (output / "record.json").exists()
    shutil.copytree(output, tmp_path / "one")
    done = two(recipe, output)
    assert done.returncode == 0, done.stderr
    one(recipe, tmp_path / "one")
    for ended in (output, tmp_path / "one"):
        assert read_json(ended / "record.json")["passes"][1]["notes"]["resumed_at"] == 3
    for name in TRAINED:
        assert apart(output, tmp_path / "one", name) < 1e-5, name
        first, second = weights(both, name), weights(output, name)
        assert all(first[key].numpy().tobytes() == second[key].numpy().tobytes() for key in first), name


def test_what_is_wrong_is_said_once(recipe: Path, tmp_path: Path) -> None:
    done = two(recipe, tmp_path / "out", "--set", "passes.distill.batch_size=9", "--set", "passes.distill.accumulate=1")
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert said == [
        "error: distill: batch_size: 9 cannot be shared out equally among 2 processes in 2 parts; take a multiple of 2"
    ]


def test_shares_are_all_there_is() -> None:
    shares = [Processes(index, 3).mine(range(8)) for index in range(3)]
    assert sorted(item for share in shares for item in share) == list(range(8))
    assert [Processes(index, 3).main for index in range(3)] == [True, False, False]


def test_passes_that_train_are_run_together() -> None:
    assert [name for name in passes.names() if passes.together(name)] == [
        "compress_decoder", "distill", "distill_guidance", "distill_steps", "train"
    ]  # fmt: skip

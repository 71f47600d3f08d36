"""Hostile input of every kind is refused in one message and harms nothing; what is good passes.

The cases are those of `python -m benchmarks.hostile`: here the ones that were once found by trying, and a few by seed.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.hostile import running
from benchmarks.hostile.__main__ import KINDS, cases, drawn, table
from benchmarks.hostile.case import Case

DAWDLES = 0.75  # seconds of processor time
SEEDS = 2  # of each kind; the benchmark draws many
# Every input that once did harm, hung, ended in a trace, or was taken without a word.
FOUND: dict[str, tuple[str, ...]] = {
    "recipes and --set": (
        "aliases in a pass", "500 lists in each other as seed", "--set of 3,000 brackets", "!!bool x as seed",
        "!!int '' as seed", "!!float '' as seed", "an integer of 5,000 digits as seed", "merges itself",
        "predicton_type",
        "an unknown key of train.model", "as within and without", "seed: yes", "steps: true", "null_class: true",
        "betas above 1", "num_train_timesteps: 1000000000", "a good recipe",
    ),
    "checkpoints": (
        "unet/config.json nested 100,000 deep", "structure.json nested 100,000 deep",
        "sampling.json nested 100,000 deep",
        "unet/config.json is a named pipe", "config layers_per_block: 2000",
        "scheduler num_train_timesteps: 1000000000",
        "float64 that is infinite in float32", "integers", "booleans", "complex numbers", "fp8",
        "scheduler beta_start: -0.1", "scheduler beta_end: 1.5", "scheduler trained_betas: [0.1]",
        "sampling {'guidance': {'kind': 'cfg', 'scale': 2.0}}",
        "sampling {'guidance': {'kind': 'cfg', 'scale': 2.0, 'null_class': 99}}",
        "config sample_size: None", "config sample_size: 8", "config sample_size: -1", "config sample_size: 7",
        "config sample_size: 1000000000", "config attention_head_dim: -1", "config norm_num_groups: -1",
        "config norm_eps: None", "config downsample_padding: 100", "config freq_shift: None",
        "pickle, nested", "pickle, on the meta device", "pickle, quantized", "pickle, sparse", "pickle, integer keys",
        "structure {'shapes': {'conv_in.weight': [1073741824, 1073741824, 1073741824, 1073741824]}}",
        "structure {'shapes': {'conv_in.weight': [True, True, True, True]}}",
        "learned variance", "inpainting", "upscaling", "labels as channels", "a LoRA beside", "a transformer",
        "a single file", "TorchScript without trust", "a good checkpoint",
    ),
    "bundles": (
        "batch: 1", "classes: 10", "timesteps: x", "sampling.clip_range: x", "sampling.guidance: None", "inputs: None",
        "sampling.steps.0.clean_from_sample: x", "bundle.json nested 100,000 deep", "bundle.json is a named pipe",
        "graph: other names", "graph: another type", "graph: another shape", "graph: another rank", "nothing is listed",
        "the model is not listed", "the model is outside", "the model's path is absolute",
        "external data that is not listed", "negative bytes", "verify of a text-conditional bundle",
        "a good graph", "good external data",
    ),
    "data": ("a PNG of 12,000 × 12,000", "npz: a named pipe", "good arrays", "good pictures"),
    "arguments": (
        "sample --out 'kept'", "sample --out 'kept/'", "sample --out 'link'", "compare --out 'kept'",
        "sample --count 100000000000", "sample --out '/proc/x.png'", "sample --threads 100000",
        "sample --guidance-scale inf", "a good sample",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in FOUND.items() for name in names])
def test_what_was_found_by_trying(kind: str, name: str, tmp_path: Path) -> None:
    assert running.judged(KINDS[kind][0][name], tmp_path)[0] == []


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("kind", KINDS)
def test_drawn_cases(kind: str, seed: int, tmp_path: Path) -> None:
    assert running.judged(drawn(kind, seed), tmp_path)[0] == []


def test_a_seed_draws_one_case_and_the_count_is_held() -> None:
    found = cases(2000, 7)
    assert len(found) == 2000
    assert {kind for kind, _ in found} == set(KINDS)
    drawn_twice = [(drawn(kind, 3).name, drawn(kind, 3).name) for kind in KINDS]
    assert all(one == two for one, two in drawn_twice)
    assert sum(case.valid is True for case in found.values()) > 100, "what is good must be among them"


def test_table_counts_every_kind() -> None:
    rows = [{"kind": "data", "became": "refused"}, {"kind": "data", "became": "failed"}]
    assert "| data | 2 | 1 | 0 | 1 |" in table(rows) and "| all | 2 | 1 | 0 | 1 |" in table(rows)


# The judge of the cases catches what they are there for.


def end(code: int, *lines: str, err: bool = True) -> Callable[[], None]:
    def command() -> None:
        os.write(2 if err else 1, "".join(f"{line}\n" for line in lines).encode())
        raise SystemExit(code)

    return command


def remove() -> None:
    Path("precious").unlink()
    end(2, "error: no")()


def leave(name: str) -> Callable[[], None]:
    def command() -> None:
        Path(name).write_text("x")
        end(2, "error: no")()

    return command


def fall() -> None:
    raise KeyError("x")


def compute() -> None:
    while True:
        pass


def dawdle() -> None:
    while time.process_time() < DAWDLES:
        pass
    end(2, "error: no")()


def die() -> None:
    os.kill(os.getpid(), 9)


@pytest.mark.parametrize(
    ("command", "valid", "said"),
    [
        (end(2, "error: no"), False, None),
        (end(0), True, None),
        (end(0), None, None),
        (end(0), False, "ended with 0"),
        (end(2, "error: no"), True, "ended with 2"),
        (end(1, "error: no"), None, "ended with 1"),
        (end(2), False, "0 messages"),
        (end(2, "no"), False, "0 messages"),
        (end(2, "error: one", "error: two"), False, "2 messages"),
        (end(2, "error: at 0x7f0123456789"), False, "leaks"),
        (end(2, "error: see errors.pydantic.dev"), False, "leaks"),
        (end(2, "error: " + "x" * 3000), False, "3,007 characters"),
        (remove, False, "removed place/precious"),
        (leave("precious"), False, "changed place/precious"),
        (leave("new"), False, "left place/new behind"),
        (leave(".new.5.part"), False, "half-written"),
        (leave("../outside"), False, "left outside behind"),
        (fall, False, "leaks Traceback"),
        (die, None, "ended with -9"),
        (lambda: time.sleep(60), False, "hangs"),
        (compute, None, "hangs"),
        (dawdle, False, "took 0."),
    ],
)
def test_the_judge_sees(
    command: Callable[[], None],
    valid: bool | None,
    said: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(running, "main", command)
    monkeypatch.setattr(running, "SECONDS", 0.5)
    case = Case("fake", lambda folder: (folder / "precious").write_text("years of work"), [("sample",)], valid)
    found, _ = running.judged(case, tmp_path)
    assert (found == []) if said is None else (said in found[0])


def test_the_judge_sees_that_two_commands_disagree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "main", lambda: end(2, f"error: {running.sys.argv[1]}")())
    case = Case("fake", lambda folder: None, [("plan",), ("apply",)])
    assert "disagree" in running.judged(case, tmp_path)[0][0]

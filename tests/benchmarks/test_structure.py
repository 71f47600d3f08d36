"""The table of pruning and distillation: equal budgets, what is kept, and what it says."""

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import structure
from compress import passes
from tests.conftest import read_json

PUBLISHED = [name for name, row in structure.ROWS.items() if row.varied == "papers"]


def figure(value: float, half: float) -> dict[str, Any]:
    return {"value": value, "interval": [value - half, value + half]}


def row(error: float, half: float = 0.001) -> dict[str, Any]:
    quality = {name: figure(0.9, 0.01) for name in ("ssim", "psnr", "class_accuracy")}
    frechet = {"excess": 0.1, "excess_interval": [0.0, 0.2]}
    return {
        "macs": 0.55,
        "params": 0.6,
        "seconds": 1.0,
        "quality": quality | {"output_error": figure(error, half)},
        "spaces": {"classifier": {"metrics": {"frechet_real": frechet}}},
    }


@pytest.mark.parametrize("name", structure.ROWS)
def test_rows_are_legal_and_train_on_as_many_images(name: str) -> None:
    images = 0
    for kind, settings in structure.ROWS[name].passes:
        config = passes.module(kind).Config.model_validate(settings)
        if kind == "distill":
            images += config.steps * config.batch_size
            assert config.learning_rate == (4e-4 if name == "learning rate: 4e-4" else structure.RATE)
    assert images == structure.STEPS * structure.BATCH * (2 if name == "batches of 128" else 1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_methods_end_before_export(name: str) -> None:
    kinds = [kind for kind, _ in structure.ROWS[name].passes]
    assert kinds[-1] == "distill" and kinds[0] in ("prune_channels", "prune_blocks")


def test_rows_differ() -> None:
    assert len(PUBLISHED) == 3
    assert len({row.identity() for row in structure.ROWS.values()}) == len(structure.ROWS)


def test_table_is_sorted_within_groups_and_says_what_is_resolved() -> None:
    base = next(iter(structure.ROWS))
    rows = {
        base: row(0.01),
        "losses: task": row(0.0115),
        "losses: output": row(0.02),
        "losses: output + feature + task": row(0.005),
    }
    lines = structure.table(rows).splitlines()[2:6]
    assert [line.split(" | ")[1] for line in lines] == [
        base, "losses: output + feature + task", "losses: task", "losses: output"
    ]  # fmt: skip
    assert [line.split(" | ")[-2] for line in lines] == ["", "better", "not resolved", "worse"]
    assert f"4 of {len(structure.ROWS)} rows have been run" in structure.table(rows)


def test_worst_space_counts() -> None:
    spaces = {"a": {"metrics": {"frechet_ratio": figure(1.0, 0.1)}}, "b": {"metrics": {}}}
    spaces["c"] = {"metrics": {"frechet_ratio": figure(1.2, 0.1)}}
    assert structure.worst_ratio({"spaces": spaces})["value"] == 1.2


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the rows that are trained; the third breaks off."""
    trained: list[str] = []
    names = {id(each): name for name, each in structure.ROWS.items()}

    class Judges:
        def judge(self, student: object) -> dict[str, Any]:
            return row(0.01)

    def train(_judges: object, asked: structure.Row, _output: Path) -> tuple[None, float]:
        trained.append(names[id(asked)])
        if len(trained) == 3:
            raise KeyboardInterrupt
        return None, 1.0

    monkeypatch.setattr(structure, "Judges", Judges)
    monkeypatch.setattr(structure, "train", train)
    monkeypatch.setattr(structure, "RESULTS", tmp_path)
    return trained


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["structure", *words])
    structure.main()


def test_what_is_there_is_not_run_again(runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third, *_ = structure.ROWS
    with pytest.raises(KeyboardInterrupt):
        call(monkeypatch, "--rows", first, second, third)
    kept = read_json(tmp_path / "structure.json")["rows"]
    assert set(kept) == {first, second}
    call(monkeypatch, "--rows", first, third)
    assert runs == [first, second, third, third]
    monkeypatch.setattr(structure, "SEED", 7)  # other noise, other figures
    call(monkeypatch, "--rows", first)
    assert runs[-1] == first and "3 of" in (tmp_path / "structure.md").read_text()


def test_unknown_row_is_refused(runs: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        call(monkeypatch, "--rows", "no such row")
    assert "no row is called 'no such row'" in capsys.readouterr().err and not runs

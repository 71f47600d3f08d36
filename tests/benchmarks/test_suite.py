"""`python -m benchmarks`: what has run is kept, what is short is said."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as suite
from benchmarks import edge, peer_table
from benchmarks.bars import BARS, finish, rewrite_between
from compress.report.report import read
from tests.conftest import read_json


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the benchmarks that were started; `edge` is short, `peers` breaks off."""
    started: list[str] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess:
        name = command[-1].removeprefix("benchmarks.")
        started.append(name)
        return subprocess.CompletedProcess(command, {"edge": 1, "peers": -9}.get(name, 0))

    monkeypatch.setattr(suite.subprocess, "run", run)
    monkeypatch.setattr(suite, "STATE", tmp_path / "suite.json")
    monkeypatch.setattr(suite, "code", lambda: "this code")
    return started


def call(monkeypatch: pytest.MonkeyPatch, *names: str) -> object:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *names])
    with pytest.raises(SystemExit) as ended:
        suite.main()
    return ended.value.code


def test_what_has_run_on_this_code_is_not_run_again(runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "teacher") == 0
    assert call(monkeypatch, "teacher") == 0
    assert runs == ["teacher"]
    monkeypatch.setattr(suite, "code", lambda: "other code")
    call(monkeypatch, "teacher")
    call(monkeypatch, "teacher", "--fresh")
    assert runs == ["teacher"] * 3


def test_short_bars_are_remembered_and_end_with_one(runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        assert call(monkeypatch, "teacher", "edge") == "bars are short in edge"
    assert runs == ["teacher", "edge"]


def test_stopped_benchmark_is_not_kept(runs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "peers: broke off with exit code -9" in str(call(monkeypatch))
    assert set(read_json(suite.STATE)) == set(suite.SUITE) - {"peers"}


def test_unknown_name_is_refused(runs: list[str], monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert call(monkeypatch, "egde") == 2
    assert "no benchmark is called egde" in capsys.readouterr().err and not runs


def test_every_benchmark_is_a_module() -> None:
    for name in suite.SUITE:
        assert importlib.util.find_spec(f"benchmarks.{name}"), name


@pytest.mark.parametrize(("value", "code", "word"), [(8.0, 0, "ok"), (7.999, 1, "short"), (float("nan"), 1, "short")])
def test_bar_says_what_it_is_held_to(value: float, code: int, word: str, capsys) -> None:
    kind, limit = BARS["edge_call_speedup"]
    assert (kind, limit) == ("min", 8.0)
    with pytest.raises(SystemExit) as ended:
        finish({"edge_call_speedup": value})
    assert ended.value.code == code
    assert capsys.readouterr().out.strip() == f"edge_call_speedup: {value:.4f} (bar: ≥ 8) {word}"


def test_tables_of_the_readme_are_those_of_the_results() -> None:
    readme = (suite.ROOT / "README.md").read_text(encoding="utf-8")
    results = suite.ROOT / "benchmarks" / "results"

    def between(name: str) -> str:
        return readme.partition(f"<!-- {name} -->\n")[2].partition(f"\n<!-- /{name} -->")[0]

    assert between("peers") == peer_table.summary(read_json(results / "peers.json"))
    assert between("edge") == edge.table(read(suite.ROOT / "exported" / "digits-edge"))
    trials = read_json(results / "verifier_power.json")["trials"]
    faulty = [found for name, found in trials.items() if "/clean/" not in name]
    caught = sum(found["verdict"] == "fail" for found in faulty)
    alarms = sum(found["verdict"] == "fail" for name, found in trials.items() if "/clean/" in name)
    assert f"Of {len(faulty)} students with a fault injected" in readme and f"failed {caught}, every" in readme
    assert f"of {len(trials) - len(faulty)} good ones it failed {alarms or 'none'}" in readme


def test_text_between_comments_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    file.write_text("a\n<!-- x -->\nold\n<!-- /x -->\nb\n")
    rewrite_between(file, "x", "new")
    assert file.read_text() == "a\n<!-- x -->\nnew\n<!-- /x -->\nb\n"


def test_bars_of_peers_are_our_fastest_engine_to_the_fastest_peer() -> None:
    def cell(model: str, batch: int, **ms: float) -> dict:
        names = {"own": peer_table.TOOLKIT, "other_engine": "this toolkit's int8 file on another engine"}
        rows = [{"name": names.get(n, n.replace("_", " ")), "ms": v, "sqnr_db": 30 - v} for n, v in ms.items()]
        return {"model": model, "batch": batch, "rows": [*rows, {"name": "NNCF, failed", "reason": "no"}]}

    cells = [cell("digits", 1, own=3.0, peer=4.0, slow=5.0, other_engine=2.0), cell("text", 8, own=2.0, peer=1.5)]
    assert peer_table.bars({"cells": cells}) == {"peers_digits_1": 0.5}  # in the second none of ours is as exact
    cells[1]["rows"][0]["sqnr_db"] = 28.5
    assert peer_table.bars({"cells": cells})["peers_text_8"] == pytest.approx(4 / 3)

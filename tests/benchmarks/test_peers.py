"""Peers: the talk with worker processes, what becomes of those that fail, what is kept, what is said."""

import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import peer_process, peer_worker, peers
from benchmarks.peer_models import Files, Subject
from benchmarks.peer_process import PeerError, Worker
from benchmarks.peer_table import EAGER, TOOLKIT, table, words
from benchmarks.peers import Peer

FAKE = Path(__file__).with_name("fake_worker.py")
OTHERS = {"rough": "rough int8", "exact": "exact int8", "refuses": "refusing int8", "killed": "killed int8"}
PLACES = {peer_process.OWN: (Path(sys.executable), {"numpy": "1"}), "absent": "cannot be installed: no network"}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    sample = np.random.default_rng(1).standard_normal((8, 1, 4, 4))
    np.savez(tmp_path / "held_out.npz", sample=sample, timestep=np.arange(8))
    return Files(tmp_path / "calibration.npz", tmp_path / "held_out.npz", sample, {("unet", 1): tmp_path})


def row_of(rows: list[dict], name: str) -> dict:
    return next(row for row in rows if row["name"] == name)


def measured(files: Files, folder: Path, *more: Peer) -> list[dict]:
    asked = [Peer(EAGER, "eager", "unet"), Peer(TOOLKIT, "toolkit", "unet"), *more]
    folder.mkdir()
    return peers.measure(asked, 1, 1, 6, files, PLACES, folder, partial(Worker, script=FAKE))


def cell_of(rows: list[dict]) -> dict:
    return {
        "model": "m", "title": "a net", "batch": 1, "threads": 2, "rounds": 6, "cpu": "a CPU", "own": {}, "peers": [],
        "calibration": 4, "held_out": 8, "rows": rows, "environments": {"absent": "cannot be installed: no network"},
    }  # fmt: skip


def test_every_peer_is_a_row_and_failures_say_why(files: Files, tmp_path: Path) -> None:
    more = [Peer(name, engine, "unet") for engine, name in OTHERS.items()]
    more += [Peer("absent int8", "exact", "unet", "absent"), Peer("broken int8", "broken", "unet")]
    rows = measured(files, tmp_path / "work", *more)
    assert [row["name"] for row in rows] == [EAGER, TOOLKIT, *(peer.name for peer in more)]
    reasons = {row["name"]: row["reason"] for row in rows if "reason" in row}
    assert reasons == {
        "refusing int8": "load: ValueError: this net is too strange",
        "killed int8": "train: the process was killed by SIGKILL: out of memory",
        "absent int8": "cannot be installed: no network",
        "broken int8": "outputs: not all of them are finite",
    }
    assert "ms" not in row_of(rows, "killed int8")
    rough, exact = row_of(rows, "rough int8"), row_of(rows, "exact int8")
    assert rough["speedup"] == pytest.approx(8, rel=0.05) and rough["toolkit_time"] == pytest.approx(2, rel=0.05)
    assert rough["toolkit_db"] == pytest.approx(20, abs=1) and exact["toolkit_db"] == pytest.approx(-20, abs=1)
    assert exact["sqnr_db"] == pytest.approx(60, abs=3)
    json.dumps(rows, allow_nan=False)


def test_missing_source_is_a_reason(files: Files, tmp_path: Path) -> None:
    files.sources["lean", 1] = "the ONNX exporter failed"
    rows = measured(files, tmp_path / "work", Peer("lean", "exact", "lean"))
    assert row_of(rows, "lean") == {"name": "lean", "reason": "the ONNX exporter failed"}


def test_a_worker_that_does_not_answer_or_babbles_is_given_up(tmp_path: Path) -> None:
    worker = Worker(Path(sys.executable), 1, tmp_path / "log", FAKE)
    assert worker.ask(do="load", engine="sleeps")["bytes"] == 10
    with pytest.raises(PeerError, match=r"no answer within 0\.3 s"):
        worker.ask(0.3, do="train", inputs="", calls=1)
    assert worker.process.wait(5) == -signal.SIGKILL
    worker.close()
    worker = Worker(Path(sys.executable), 1, tmp_path / "log", FAKE)
    with pytest.raises(PeerError, match="answered 'welcome', no JSON"):
        worker.ask(do="load", engine="prints")
    worker.close()
    assert worker.process.poll() is not None


def test_real_worker_keeps_prints_out_of_its_answers(tmp_path: Path) -> None:
    script = tmp_path / "noisy.py"
    script.write_text(
        f"import runpy; worker = runpy.run_path({str(peer_worker.__file__)!r})\n"
        "def noisy(job):\n    print('welcome', flush=True)\n    return worker['Engine'](None, 7)\n"
        "worker['ENGINES']['noisy'] = noisy\nworker['serve']()\n"
    )
    worker = Worker(Path(sys.executable), 1, tmp_path / "log", script)
    assert worker.ask(do="load", engine="noisy", batch=1) == {"bytes": 7, "notes": []}
    worker.close()
    assert "welcome" in (tmp_path / "log").read_text()


def test_real_worker_answers_faults(tmp_path: Path) -> None:
    worker = Worker(Path(sys.executable), 1, tmp_path / "log")
    with pytest.raises(PeerError, match="load: KeyError"):
        worker.ask(do="load", engine="nonsense", batch=1)
    with pytest.raises(PeerError, match="outputs: AssertionError"):
        worker.ask(do="outputs", inputs="", to="")
    worker.close()
    assert worker.process.returncode == 0


def test_worker_runs_without_this_package() -> None:
    code = f"import runpy, sys; runpy.run_path({str(peer_worker.__file__)!r}); sys.exit('compress' in sys.modules)"
    assert subprocess.run([sys.executable, "-I", "-c", code], check=False).returncode == 0


def test_environment_is_made_once_and_again_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def must(command: list[str]) -> str:
        ran.append(command)
        if "venv" in command:
            (tmp_path / "x" / "bin").mkdir(parents=True)
            (tmp_path / "x" / "bin" / "python").touch()
        return '[{"name": "nncf", "version": "3.4"}]'

    monkeypatch.setattr(peer_process, "_must", must)
    python, versions = peer_process.environment("x", ["nncf"], tmp_path)
    assert versions == {"nncf": "3.4"} and python == tmp_path / "x" / "bin" / "python" and len(ran) == 3
    assert peer_process.environment("x", ["nncf"], tmp_path) == (python, versions) and len(ran) == 3
    peer_process.environment("x", ["nncf>=3"], tmp_path)
    assert len(ran) == 6
    (tmp_path / "x" / "installed.json").unlink()  # as if killed before the end
    peer_process.environment("x", ["nncf>=3"], tmp_path)
    assert len(ran) == 9


def test_failed_installation_has_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def must(command: list[str]) -> str:
        if "pip" in command:
            raise PeerError("cannot be installed: ERROR: no such package")
        return ""

    monkeypatch.setattr(peer_process, "_must", must)
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path))
    assert peer_process.places(["openvino"])["openvino"] == "cannot be installed: ERROR: no such package"
    with pytest.raises(PeerError, match=r"cannot be installed: .*nothing-of-the-kind"):
        monkeypatch.undo()
        peer_process._must([sys.executable, "-c", "import sys; sys.exit('ERROR: nothing-of-the-kind')"])


def test_finished_cells_are_reused(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[int, int]] = []

    def measure(peers_: object, batch: int, threads: int, *rest: object) -> list[dict]:
        if batch == 8 and fail:
            raise KeyboardInterrupt
        done.append((batch, threads))
        return [{"name": TOOLKIT, "reason": "not run"}]

    monkeypatch.setattr(peers, "measure", measure)
    monkeypatch.setattr(peers, "places", lambda names: PLACES)
    monkeypatch.setattr(peers, "prepare", lambda *given: files)
    monkeypatch.setitem(peers.SUBJECTS, "m", Subject("a net", lambda: None, lambda *given: [], 4))  # type: ignore
    result = tmp_path / "peers.json"
    fail = True
    with pytest.raises(KeyboardInterrupt):
        peers.run(["m"], [1, 8], 2, 5, False, result)
    fail = False
    peers.run(["m"], [1, 8], 2, 5, False, result)
    assert done == [(1, 2), (8, 2)], "the finished cell is measured once, the interrupted one again"
    peers.run(["m"], [1, 8], 2, 5, False, result)
    assert len(done) == 2
    peers.run(["m"], [1], 1, 5, False, result)
    assert len(json.loads(result.read_text())["cells"]) == 3, "another number of threads is another cell"
    peers.run(["m"], [1], 2, 6, False, result)
    assert done[3:] == [(1, 2)], "other settings are not what was measured"
    peers.run(["m"], [8], 2, 5, True, result)
    assert done[4:] == [(8, 2)] and len(json.loads(result.read_text())["cells"]) == 3
    assert "a net: batch 8" in result.with_suffix(".md").read_text()


def test_table_says_who_is_worse(files: Files, tmp_path: Path) -> None:
    more = [Peer(name, engine, "unet") for engine, name in OTHERS.items() if engine != "killed"]
    rows = measured(files, tmp_path / "work", *more)
    said = {sentence.split("**")[1]: sentence for sentence in words(cell_of(rows))}
    assert "rough int8 (" in said["This toolkit is slower than"] and EAGER in said["It is faster than"]
    assert "exact int8" in said["It is less exact than"] and "rough int8" in said["It is more exact than"]
    assert "exact int8" not in said["It is more exact than"]
    assert said["Failed"] == "**Failed**: refusing int8: load: ValueError: this net is too strange"
    text = table({"cells": [cell_of(rows)]})
    order = [text.index(f"| {name} |") for name in ("rough int8", f"**{TOOLKIT}**", EAGER, "refusing int8")]
    assert order == sorted(order), "the fastest comes first, what failed last"
    assert "absent: cannot be installed: no network" in text


def test_ties_and_a_missing_toolkit_are_said(files: Files, tmp_path: Path) -> None:
    rows = measured(files, tmp_path / "work", Peer("twin int8", "toolkit", "unet"))
    said = " ".join(words(cell_of(rows)))
    assert "No difference in speed is shown to** twin int8" in said
    assert "No difference in exactness is shown to** twin int8" in said and "slower" not in said
    without = [row if row["name"] != TOOLKIT else {"name": TOOLKIT, "reason": "export failed"} for row in rows]
    assert (
        words(cell_of(without))[0].startswith("Nothing can be said") and "export failed" in words(cell_of(without))[1]
    )


@pytest.mark.parametrize("engine", ["onnxruntime", "toolkit"])
def test_real_engine_of_onnxruntime_gives_what_the_net_gives(engine: str, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    graph = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[2,1,4,4] sample, int64[2] timestep) => (float[2,1,4,4] y) '
        "{ two = Constant<value = float {2.0}>() y = Mul(sample, two) }"
    )
    onnx.save(graph, tmp_path / "double.onnx")
    sample = np.random.default_rng(0).standard_normal((4, 1, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "in.npz", sample=sample, timestep=np.arange(4))
    worker = Worker(Path(sys.executable), 1, tmp_path / "log")
    source = str(tmp_path / "double.onnx")
    answer = worker.ask(do="load", engine=engine, source=source, batch=2, threads=1, folder=str(tmp_path))
    assert answer["bytes"] == Path(source).stat().st_size
    worker.ask(do="outputs", inputs=str(tmp_path / "in.npz"), to=str(tmp_path / "out.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), 2 * sample)
    assert worker.ask(do="train", inputs=str(tmp_path / "in.npz"), calls=3)["ms"] > 0
    worker.close()

"""The fastest engine: among engines that are slow, wrong or missing by construction."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from compress.errors import BundleError
from compress.files import cache_folder
from compress.measure import fastest
from compress.measure.bench import callable_for
from compress.runtime.engine import Feeds, Graph
from compress.runtime.engines import ONNXRUNTIME
from tests.runtime.test_no_torch import BLOCKED, BLOCKER

FOLDER = Path(__file__).parents[2] / "exported" / "digits-edge" / "onnx"
Change = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]


@dataclass
class Altered:
    """onnxruntime, and something more; an engine from outside."""

    name: str
    seconds: float = 0.0
    change: Change = lambda outputs: outputs
    version: str = "1"
    opened: list[object] = field(default_factory=list)

    def open(self, graph: Path | bytes, threads: int | None = None, scheme: str = "float") -> Graph:
        self.opened.append(graph)
        found = ONNXRUNTIME.open(graph, threads, scheme)

        def run(feeds: Feeds) -> Sequence[np.ndarray]:
            time.sleep(self.seconds)
            return self.change(found.run(feeds))

        return Graph(found.inputs, found.outputs, run)


class Missing(Altered):
    """No such library."""

    def open(self, graph: Path | bytes, threads: int | None = None, scheme: str = "float") -> Graph:
        raise BundleError("missing: cannot be imported; pip install it")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def install(*engines: Altered) -> None:
        monkeypatch.setattr(fastest, "installed", lambda: {engine.name: engine for engine in engines})

    return install


def test_the_fastest_of_those_that_run_is_chosen(install: Callable[..., None]) -> None:
    slow, quick = Altered("slow", 0.1), Altered("quick")
    wrong = Altered("wrong", change=lambda outputs: [-value for value in outputs])
    black = Altered("black", change=lambda outputs: [value * np.nan for value in outputs])
    install(black, slow, wrong, Missing("missing"), quick)
    engine, found = fastest.chosen("fastest", FOLDER, 1)
    assert engine is quick and list(found) == ["black", "slow", "wrong", "missing", "quick"]
    assert isinstance(found["slow"], float) and found["slow"] > 100 and found["slow"] > found["quick"] > 0  # type: ignore[operator]
    assert found["black"] == "gives what is not finite"
    assert found["wrong"] == "computes something else: -6.0 dB to slow"
    assert found["missing"] == "missing: cannot be imported; pip install it"


def test_what_was_found_is_kept_and_opened_the_next_time(install: Callable[..., None]) -> None:
    slow, quick = Altered("slow", 0.1), Altered("quick")
    install(slow, quick)
    _, found = fastest.chosen("fastest", FOLDER, 1)
    for engine in (slow, quick):
        engine.opened.clear()
    assert fastest.chosen("fastest", FOLDER, 1) == (quick, found) and not quick.opened and not slow.opened
    (file,) = (cache_folder() / "engines").iterdir()
    assert json.loads(file.read_text())["ms"] == found
    slow.seconds, quick.seconds = 0, 0.1
    assert fastest.chosen("fastest", FOLDER, 1)[0] is quick
    assert fastest.chosen("fastest", FOLDER, 1, anew=True)[0] is slow
    assert fastest.chosen("fastest", FOLDER, 1)[0] is slow


@pytest.mark.parametrize("change", ["version", "threads", "damage"])
def test_it_is_measured_again_where_that_may_have_changed(install: Callable[..., None], change: str) -> None:
    one, other = Altered("one"), Altered("other", 0.1)
    install(one, other)
    fastest.chosen("fastest", FOLDER, 1)
    one.seconds, other.seconds = 0.1, 0
    if change == "version":
        one.version = "2"
    if change == "damage":
        (file,) = (cache_folder() / "engines").iterdir()
        file.write_text('{"ms": {"one": 1.0}}')
    assert fastest.chosen("fastest", FOLDER, 2 if change == "threads" else 1)[0] is other


def test_without_an_engine_each_says_why(install: Callable[..., None]) -> None:
    install(Missing("missing"))
    with pytest.raises(BundleError, match=r"no engine runs it: missing: cannot be imported; pip install it"):
        fastest.chosen("fastest", FOLDER, 1)


def test_a_folder_without_a_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle\.json here"):
        fastest.chosen("fastest", tmp_path, 1)


def test_other_names_are_those_of_engines() -> None:
    assert fastest.chosen("onnxruntime", FOLDER, 1) == (ONNXRUNTIME, {})
    with pytest.raises(BundleError, match="steam: is no engine"):
        fastest.chosen("steam", FOLDER, 1)


def test_a_file_alone_has_no_fastest_engine() -> None:
    with pytest.raises(BundleError, match="found for a bundle; give its folder, or name an engine"):
        callable_for(FOLDER / "denoiser.onnx", 1, 1, engine="fastest")


def test_a_device_without_torch_finds_its_own() -> None:
    script = """
from pathlib import Path
from compress.measure.fastest import chosen
print(chosen("fastest", Path(sys.argv[1]), 1))
"""
    done = subprocess.run([sys.executable, "-c", BLOCKER + script, FOLDER], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "'onnxruntime': " in done.stdout, done.stderr
    assert "torch" in BLOCKED

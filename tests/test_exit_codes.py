"""Every verdict has its exit code, whichever command reaches it, and the help says which."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compress import engine
from compress import verify_bundle as judge
from compress.engine import Outcome
from compress.report.parts import Verdict
from tests import sample_report
from tests.command import compress
from tests.conftest import write_recipe

CODES = {"pass": 0, "fail": 1, "not judged": 3}


def recipe(folder: Path, more: str = "") -> None:
    (folder / "teacher").mkdir()  # nothing of it is read before the engine
    write_recipe(folder, f"name: one\ncheckpoint: teacher\npasses:\n  - export_onnx: {{}}\n{more}")


@pytest.mark.parametrize(("verdict", "code"), CODES.items())
def test_exit_code_of_apply(verdict: Verdict, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def applied(recipe: Any, output: Path, options: Any) -> Outcome:
        output.mkdir()
        sample_report.of(verdict).write(output)
        return Outcome(output, verdict, [])

    monkeypatch.setattr(engine, "apply", applied)
    recipe(tmp_path, "  - verify: {}\n")
    done = compress("apply", "recipe.yaml", "--output", "out", folder=tmp_path)
    assert done.returncode == code, done.stderr


def test_without_verify_nothing_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "apply", lambda recipe, output, options: Outcome(output, None, []))
    recipe(tmp_path)
    assert compress("apply", "recipe.yaml", folder=tmp_path).returncode == 0


@pytest.mark.parametrize(("verdict", "code"), CODES.items())
def test_exit_code_of_verify(verdict: Verdict, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "verify_bundle", lambda *given: sample_report.of(verdict))
    done = compress("verify", "bundle", "--teacher", "teacher", folder=tmp_path)
    assert done.returncode == code, done.stderr


def test_the_help_names_every_code(tmp_path: Path) -> None:
    shown = " ".join(compress("--help", folder=tmp_path).stdout.split())
    for said in ("0 fine", "1 a gate", "2 bad input", "3 not judged", "70 a fault"):
        assert said in shown


def test_a_reader_that_has_gone_is_no_failed_gate() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    done = subprocess.run(
        [sys.executable, "-m", "compress", "--help"], stdout=theirs, stderr=subprocess.PIPE, check=False
    )
    os.close(theirs)
    assert done.returncode == 141 and not done.stderr

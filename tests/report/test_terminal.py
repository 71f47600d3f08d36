"""What the terminal says of a report, and the words that it shares with the page."""

from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from compress import terminal
from compress.report import words
from tests.conftest import read_json
from tests.report import sample_report
from tests.report.test_page import OLDER


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Any]], str]:
    def show(report: dict[str, Any]) -> str:
        console = Console(width=120, record=True, highlight=False, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
        monkeypatch.setattr(terminal, "output", console)
        terminal.report(report)
        return console.export_text()

    return show


def test_the_whole_report_fits_a_screen_or_two(shown: Callable[[dict[str, Any]], str]) -> None:
    text = shown(sample_report.full())
    assert len(text.splitlines()) < 80
    assert "verdict: pass" in text
    worse = next(line for line in text.splitlines() if line.startswith("worse: "))
    assert "teacher, OpenVINO fp32 is faster at batch 1" in worse and "class accuracy" in worse
    row = next(line for line in text.splitlines() if "same class" in line and "≥ 0.97" in line)
    assert "0.998" in row and "0.9931" in row and "pass" in row
    assert "teacher, torch.compile: failed: no C++ compiler was found on this machine" in text
    assert (
        "memorised training images: not measured: the data set's images are not at hand (classifier, random, pixels)"
        in text
    )
    frechet = next(line for line in text.splitlines() if "FD∞" in line and "0.31" in line)
    assert "0.31 worse" in frechet and "0.14 not resolved" in frechet


def test_minimal_and_older_reports(shown: Callable[[dict[str, Any]], str]) -> None:
    text = shown(sample_report.minimal())
    assert "worse: nothing that was measured" in text and "latency" not in text and "gate" not in text
    text = shown(read_json(OLDER))
    assert "8.73×" in text and "verdict: pass" in text


def test_brackets_are_not_markup(shown: Callable[[dict[str, Any]], str]) -> None:
    report = sample_report.full()
    report["latency"][0]["name"] = "teacher [red]x[/red] [/]"
    assert "teacher [red]x[/red] [/]" in shown(report)


@pytest.mark.parametrize(
    "excess, better, resolved, said",
    [
        (0.2, "less", True, "worse"),
        (-0.2, "less", True, "better"),
        (0.2, "more", True, "better"),
        (-0.2, "more", True, "worse"),
        (-0.2, "more", False, "not resolved"),
        (0.2, "less", None, ""),
        (None, "less", None, ""),
    ],
)
def test_finding(excess: float | None, better: str, resolved: bool | None, said: str) -> None:
    assert words.finding({"excess": excess, "better": better, "resolved": resolved}) == said


@pytest.mark.parametrize(
    "low, high, said",
    [(1.0, 1.9, "FASTER"), (1.0, 2.0, "not told apart"), (2.2, 2.9, "not told apart"), (3.0, 4.0, "slower")],
)
def test_baselines_are_told_apart_by_their_intervals(low: float, high: float, said: str) -> None:
    student = {"name": "student, onnxruntime int8", "interval": [2.0, 2.5]}
    baseline = {"name": "teacher, PyTorch", "interval": [low, high]}
    assert words.against_student(baseline, [baseline, student]) == said
    assert words.against_student(student, [baseline, student]) == ""
    assert words.against_student(baseline, [baseline, {**student, "reason": "it crashed"}]) == ""


def test_a_slower_heavier_student_is_said_to_be_so() -> None:
    report = sample_report.minimal()
    report["ratios"] |= {"call_speedup_over_onnxruntime": 0.8, "bytes": 1.2}
    assert words.shortfalls(report) == [
        "more bytes than the teacher: 1.2×",
        "speedup a call over onnxruntime fp32 is below 1: 0.8×",
    ]
    assert words.faster(0.8) == "0.8×: SLOWER" and words.faster(1.25) == "1.25× faster"


def test_numbers_in_words() -> None:
    assert [words.size(count) for count in (12, 999, 1000, 982030, 999_600, 6_833_668)] == [
        "12 B", "999 B", "1 kB", "982 kB", "1 MB", "6.83 MB",
    ]  # fmt: skip
    assert [words.ms(value) for value in (0.0123, 2.087, 18.22, 495.6, 12345.6)] == [
        "0.0123 ms", "2.09 ms", "18.2 ms", "496 ms", "12,346 ms",
    ]  # fmt: skip
    assert words.change(-0.0145, "class_accuracy") == "−1.5 points" and words.change(0.02) == "+0.02"
    assert words.number(None) == "–" and words.span(None) == "" and words.number(0.9931, "class_accuracy") == "99.3%"


@pytest.mark.parametrize("verdict", ["pass", "fail", "not judged"])
def test_the_last_lines_are_the_verdict_and_what_to_add(verdict: str, shown: Callable[[dict[str, Any]], str]) -> None:
    lines = shown(sample_report.of(verdict)).splitlines()
    place = lines.index(f"verdict: {verdict}")
    assert [line.split(";")[0] for line in lines[place + 1 :]] == (
        ["the recipe has no gate on quality"] if verdict == "not judged" else []
    )
    row = next(line for line in lines if "kernels" in line and "(always)" in line)
    assert ("8.4" in row and "FAIL" in row) == (verdict == "fail")

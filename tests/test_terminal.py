"""What the terminal says of a report, and the words that it shares with the page."""

from collections.abc import Callable
from typing import Any

import pytest
from rich.console import Console

from compress import terminal
from compress.pages import findings, words
from compress.report.parts import Better, Figure, Row, Unit, Verdict
from compress.report.report import Report
from tests import sample_report


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Callable[[Report], str]:
    def show(report: Report) -> str:
        console = Console(width=120, record=True, highlight=False, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
        monkeypatch.setattr(terminal, "output", console)
        terminal.report(report)
        return console.export_text()

    return show


def test_the_whole_report_fits_a_screen_or_two(shown: Callable[[Report], str]) -> None:
    whole = sample_report.full()
    of_classes = whole.model_copy(update={"pipeline": (), "attributes": {}})  # no run is of classes and of a pipeline
    assert len(shown(of_classes).splitlines()) < 80
    text = shown(whole)
    assert "verdict: pass" in text
    worse = next(line for line in text.splitlines() if line.startswith("worse: "))
    assert "teacher, OpenVINO fp32 is faster at batch 1" in worse and "class accuracy" in worse
    row = next(line for line in text.splitlines() if "same class" in line and "≥ 0.97" in line)
    assert "0.998" in row and "0.9931" in row and "pass" in row
    said = [" ".join(line.replace("│", " ").split()) for line in text.splitlines()]
    assert "teacher, torch.compile fp32: failed: no C++ compiler was found on this machine" in said
    assert "effective guidance scale ÷ asked: not measured: the guided outputs are too small to tell" in said
    assert "Fréchet distance FD∞: left out: ≤ 1: too few samples for its dimension" in said
    assert "Fréchet distance FD∞ (classifier) ↓ 0.31 worse (0.25 … 0.37) 0.12" in said
    assert "Fréchet distance FD∞ (random) ↓ 0.14 not resolved (0.08 … 0.2) 0.12" in said


def test_a_minimal_report(shown: Callable[[Report], str]) -> None:
    text = shown(sample_report.minimal())
    assert "worse: nothing that was measured" in text and "latency" not in text and "gate" not in text


def test_brackets_are_not_markup(shown: Callable[[Report], str]) -> None:
    rows = (sample_report.row({**sample_report.TEACHER, "engine": "[red]x[/red] [/]"}, 1.0),)
    assert "teacher, [red]x[/red] [/]" in shown(sample_report.but(sample_report.full(), latency=rows))


@pytest.mark.parametrize(
    "excess, better, floor, said",
    [
        (0.2, "less", 0.1, "worse"),
        (-0.2, "less", 0.1, "better"),
        (0.2, "more", 0.1, "better"),
        (-0.2, "more", 0.1, "worse"),
        (-0.2, "more", 0.3, "not resolved"),
        (0.2, "less", None, ""),
        (None, "less", 0.1, ""),
    ],
)
def test_finding(excess: float | None, better: Better, floor: float | None, said: str) -> None:
    ends = None if excess is None else (excess - 0.01, excess + 0.01)
    figure = Figure(value=1.0, better=better, floor=floor, excess=excess, excess_interval=ends)
    assert words.finding(figure) == said


@pytest.mark.parametrize(
    "low, high, said",
    [(1.0, 1.9, "FASTER"), (1.0, 2.0, "not told apart"), (2.2, 2.9, "not told apart"), (3.0, 4.0, "slower")],
)
def test_baselines_are_told_apart_by_their_intervals(low: float, high: float, said: str) -> None:
    student = sample_report.row(sample_report.STUDENT, 1.0, 2.0, 2.5)
    baseline = sample_report.row(sample_report.TEACHER, 1.0, low, high)
    assert findings.against_student(baseline, [baseline, student]) == said
    assert findings.against_student(student, [baseline, student]) == ""
    assert findings.against_student(baseline, [baseline]) == ""
    guided = sample_report.row({**sample_report.STUDENT, "unit": "guided call"}, 1.0, 0.1, 0.2)
    assert findings.against_student(baseline, [baseline, guided, student]) == said, "a call is held to a call"
    assert findings.against_student(baseline, [baseline, guided]) == ""


def test_a_slower_heavier_student_is_said_to_be_so() -> None:
    report = sample_report.minimal()
    slower, larger = Figure(value=0.8, better="more"), Figure(value=1.2, better="less")
    ratios = {**report.ratios, "call_speedup_over_onnxruntime": slower, "bytes": larger}
    assert findings.shortfalls(sample_report.but(report, ratios=ratios)) == [
        "more bytes than the teacher: 1.2×",
        "speedup a call over onnxruntime fp32 is below 1: 0.8×",
    ]
    assert words.faster(0.8) == "0.8× SLOWER" and words.faster(1.25) == "1.25× faster"


@pytest.mark.parametrize(
    ("engine", "unit", "name"),
    [
        (sample_report.TEACHER, "call", "teacher, PyTorch fp32"),
        (sample_report.ONNX, "guided call", "guided teacher, onnxruntime fp32"),
        (sample_report.STUDENT, "whole image", "whole image, student, onnxruntime int8"),
        ({**sample_report.STUDENT, "engine": "PyTorch"}, "call", "student, PyTorch, simulated int8"),
    ],
)
def test_a_row_is_named_by_what_it_is(engine: dict[str, Any], unit: Unit, name: str) -> None:
    assert Row(**engine, unit=unit).name == name


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
def test_the_last_lines_are_the_verdict_and_what_to_add(verdict: Verdict, shown: Callable[[Report], str]) -> None:
    lines = shown(sample_report.of(verdict)).splitlines()
    place = lines.index(f"verdict: {verdict}")
    assert [line.split(";")[0] for line in lines[place + 1 :]] == (
        ["the recipe has no gate on quality"] if verdict == "not judged" else []
    )
    row = next(line for line in lines if "kernels" in line and "(always)" in line)
    assert ("8.4" in row and "FAIL" in row) == (verdict == "fail")


def test_progress_without_a_terminal_is_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(terminal, "errors", Console(stderr=True, highlight=False, soft_wrap=True))
    for every, least in ((60.0, 1), (0.0, 4)):
        monkeypatch.setattr(terminal, "EVERY", every)
        with terminal.progress("distill", 3) as bar:
            for _ in range(3):
                bar.advance(1, loss=0.25)
        lines = capsys.readouterr().err.splitlines()
        assert lines[0] == "distill: 3 steps"
        assert len(lines) == least
    assert lines[-1].startswith("distill: 3 of 3")
    assert lines[-1].endswith("loss 0.25")

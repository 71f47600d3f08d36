"""compress compare: the table and the page, and a clear message for what cannot stand side by side."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from compress.errors import CompressError, ReportError
from compress.report import comparison
from compress.report.schema import read_report
from tests.command import compress
from tests.report import sample_report
from tests.report.test_page import OLDER, Outline, headings

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def write(name: str, **changes: object) -> Path:
        folder = tmp_path / name
        (folder / "onnx").mkdir(parents=True)
        (folder / "onnx" / "bundle.json").write_text("{}")
        (folder / "report.json").write_text(json.dumps({**sample_report.full(), **changes}))
        return folder

    return write


def test_students_stand_side_by_side(make: Make) -> None:
    other = sample_report.full()
    other["ratios"]["call_speedup_over_onnxruntime"] = 0.8
    other["student"]["bytes"] = 2_000_000
    students = comparison.read([make("small"), make("large", **other) / "onnx"])
    assert [student.name for student in students] == ["small", "large"]
    rows = {row.label: row for row in comparison.table(students)}
    assert [cell.text for cell in rows["size"].cells] == ["982 kB", "2 MB"] and rows["size"].teacher == "6.83 MB"
    assert [cell.said for cell in rows["speedup a call over onnxruntime fp32"].cells] == ["", "SLOWER"]
    assert {cell.said for cell in rows["Fréchet distance FD∞ (random)"].cells} == {"not resolved"}
    text = comparison.comparison(students)
    assert {"Cost against error", "Error along the trajectory", "Latency"} <= headings(text)
    shown = Outline(text)
    assert "student large" in shown.text and len(shown.tags("svg")) == 5
    assert comparison.caveats(students) == []


def test_a_figure_that_one_student_lacks_is_a_dash(make: Make) -> None:
    students = comparison.read([make("a"), make("b", quality={}, spaces=None, latency=None, probe=None)])
    rows = {row.label: row for row in comparison.table(students)}
    assert [cell.text for cell in rows["SSIM"].cells] == ["0.939", "–"]
    assert "Cost against error" not in headings(comparison.comparison(students))


def test_older_reports_can_be_compared(make: Make) -> None:
    older = make("older")
    (older / "report.json").write_text(OLDER.read_text())
    students = comparison.read([make("new"), older])
    assert any("older" in line for line in comparison.caveats(students))
    assert "PSNR in dB" in Outline(comparison.comparison(students)).text


def test_other_machines_are_pointed_out(make: Make) -> None:
    environment = {**sample_report.full()["environment"], "cpu": "Cortex-A72"}
    lines = comparison.caveats(comparison.read([make("a"), make("b", environment=environment)]))
    assert lines == ["timed on different processors (AMD EPYC, Cortex-A72): compare ratios, not milliseconds"]


def test_same_named_folders_are_told_apart(make: Make) -> None:
    students = comparison.read([make("one/x"), make("two/x")])
    assert len({student.name for student in students}) == 2


def test_hostile_names_are_only_text(make: Make) -> None:
    students = comparison.read([make("<b onclick=x>&$a_{"), make("plain", summary="<script>")])
    shown = Outline(comparison.comparison(students))
    assert not [attributes for _, attributes in shown.elements if "onclick" in attributes]
    assert "<b onclick=x>&$a_{" in shown.text


def test_another_teacher_is_refused(make: Make) -> None:
    teacher = {**sample_report.SIDE, "params": 5}
    with pytest.raises(ReportError, match=r"b: has another teacher than .*a \(params 5, not 1,708,417\)"):
        comparison.read([make("a"), make("b", teacher=teacher)])


def test_another_reference_is_refused(make: Make) -> None:
    with pytest.raises(ReportError, match=r"b: was judged against another reference .*\(ffff, not 9f2c41d0\)"):
        comparison.read([make("a"), make("b", reference={"identity": "ffff"})])


def test_fewer_than_two_are_refused(make: Make) -> None:
    a = make("a")
    with pytest.raises(CompressError, match="at least two"):
        comparison.read([a])
    with pytest.raises(ReportError, match="named twice"):
        comparison.read([a, a / ".." / "a"])


def test_a_folder_without_a_report_is_named(make: Make, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "nowhere"):
        with pytest.raises(ReportError, match=f"{folder.name}: has no report.json"):
            comparison.read([make(f"beside-{folder.name}"), folder])


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "cannot be read"),
        ("\udcff", "cannot be read"),
        ("[]", "damaged"),
        ("{}", "verdict: Field required"),
        (json.dumps({**sample_report.full(), "format": 4}), "format 4"),
        (json.dumps({**sample_report.full(), "latency": [{"name": "x", "batch": 1, "threads": 1}]}), "latency.0"),
        (json.dumps({**sample_report.full(), "ratios": {"params": "small"}}), "ratios.params"),
        (json.dumps({**sample_report.full(), "quality": {"psnr": {"value": float("nan")}}}), "quality.psnr.value"),
        (json.dumps({**sample_report.full(), "by_class": {"labels": [1], "teacher": [], "student": []}}), "by_class"),
    ],
)
def test_a_damaged_report_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "report.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ReportError, match=message) as caught:
        read_report(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_command_writes_the_page_and_the_table(make: Make, tmp_path: Path) -> None:
    a, b = make("a"), make("b")
    done = compress("compare", a, b, "--out", "both.html", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("both.html") and "98.4% worse" in done.stdout
    assert "2 students of one teacher" in (tmp_path / "both.html").read_text(encoding="utf-8")
    failed = compress("compare", a, folder=tmp_path)
    assert failed.returncode == 2 and failed.stderr.startswith("error: compare needs at least two")


def test_verdicts_stand_side_by_side_and_what_is_not_judged_says_why(make: Make) -> None:
    verdicts = ["pass", "fail", "not judged"]
    students = comparison.read([make(name.replace(" ", "-"), **sample_report.of(name)) for name in verdicts])
    row = comparison.table(students)[0]
    assert [cell.said for cell in row.cells] == verdicts
    (line,) = comparison.caveats(students)
    assert line.startswith("not-judged is not judged: the recipe has no gate on quality; add one")
    shown = Outline(comparison.comparison(students))
    assert line in shown.text
    assert [a["class"] for a in shown.tags("span") if a["class"] in ("pass", "fail", "not-judged")] == [
        "pass", "fail", "not-judged",
    ]  # fmt: skip

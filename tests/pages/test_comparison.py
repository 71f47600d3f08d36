"""compress compare: the table and the page, and a clear message for what cannot stand side by side."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from compress.errors import CompressError, ReportError
from compress.pages import comparison, tables
from compress.pages.tables import Cell, Cells
from compress.report.parts import Figure, Verdict
from compress.report.report import Report, read
from tests import sample_report
from tests.command import compress
from tests.pages.test_page import Outline, drawn, headings

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def write(name: str, **changes: object) -> Path:
        folder = tmp_path / name
        (folder / "onnx").mkdir(parents=True)
        (folder / "onnx" / "bundle.json").write_text("{}")
        sample_report.but(sample_report.full(), **changes).write(folder)
        return folder

    return write


def rows(reports: Mapping[str, Report]) -> dict[Cell | str, Cells]:
    return {row[0]: row[1:] for row in tables.side_by_side(reports).rows}


def test_students_stand_side_by_side(make: Make) -> None:
    full = sample_report.full()
    ratios = {**full.ratios, "call_speedup_over_onnxruntime": Figure(value=0.8, better="more")}
    student = full.student.model_copy(update={"bytes": 2_000_000})
    slower = (sample_report.row(sample_report.STUDENT, 5.0),)
    folders = [make("small"), make("large", ratios=ratios, student=student, latency=slower) / "onnx"]
    reports = comparison.read(folders)
    assert list(reports) == ["small", "large"]
    found = rows(reports)
    assert [str(cell) for cell in found["bytes"]] == [
        "982,030 (0.144× the teacher's)", "2,000,000 (0.144× the teacher's)", "6,833,668",
    ]  # fmt: skip
    assert [str(cell) for cell in found["speedup a call over onnxruntime fp32"]] == [
        "2.29× faster (2.1 … 2.44)", "0.8× SLOWER", "–",
    ]  # fmt: skip
    assert [str(cell) for cell in found["call, batch 1, threads: 1"]] == [
        "2.1 ms (2.04 … 2.16)", "5 ms (4.85 … 5.15)", "–",
    ]  # fmt: skip
    assert str(found["call, batch 16, threads: 1"][1]) == "–"
    *ours, teacher = found["Fréchet distance FD∞ (random) ↓"]
    assert {cell.said for cell in ours if isinstance(cell, Cell)} == {"not resolved"} and teacher == "0.12"
    text = comparison.comparison(reports, folders)
    assert {"Side by side", "Cost against error", "Error along the trajectory"} <= headings(text)
    assert "0.8× SLOWER" in Outline(text).text and len(drawn(text)) == 3
    assert comparison.caveats(reports) == []


def test_a_figure_that_one_student_lacks_is_a_dash(make: Make) -> None:
    folders = [make("a"), make("b", quality={}, spaces={}, latency=(), probe=())]
    reports = comparison.read(folders)
    assert [str(cell) for cell in rows(reports)["SSIM ↑"]] == ["0.939 (0.936 … 0.942)", "–", "–"]
    found = headings(comparison.comparison(reports, folders))
    assert "Cost against error" not in found and "Error along the trajectory" in found


def test_other_machines_are_pointed_out(make: Make) -> None:
    environment = sample_report.full().environment.model_copy(update={"cpu": "Cortex-A72"})
    lines = comparison.caveats(comparison.read([make("a"), make("b", environment=environment)]))
    assert lines == ["timed on different processors (AMD EPYC, Cortex-A72): compare ratios, not milliseconds"]


def test_same_named_folders_are_told_apart(make: Make) -> None:
    assert len(comparison.read([make("one/x"), make("two/x")])) == 2


def test_hostile_names_are_only_text(make: Make) -> None:
    folders = [make("<b onclick=x>&$a_{"), make("plain", recipe="<script>")]
    shown = Outline(comparison.comparison(comparison.read(folders), folders))
    assert not [attributes for _, attributes in shown.elements if "onclick" in attributes]
    assert "<b onclick=x>&$a_{" in shown.text


def test_another_teacher_is_refused(make: Make) -> None:
    teacher = sample_report.SIDE.model_copy(update={"params": 5})
    with pytest.raises(ReportError, match=r"b: has another teacher than .*a \(params 5, not 1,708,417\)"):
        comparison.read([make("a"), make("b", teacher=teacher)])


def test_another_reference_is_refused(make: Make) -> None:
    with pytest.raises(ReportError, match=r"b: was judged against another reference .*\(ffff, not 9f2c41d0\)"):
        reference = sample_report.full().reference.model_copy(update={"identity": "ffff"})
        comparison.read([make("a"), make("b", reference=reference)])


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


def altered(**changes: object) -> str:
    return json.dumps({**sample_report.full().model_dump(mode="json"), **changes})


NAN = {"psnr": {"value": float("nan"), "better": "more"}}


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "is damaged"),
        ("\udcff", "cannot be read"),
        ("[" * 100_000, "is damaged"),
        ("[]", "is damaged"),
        ("{}", "is of another format than 4"),
        (altered(format=3), "is of another format than 4"),
        (altered(format=5), "is of another format than 4"),
        (altered(verdict="good"), r"is damaged \(verdict: "),
        (altered(latency=[{"batch": 1, "threads": 1}]), r"is damaged \(latency\.0"),
        (altered(ratios={"params": "small"}), r"is damaged \(ratios\.params"),
        (altered(quality=NAN), r"is damaged \(quality\.psnr\.value: Input should be a finite number"),
        (altered(by_class=[{"label": 1, "teacher": 1.0}]), r"is damaged \(by_class\.0\.student"),
    ],
)
def test_a_damaged_report_is_named_and_so_is_one_of_another_format(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "report.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ReportError, match=f"{message}.*; verify the bundle again") as caught:
        read(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_the_command_writes_the_page_and_the_table(make: Make, tmp_path: Path) -> None:
    a, b = make("a"), make("b")
    done = compress("compare", a, b, "--out", "both.html", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("both.html")
    assert "98.4% worse (98.0%" in done.stdout and "98.8%)" in done.stdout  # on two lines where the screen is narrow
    assert "2 students of one teacher" in (tmp_path / "both.html").read_text(encoding="utf-8")
    failed = compress("compare", a, folder=tmp_path)
    assert failed.returncode == 2 and failed.stderr.startswith("error: compare needs at least two")


def test_verdicts_stand_side_by_side_and_what_is_not_judged_says_why(make: Make) -> None:
    verdicts: list[Verdict] = ["pass", "fail", "not judged"]
    folders = [make(name.replace(" ", "-"), **dict(sample_report.of(name))) for name in verdicts]
    reports = comparison.read(folders)
    assert [str(cell) for cell in rows(reports)["verdict"]] == [*verdicts, "–"]
    (line,) = comparison.caveats(reports)
    assert line.startswith("not-judged is not judged: the recipe has no gate on quality; add one")
    shown = Outline(comparison.comparison(reports, folders))
    assert line in shown.text
    assert [a["class"] for a in shown.tags("span") if a["class"] in ("pass", "fail", "not-judged")] == [
        "pass", "fail", "not-judged",
    ]  # fmt: skip

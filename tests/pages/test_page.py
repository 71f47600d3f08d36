"""report.html and the model card: whole, minimal and hostile reports."""

import base64
import copy
import io
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from compress import passes
from compress.pages import findings, plots, words
from compress.pages.card import card
from compress.pages.page import page
from compress.pages.publish import publish
from compress.pages.thumbnails import pairs
from compress.report.parts import Decision, Figure, Verdict
from compress.report.report import Report, read
from tests import sample_report

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> $\\frac{$ [red]& {{ 7*7 }} -->"
NAMES_OF_THE_FORMAT = {
    *("pass", "fail", "min", "max", "more", "less", "teacher", "student", "call", "guided call", "whole image"),
}
REFERENCES = {"src", "href", "xlink:href", "srcset", "data", "action", "background", "poster"}
VOID = {"meta", "img", "br", "link", "hr"}


class Outline(HTMLParser):
    """Elements with their attributes, the ids, the text; fails on a tag that is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


def headings(text: str) -> set[str]:
    return set(re.findall(r"<h2>(.*?)</h2>", text))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> str:
    samples = sample_report.write_samples(tmp_path_factory.mktemp("samples") / "samples.npz")
    return page(sample_report.full(), sample_report.records(), samples)


@pytest.mark.parametrize("whole", [sample_report.full, sample_report.minimal])
def test_what_is_written_is_read_again(whole: Callable[[], Report], tmp_path: Path) -> None:
    whole().write(tmp_path)
    assert read(tmp_path) == whole()


def test_every_part_has_its_section(full: str) -> None:
    assert headings(full) == {
        "Samples from the same noise",
        "Quality",
        "Error along the trajectory",
        "Class accuracy by class",
        "Response to guidance",
        "Latency",
        "The teacher with fewer steps",
        "Cost",
        "What every pass cost and gained",
        "Quantization: simulated and real",
        "How it was made",
        "To reproduce it",
    }
    # probe, by class, 2 of guidance, 2 of latency, 2 of the passes
    assert len(Outline(full).tags("svg")) == 8


@pytest.mark.parametrize(
    "part, heading",
    [
        ("probe", "Error along the trajectory"),
        ("by_class", "Class accuracy by class"),
        ("guidance", "Response to guidance"),
        ("latency", "Latency"),
        ("few_steps", "The teacher with fewer steps"),
        ("stages", "What every pass cost and gained"),
        ("quantization", "Quantization: simulated and real"),
    ],
)
def test_a_part_without_data_is_left_out(part: str, heading: str) -> None:
    report = sample_report.but(sample_report.full(), **{part: sample_report.EMPTY[part]})
    kept = headings(page(report, [], None))
    assert heading not in kept and "Quality" in kept


def test_the_minimal_report_has_no_empty_section() -> None:
    text = page(sample_report.minimal(), [], None)
    assert headings(text) == {"Quality", "Cost", "To reproduce it"}
    shown = Outline(text)
    assert not shown.tags("svg") and not shown.tags("img") and "sets no gates" in shown.text


def test_what_is_worse_is_said_plainly(full: str) -> None:
    text = Outline(full).text
    assert "teacher, OpenVINO fp32 is faster at batch 1, threads: 1; batch 16, threads: 1" in text
    assert "8 evaluations, is faster an image: 77 ms against 88.8 ms" in text
    assert "12 evaluations, is faster" not in text
    assert "cold start is more than that of teacher, onnxruntime fp32" in text
    assert "worse than the teacher's own figure: class accuracy, Fréchet distance FD∞ (classifier, pixels)" in text
    assert "failed: no C++ compiler was found on this machine" in text
    assert "left out" in text and "too few samples for its dimension" in text
    assert "Too few samples for so many" in text  # the space of 60 dimensions
    assert text.count("not resolved") > 10 and "better" in text


def test_gates_show_what_is_held_against_the_limit(full: str) -> None:
    row = next(row for row in re.findall(r"<tr>.*?</tr>", full, flags=re.S) if "≥ 0.97" in row)
    assert re.findall(r"<td[^>]*>(.*?)</td>", row) == ["pass", "≥ 0.97", "0.9931", "0.998"]


def test_nothing_is_loaded_from_anywhere(full: str) -> None:
    shown = Outline(full)
    assert not [tag for tag, _ in shown.elements if tag in {"script", "link", "iframe", "object", "base", "form"}]
    references = [value for _, attributes in shown.elements for key, value in attributes.items() if key in REFERENCES]
    assert references and all(value and value.startswith(("data:image/png", "#")) for value in references)
    assert not re.findall(r"https?://|@import", full)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", full))


def test_ids_are_unique_and_those_referred_to_exist(full: str) -> None:
    shown = Outline(full)
    ids = [attributes["id"] for _, attributes in shown.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    referred = set(re.findall(r"url\(#([^)]*)\)", full)) | set(re.findall(r'href="#([^"]*)"', full))
    assert referred and referred <= set(ids)


def test_plots_follow_the_theme(full: str) -> None:
    figures = "".join(re.findall(r"<svg.*?</svg>", full, flags=re.S))
    assert "var(--ink)" in figures and "var(--student)" in figures
    assert not re.findall(r"(?:fill|stroke): #\w+", figures), "a fixed colour would not adapt to dark"
    defined = set(re.findall(r"(--[\w-]+):", full))
    assert set(re.findall(r"var\((--[\w-]+)\)", full)) <= defined
    light, dark = full.split("@media (prefers-color-scheme: dark)", 1)
    assert set(re.findall(r"(--[\w-]+):", light)) == set(re.findall(r"(--[\w-]+):", dark.split("</style>")[0]))


def test_every_table_scrolls_in_its_own_container(full: str) -> None:
    assert full.count("<table") == len(re.findall(r'<div class="scroll"><table', full)) > 8


def test_same_report_same_page(full: str, tmp_path: Path) -> None:
    samples = sample_report.write_samples(tmp_path / "samples.npz")
    assert page(sample_report.full(), sample_report.records(), samples) == full


def poisoned(content: Any) -> Any:
    """Every free text replaced by a hostile one; keys of tables too, apart from those of the format."""
    if isinstance(content, dict):
        return {key: poisoned(value) for key, value in content.items()}
    if isinstance(content, list):
        return [poisoned(value) for value in content]
    return HOSTILE if isinstance(content, str) and content not in NAMES_OF_THE_FORMAT else content


def test_hostile_text_is_only_text(tmp_path: Path) -> None:
    report = poisoned(sample_report.full().model_dump(mode="json"))
    for table in (report["quality"], report["spaces"], report["spaces"]["random"]["metrics"], report["guidance"]):
        table[HOSTILE] = copy.deepcopy(next(iter(table.values())))
    report["unmeasured"][HOSTILE] = HOSTILE
    records = poisoned(sample_report.records())
    samples = sample_report.write_samples(tmp_path / "samples.npz")
    shown = Outline(page(Report.model_validate_json(json.dumps(report)), records, samples))
    clean = Outline(page(sample_report.full(), sample_report.records(), samples))
    assert {tag for tag, _ in shown.elements} == {tag for tag, _ in clean.elements}
    assert not [key for _, attributes in shown.elements for key in attributes if key.startswith("on")]
    assert "alert(1)" in shown.text and "{{ 7*7 }}" in shown.text
    assert len(shown.tags("img")) == len(clean.tags("img"))


def test_a_plot_shows_a_hostile_name_as_text() -> None:
    drawn = str(plots.latency([sample_report.row({**sample_report.TEACHER, "engine": HOSTILE}, 1.0)]))
    assert "<script" not in drawn and "&lt;script&gt;alert(1)" in drawn and "$\\frac{$" in drawn


def test_card_says_what_the_page_says() -> None:
    made = card("digits-edge", sample_report.records(), sample_report.full(), bundle=True)
    assert "[report.html](report.html)" in made
    assert "| class accuracy | 98.4% | 98.0% … 98.8% | 99.9% | 0.2% | worse |" in made
    assert "| Fréchet distance FD∞ (random) | 0.14 | 0.08 … 0.2 | 0.12 | 0.05 | not resolved |" in made
    assert "- teacher, OpenVINO fp32 is faster" in made and "| left out |" in made
    blocks = [block for block in made.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 4
    for block in blocks:  # a table whose rows are of unequal length is no table
        assert len({line.count("|") for line in block.strip().splitlines()}) == 1, block


def test_a_failed_gate_that_rounds_to_its_limit_shows_the_difference() -> None:
    gates = (sample_report.gate("ssim", "min", 0.97, 0.97001, 0.9699996, False),)
    text = Outline(page(sample_report.but(sample_report.full(), gates=gates, verdict="fail"), [], None)).text
    assert "0.9699996" in text and "gate SSIM fails" in text


@pytest.mark.parametrize("channels, mode", [(1, "L"), (3, "RGB"), (4, "L")])
def test_thumbnails_are_small_pngs(tmp_path: Path, channels: int, mode: str) -> None:
    random = np.random.default_rng(0).uniform(-1, 1, (50, channels, 128, 128)).astype(np.float32)
    np.savez(tmp_path / "s.npz", teacher=random, student=-random)
    (group,) = pairs(tmp_path / "s.npz")
    assert group["label"] is None and len(group["pairs"]) == 40  # type: ignore[arg-type]
    theirs, ours = group["pairs"][0]  # type: ignore[index]
    opened = [Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) for uri in (theirs, ours)]
    assert [image.size for image in opened] == [(96, 96)] * 2 and opened[0].mode == mode
    total = np.asarray(opened[0], float) + np.asarray(opened[1], float)
    assert abs(total.mean() - 255) < 2  # the student's is the negative


def test_samples_are_grouped_by_class(tmp_path: Path) -> None:
    groups = pairs(sample_report.write_samples(tmp_path / "s.npz"))
    assert [group["label"] for group in groups] == list(range(10))
    assert all(len(group["pairs"]) == 4 for group in groups)  # type: ignore[arg-type]


@pytest.fixture
def finished(tmp_path: Path) -> Iterator[Path]:
    """What the passes leave behind before `publish`."""
    for number, record in enumerate(sample_report.records(), start=1):
        (tmp_path / "passes" / f"{number:02d}-{record['name']}" / "files").mkdir(parents=True)
    files = tmp_path / "passes" / "03-verify" / "files"
    sample_report.full().write(files)
    sample_report.write_samples(files / "samples.npz")
    yield tmp_path


def test_publish_writes_the_page_beside_the_report(finished: Path) -> None:
    assert publish("digits-edge", finished, sample_report.records()) == "pass"
    text = (finished / "report.html").read_text(encoding="utf-8")
    assert "Samples from the same noise" in text and "How it was made" in text
    assert "report.html" in (finished / "README.md").read_text(encoding="utf-8")


def test_without_verify_there_is_no_page(finished: Path) -> None:
    assert publish("digits-edge", finished, sample_report.records()[:2]) is None
    assert not (finished / "report.html").exists()
    assert "report.html" not in (finished / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("net", "weights", "says"),
    [
        ("unet", "diffusion_pytorch_model.safetensors", "`student/unet` is a net that diffusers loads"),
        ("transformer", "diffusion_pytorch_model.safetensors", "`student/transformer` is a net that diffusers loads"),
        ("unet", "needs_structure_json.safetensors", "finds no weights"),
    ],
)
def test_the_card_says_who_loads_the_student(finished: Path, net: str, weights: str, says: str) -> None:
    record = {**sample_report.records()[0], "stored": "model"}
    folder = finished / "passes" / f"01-{record['name']}" / "model" / net
    folder.mkdir(parents=True)
    (folder / weights).touch()
    publish("digits-edge", finished, [record])
    written = (finished / "README.md").read_text(encoding="utf-8")
    assert says in written and 'checkpoint.load("student")' in written


VERDICTS = ["pass", "fail", "not judged"]
ADVICE = "the recipe has no gate on quality; add one, such as verify: {gates: {class_accuracy: {margin: 0.02}}}"


@pytest.mark.parametrize("verdict", VERDICTS)
def test_page_and_card_say_the_verdict_and_what_to_add(verdict: Verdict) -> None:
    report = sample_report.of(verdict)
    shown = Outline(page(report, [], None))
    (badge,) = [a["class"] for a in shown.tags("span") if (a.get("class") or "").startswith("verdict")]
    assert badge == f"verdict {verdict.replace(' ', '-')}"
    made = card("digits-edge", sample_report.records(), report, bundle=True)
    assert f"**Verdict: {verdict}.** " in made
    for said in (ADVICE, "; add one, such as"):
        assert [said in text for text in (shown.text, made)] == [verdict == "not judged"] * 2


def test_gates_that_always_hold_are_marked_and_explained(full: str) -> None:
    rows = re.findall(r'<tr><th scope="row">(.*?)</th><td class="(?:pass|FAIL|left out)">', full)
    marked = [row.split("<small>")[0] for row in rows if "<small>always</small>" in row]
    assert marked == [words.name(gate.name) for gate in sample_report.ALWAYS] and len(rows) == 8
    made = card("digits-edge", sample_report.records(), sample_report.full(), bundle=True)
    assert made.count(" (always) | ") == 4
    explained = "Gates marked “always” hold whatever the recipe says."
    assert explained in Outline(full).text and explained in made


def test_gates_on_quality_that_mean_nothing_are_said_to_judge_nothing() -> None:
    report = sample_report.of("not judged")
    left_out = Decision(name="psnr", kind="min", limit=25.0, reason="other noise")
    report = sample_report.but(report, gates=(*report.gates, left_out))
    assert findings.unjudged(report).startswith("no gate on quality means anything for this student; add one, such as")
    report = sample_report.but(report, quality={}, spaces={})
    assert findings.unjudged(report).endswith("verify: {samples: 1000, gates: {coverage: {margin: 0.1}}}")


def test_every_example_of_a_gate_is_one_that_a_recipe_takes() -> None:
    config = passes.module("verify").Config
    for measured in (*findings.EXAMPLES, None):
        quality = {} if measured is None else {measured: Figure(value=1.0, better="more")}
        said = findings.unjudged(
            sample_report.but(sample_report.of("not judged"), quality=quality, spaces={}, gates=())
        )
        settings = yaml.safe_load(said.split("such as verify: ")[1])
        assert set(config.model_validate(settings).gates) == {measured or "coverage"}

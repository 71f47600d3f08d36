"""report.html and the model card: whole, minimal and hostile reports."""

import base64
import copy
import json
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image

from compress import passes
from compress.pages import findings, pictures, plots, words
from compress.pages.card import card
from compress.pages.page import page
from compress.pages.publish import publish
from compress.report.parts import Decision, Figure, Verdict
from compress.report.report import Report, read
from tests import sample_report

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)> $\\frac{$ [red]& {{ 7*7 }} -->"
NAMES_OF_THE_FORMAT = {
    *("pass", "fail", "min", "max", "more", "less", "teacher", "student", "call", "guided call", "whole image"),
    *("text encoder", "denoiser", "decoder"),
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


def drawn(text: str) -> list[str]:
    """The SVG of every plot on a page."""
    uris = [(tag["src"] or "").split(";base64,") for tag in Outline(text).tags("img")]
    return [base64.b64decode(content).decode() for kind, content in uris if kind == "data:image/svg+xml"]


def picture(folder: Path) -> Path:
    pictures.draw_pairs(sample_report.write_samples(folder / "samples.npz"), folder / "samples.png")
    return folder / "samples.png"


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page(sample_report.full(), sample_report.records(), picture(tmp_path_factory.mktemp("samples")))


@pytest.mark.parametrize("whole", [sample_report.full, sample_report.minimal])
def test_what_is_written_is_read_again(whole: Callable[[], Report], tmp_path: Path) -> None:
    whole().write(tmp_path)
    assert read(tmp_path) == whole()


def test_every_part_has_its_section(full: str) -> None:
    assert headings(full) == {
        "Gates",
        "Samples from the same noise",
        "Quality",
        "Error along the trajectory",
        "Class accuracy by class",
        "Response to guidance",
        "Latency",
        "The teacher with fewer steps",
        "Cost",
        "Parts of the pipeline",
        "What every pass cost and gained",
        "Quantization: simulated and real",
        "How it was made",
        "To reproduce it",
    }
    # probe, by class, 2 of guidance, 2 of latency, 2 of the passes
    assert len(drawn(full)) == 8


@pytest.mark.parametrize(
    "part, heading",
    [
        ("pipeline", "Parts of the pipeline"),
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
    assert not shown.tags("img") and "sets no gates" in shown.text


def test_what_is_worse_is_said_plainly(full: str) -> None:
    text = Outline(full).text
    assert "teacher, OpenVINO fp32 is faster at batch 1, threads: 1; batch 16, threads: 1" in text
    assert "8 evaluations, is faster an image: 77 ms against 88.8 ms" in text
    assert "12 evaluations, is faster" not in text
    assert "cold start is more than that of teacher, onnxruntime fp32" in text
    worse = "class accuracy, named as the teacher's (style, colour), Fréchet distance FD∞ (classifier, pixels)"
    assert f"worse than the teacher's own figure: {worse}" in text
    assert "failed: no C++ compiler was found on this machine" in text
    assert "left out" in text and "too few samples for its dimension" in text
    assert "Too few samples for so many" in text  # the space of 60 dimensions
    assert text.count("not resolved") > 10 and "better" in text


def test_gates_show_what_is_held_against_the_limit(full: str) -> None:
    row = next(row for row in re.findall(r"<tr>.*?</tr>", full, flags=re.S) if "≥ 0.97" in row)
    assert Outline(row).text == "same class as the teacher's pass ≥ 0.97 0.9931 0.998"


def test_nothing_is_loaded_from_anywhere(full: str) -> None:
    shown = Outline(full)
    assert not [tag for tag, _ in shown.elements if tag in {"script", "link", "iframe", "object", "base", "form"}]
    references = [value for _, attributes in shown.elements for key, value in attributes.items() if key in REFERENCES]
    assert references and all(value and value.startswith("data:image/") for value in references)
    assert not re.findall(r"https?://|@import|url\(", full)
    for plot in drawn(full):
        targets = re.findall(r"url\(([^)]*)\)", plot) + re.findall(r'href="([^"]*)"', plot)
        assert targets and all(target.startswith("#") for target in targets) and "@import" not in plot


def test_plots_follow_the_theme(full: str) -> None:
    """They have no ground of their own, and the stylesheet turns their colours over in the dark."""
    for plot in drawn(full):
        whole = ElementTree.fromstring(plot).findall(".//{*}g[@id='patch_1']/{*}path")
        assert [path.get("style") for path in whole] == ["fill: none"]
    light, dark = full.split("@media (prefers-color-scheme: dark)", 1)
    dark = dark.split("</style>")[0]
    assert re.search(r'img\[src\^="data:image/svg"\] { filter: invert\(', dark) and "filter" not in light
    colours = [set(re.findall(r"(--[\w-]+):", part)) for part in (light, dark)]
    assert colours[0] == colours[1] >= set(re.findall(r"var\((--[\w-]+)\)", full))


def test_every_table_scrolls_in_its_own_container(full: str) -> None:
    assert full.count("<table") == len(re.findall(r'<div class="scroll"><table', full)) > 8


def test_same_report_same_page(full: str, tmp_path: Path) -> None:
    assert page(sample_report.full(), sample_report.records(), picture(tmp_path)) == full


def poisoned(content: Any) -> Any:
    """Every free text replaced by a hostile one; keys of tables too, apart from those of the format."""
    if isinstance(content, dict):
        return {key: poisoned(value) for key, value in content.items()}
    if isinstance(content, list):
        return [poisoned(value) for value in content]
    return HOSTILE if isinstance(content, str) and content not in NAMES_OF_THE_FORMAT else content


def test_hostile_text_is_only_text(tmp_path: Path) -> None:
    report = poisoned(sample_report.full().model_dump(mode="json"))
    for table in (
        report["quality"],
        report["attributes"],
        report["spaces"],
        report["spaces"]["random"]["metrics"],
        report["guidance"],
    ):
        table[HOSTILE] = copy.deepcopy(next(iter(table.values())))
    report["unmeasured"][HOSTILE] = HOSTILE
    records = poisoned(sample_report.records())
    samples = picture(tmp_path)
    shown = Outline(page(Report.model_validate_json(json.dumps(report)), records, samples))
    clean = Outline(page(sample_report.full(), sample_report.records(), samples))
    assert {tag for tag, _ in shown.elements} == {tag for tag, _ in clean.elements}
    assert not [key for _, attributes in shown.elements for key in attributes if key.startswith("on")]
    assert "alert(1)" in shown.text and "{{ 7*7 }}" in shown.text
    assert len(shown.tags("img")) == len(clean.tags("img")) + 1  # of the metric that answers to guidance


def test_a_plot_shows_a_hostile_name_as_text() -> None:
    row = sample_report.row({**sample_report.TEACHER, "engine": HOSTILE}, 1.0)
    source, _ = plots.latency([row], HOSTILE)
    root = ElementTree.fromstring(base64.b64decode(source.split(",")[1]))
    svg = "{http://www.w3.org/2000/svg}"
    assert {element.text for element in root.iter(f"{svg}text")} >= {row.name, HOSTILE}
    assert not {element.tag.removeprefix(svg) for element in root.iter()} & {"script", "img", "image", "foreignObject"}


def test_card_says_what_the_page_says() -> None:
    made = card("digits-edge", sample_report.records(), sample_report.full(), bundle=True)
    assert "[report.html](report.html)" in made
    assert "| class accuracy ↑ | 98.4% worse (98.0% … 98.8%) | 99.9% | ± 0.2 points |" in made
    assert "| Fréchet distance FD∞ (random) ↓ | 0.14 not resolved (0.08 … 0.2) | 0.12 | ± 0.05 |" in made
    assert "- teacher, OpenVINO fp32 is faster" in made and "| left out |" in made
    blocks = [block for block in made.split("\n\n") if block.startswith("|")]
    assert len(blocks) == 5
    for block in blocks:  # a table whose rows are of unequal length is no table
        assert len({line.count("|") for line in block.strip().splitlines()}) == 1, block


def test_a_failed_gate_that_rounds_to_its_limit_shows_the_difference() -> None:
    gates = (sample_report.gate("ssim", "min", 0.97, 0.97001, 0.9699996, False),)
    text = Outline(page(sample_report.but(sample_report.full(), gates=gates, verdict="fail"), [], None)).text
    assert "0.9699996" in text and "gate SSIM fails" in text


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_samples_are_drawn_above_each_other_and_what_is_no_number_is_black(tmp_path: Path, channels: int) -> None:
    teacher = np.ones((12, channels, 8, 8), np.float32)
    student = np.full_like(teacher, np.nan)
    np.savez(tmp_path / "s.npz", teacher=teacher, student=student, labels=np.arange(12))
    pictures.draw_pairs(tmp_path / "s.npz", tmp_path / "s.png")
    shown = np.asarray(Image.open(tmp_path / "s.png").convert("L"))
    black = (shown == 0).mean(axis=1) > 0.5  # rows of pixels across ten images
    edges = np.flatnonzero(np.diff(black.astype(int)))
    assert len(edges) == 2 and 0.3 < edges[0] / len(black) < 0.4, "the second of four rows: the last has two images"


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
    rows = re.findall(r'<tr><th scope="row">(.*?)</th><td> <span class="(?:pass|FAIL|left-out)">', full)
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


def test_parts_of_a_pipeline_say_which_is_slow_and_which_is_to_blame(full: str) -> None:
    text = Outline(full).text
    said = (
        "Most of its time goes to the denoiser, most of its bytes to the denoiser; the decoder makes most of its "
        "error: 31.7 dB PSNR when it alone is the student's."
    )
    assert said in text
    made = card("digits-edge", sample_report.records(), sample_report.full(), bundle=True)
    row = "| decoder | 8.6 MB → 130 kB | 52.9 → 4.2 ms | 5% → 1% | 31.7 (31.3 … 32.1) |"
    assert said in made and row in made
    assert findings.heaviest(sample_report.minimal()) == ""


def test_an_attribute_stands_beside_the_accuracy_of_what_names_it() -> None:
    made = card("digits-edge", sample_report.records(), sample_report.full(), bundle=True)
    assert "| named as asked (style) ↑ (the classifier itself: 87.0% of 471) | 78.0% not resolved" in made

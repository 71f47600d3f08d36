"""report.html: everything that a report.json says, on one page that needs nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from compress.pages import findings, plots, tables, targets
from compress.pages.tables import Table
from compress.report.report import Report

COST = "Interleaved in one run; a fresh process: importing, loading and the first call. In small type: 95% intervals."
PIPELINE = (
    "Of one picture, batch 1: the teacher in PyTorch, fp32 → the student as it ships. “dB alone”: PSNR of pictures in "
    "which this part alone is the student's and the others are the teacher's; the lowest is to blame."
)
GATES = f"What is held against the limit is the far end of the value's 95% interval, not the value. {findings.ALWAYS}"
QUALITY = (
    "“Teacher's own” is the same figure of the teacher itself on other noise, and the floor how far that strays from "
    "seed to seed. A difference within the floor, or whose 95% interval holds 0, is “not resolved”: it could be "
    "chance. A dash: no floor exists for this figure. ↑: more is better, ↓: less. In small type: 95% intervals."
)
PROBE = (
    "Relative squared error of the guided output on the same noisy samples, with its 95% interval. Floor: the unpruned "
    "teacher in onnxruntime fp32 against PyTorch."
)
LATENCY = (
    "One call of the whole batch, interleaved in one run. Speedup: the teacher in PyTorch, eager, at the same batch ÷ "
    "this engine. “Not told apart”: the 95% intervals overlap."
)
TARGETS = (
    "Files for other engines that lie beside the bundle, each drawn from by its own, against the same samples of the "
    "teacher and the same limits. Times are of that engine here; a simulator has none."
)
FEW_STEPS = "The strongest cheap baseline: the teacher as it is, with its best solver for few evaluations."
STAGES = "Down and to the left is better. The numbers are those of the table; error and SQNR are against the teacher."


class Section(NamedTuple):
    """A part of a page; one without pictures and rows is left out."""

    heading: str
    note: str = ""
    pictures: Sequence[plots.Picture] = ()
    tables: Sequence[Table] = ()


def page(report: Report, records: Sequence[Mapping[str, Any]], samples: Path | None) -> str:
    """One HTML file: pictures and plots inline, readable on a phone and in the dark.

    records: of the passes that made the student, or none. samples: the picture of pairs of samples.
    """
    groups, stages = findings.groups(report), report.stages
    timed = [*tables.latency(report), *filter(lambda table: table.rows, [targets.engines(report)])]
    steps = [(str(place), stage, stage.output_error) for place, stage in enumerate(stages, 1)]
    sections = [
        Section("Cost", COST, tables=[tables.costs(report), tables.processes(report)]),
        Section("Parts of the pipeline", f"{PIPELINE} {findings.heaviest(report)}", tables=[tables.pipeline(report)]),
        Section("Gates", GATES, tables=[tables.gates(report)]),
        Section("Samples from the same noise", pictures=[picture(samples)] if samples else []),
        Section("Quality", QUALITY, tables=[tables.quality(report), tables.spaces(report)]),
        Section("On other engines", TARGETS, tables=[targets.targets(report)]),
        Section("Error along the trajectory", PROBE, [plots.probe({"student": report.probe})] if report.probe else []),
        Section(
            "Class accuracy by class",
            pictures=[plots.by_class(report.by_class)] if report.by_class else [],
            tables=[tables.by_class(report)],
        ),
        Section("Response to guidance", pictures=[plots.guidance(*one) for one in report.guidance.items()]),
        Section("Latency", LATENCY, [plots.latency(rows, title) for title, rows in groups], timed),
        Section("The teacher with fewer steps", FEW_STEPS, tables=[tables.few_steps(report)]),
        Section("What every pass cost and gained", STAGES, plots.trades(steps, *stages[:1]), [tables.stages(report)]),
        Section("Quantization: simulated and real", tables=[tables.quantization(report)]),
        Section("How it was made", tables=[tables.records(records)]),
        Section("To reproduce it", tables=[tables.origin(report, records)]),
    ]
    return render("report.html.jinja", report=report, title=report.recipe, sections=sections)


def picture(samples: Path) -> plots.Picture:
    """Of pairs of samples, as `pictures.draw_pairs` draws them."""
    return plots.embedded(samples.read_bytes(), "image/png", "the teacher's samples above the student's, same noise")


def render(template: str, **content: Any) -> str:
    """A template of this folder, filled in; in HTML whatever is no markup yet is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=".html." in template,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = lambda text: " ".join(str(text).replace("|", "\\|").split())  # of a Markdown table
    return environment.get_template(template).render(findings=findings, tables=tables, **content)

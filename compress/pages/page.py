"""report.html: everything that a report.json says, on one page that needs nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from compress.pages import findings, plots, words
from compress.pages.thumbnails import pairs
from compress.report.report import Report


def page(report: Report, records: Sequence[Mapping[str, Any]], samples: Path | None) -> str:
    """One HTML file: pictures and plots inline, readable on a phone and in the dark.

    records: of the passes that made the student, or none. samples: the .npz with pairs of samples.
    """
    stages = report.stages
    return render(
        "report.html.jinja",
        report=report,
        title=report.recipe,
        shortfalls=findings.shortfalls(report),
        records=[{**record, "settings": settings(record["config"])} for record in records],
        groups=[] if samples is None else pairs(samples),
        latency=[(title, rows, plots.latency(rows)) for title, rows in findings.groups(report)],
        probe=plots.probe({"student": report.probe}) if report.probe else None,
        trades=plots.trades([(str(i), stage, stage.output_error) for i, stage in enumerate(stages, 1)], *stages[:1]),
        responses=[plots.guidance(curve, metric) for metric, curve in report.guidance.items()],
        by_class=plots.by_class(report.by_class) if report.by_class else None,
        facts=_facts(report, dict(records[-1]["versions"]) if records else {}),
    )


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
    environment.filters["cell"] = _cell
    return environment.get_template(template).render(words=words, findings=findings, **content)


def _facts(report: Report, versions: Mapping[str, str]) -> dict[str, Any]:
    """What it takes to reproduce a report. versions: of the libraries that made the student."""
    reference = {f"reference, {key}": value for key, value in report.reference}
    return {**versions, **dict(report.environment), "seed": report.seed, **reference}


def settings(config: Mapping[str, Any]) -> str:
    """Settings in one line; what is long or not set is left out."""
    shown = {key: value for key, value in config.items() if value is not None and len(str(value)) < 80}
    return ", ".join(f"{key}: {value}" for key, value in shown.items()) or "default"


def _cell(text: object) -> str:
    """Text that stays within one cell of a Markdown table."""
    return " ".join(str(text).replace("|", "\\|").split())

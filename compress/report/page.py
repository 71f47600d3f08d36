"""report.html: everything that a report.json says, on one page that needs nothing else."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from compress.report import plots, words
from compress.report.thumbnails import pairs

Report = Mapping[str, Any]


def page(report: Report, records: Sequence[Mapping[str, Any]], samples: Path | None) -> str:
    """One HTML file: pictures and plots inline, readable on a phone and in the dark.

    report: content of a report.json, of this format or an older one; what it lacks is left out.
    records: of the passes that made the student, or none. samples: the .npz with pairs of samples.
    """
    return render(
        "report.html.jinja",
        report=report,
        title=report.get("recipe") or "report",
        shortfalls=words.shortfalls(report),
        records=[{**record, "settings": settings(record["config"])} for record in records],
        groups=[] if samples is None else pairs(samples),
        latency=[
            {"batch": batch, "threads": threads, "rows": rows, "plot": plots.latency(rows)}
            for batch, threads, rows in words.groups(report)
        ],
        probe=plots.probe({"student": report["probe"]}) if report.get("probe") else None,
        trades=trades(report.get("stages") or []),
        responses=_responses(report.get("guidance")),
        by_class=plots.by_class(**_only(report["by_class"], "labels", "teacher", "student"))
        if report.get("by_class")
        else None,
        versions=dict(records[-1].get("versions", {})) if records else {},
    )


def render(template: str, **content: Any) -> str:
    """A template of this folder, filled in; whatever is no markup yet is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(words=words, **content)


def settings(config: Mapping[str, Any]) -> str:
    """Settings in one line; what is long or not set is left out."""
    shown = {key: value for key, value in config.items() if value is not None and len(str(value)) < 80}
    return ", ".join(f"{key}: {value}" for key, value in shown.items()) or "default"


def trades(stages: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """What every pass cost and gained: bytes, then ms, against output error. Points bear the numbers of the table.

    The teacher has no error and is drawn as a line.
    """
    drawn = []
    for key, scale, label in (("bytes", 1e-6, "MB"), ("ms_per_call", 1, "ms a call")):
        points = [
            (str(place), stage[key] * scale, stage["output_error"])
            for place, stage in enumerate(stages, start=1)
            if stage.get(key) is not None and stage.get("output_error")
        ]
        first = stages[0].get(key) if stages and not stages[0].get("output_error") else None
        if points:
            line = None if first is None else ("teacher", first * scale)
            drawn.append(plots.trade(points, label, "relative output error", line, path=True))
    return drawn


def _responses(guidance: Mapping[str, Any] | None) -> list[Markup]:
    if not guidance:
        return []
    return [plots.guidance(guidance["scales"], curve, metric) for metric, curve in guidance.get("curves", {}).items()]


def _only(table: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: table[key] for key in keys}

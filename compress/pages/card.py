"""The model card."""

from collections.abc import Mapping, Sequence
from typing import Any

from compress.pages import findings
from compress.pages.page import render, settings
from compress.report.report import Report
from compress.runtime.bundle import SCALARS


def card(
    recipe: str,
    records: Sequence[Mapping[str, Any]],
    report: Report | None,
    bundle: bool,
    student: str | None = None,
) -> str:
    """Markdown from the records of the passes and the report of `verify`, if there is one.

    student: the folder of its net, if there is one that diffusers loads; "": this package alone loads it.
    """
    rows = [{**record, "settings": settings(record["config"])} for record in records]
    conditions = ""
    for record in records:
        if record["pass"] == "export_onnx":
            inputs = record["notes"]["inputs"]
            if "class_labels" in inputs:
                conditions = ", class_labels=np.array([3])"
            others = [name for name in inputs if name not in ("sample", "timestep", "class_labels", *SCALARS)]
            conditions += "".join(f", {name}={name}" for name in others)
    return render(
        "card.md.jinja",
        recipe=recipe,
        records=rows,
        report=report,
        shortfalls=findings.shortfalls(report) if report else [],
        bundle=bundle,
        student=student,
        conditions=conditions,
    )

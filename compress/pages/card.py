"""The model card."""

from collections.abc import Mapping, Sequence
from typing import Any

from compress.pages import tables
from compress.pages.page import render
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
    inputs = [name for record in records if record["pass"] == "export_onnx" for name in record["notes"]["inputs"]]
    conditions = ", class_labels=np.array([3])" if "class_labels" in inputs else ""
    known = ("sample", "timestep", "class_labels", *SCALARS)
    conditions += "".join(f", {name}={name}" for name in inputs if name not in known)
    return render(
        "card.md.jinja",
        recipe=recipe,
        made=tables.records(records),
        report=report,
        bundle=bundle,
        student=student,
        conditions=conditions,
    )

"""The model card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jinja2

from compress.report import words
from compress.report.page import settings
from compress.runtime.bundle import SCALARS


def card(
    recipe: str,
    records: Sequence[Mapping[str, Any]],
    report: Mapping[str, Any] | None,
    bundle: bool,
    student: Literal["stock", "own"] | None = None,
) -> str:
    """Markdown from the records of the passes and the report of `verify`, if there is one.

    student: whether diffusers loads it or this package alone, if there is one.
    """
    template = Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    environment.filters["cell"] = _cell
    rows = [{**record, "settings": settings(record["config"])} for record in records]
    conditions = ""
    for record in records:
        if record["pass"] == "export_onnx":
            inputs = record["notes"]["inputs"]
            if "class_labels" in inputs:
                conditions = ", class_labels=np.array([3])"
            others = [name for name in inputs if name not in ("sample", "timestep", "class_labels", *SCALARS)]
            conditions += "".join(f", {name}={name}" for name in others)
    return environment.from_string(template).render(
        recipe=recipe,
        records=rows,
        report=report,
        shortfalls=words.shortfalls(report) if report else [],
        bundle=bundle,
        student=student,
        conditions=conditions,
        words=words,
    )


def _cell(text: object) -> str:
    """Text that stays within one cell of a Markdown table."""
    return " ".join(str(text).replace("|", "\\|").split())

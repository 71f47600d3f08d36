"""The model card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2


def card(recipe: str, records: Sequence[Mapping[str, Any]], report: Mapping[str, Any] | None, bundle: bool) -> str:
    """Markdown from the records of the passes and the report of `verify`, if there is one."""
    template = Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    rows = [{**record, "settings": _settings(record["config"])} for record in records]
    conditions = ""
    for record in records:
        if record["pass"] == "export_onnx":
            inputs = record["notes"]["inputs"]
            if "class_labels" in inputs:
                conditions = ", class_labels=np.array([3])"
            elif "encoder_hidden_states" in inputs:
                conditions = ", encoder_hidden_states=embeddings"
    return environment.from_string(template).render(
        recipe=recipe, records=rows, report=report, bundle=bundle, conditions=conditions
    )


def _settings(config: Mapping[str, Any]) -> str:
    """Settings in one line; what is long or not set is left out."""
    shown = {key: value for key, value in config.items() if value is not None and len(str(value)) < 80}
    return ", ".join(f"{key}: {value}" for key, value in shown.items()) or "default"

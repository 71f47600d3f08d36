"""The report: what `verify` fills and saves, and what every page reads."""

from collections.abc import Mapping
from os.path import lexists
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from compress.errors import ReportError
from compress.files import JSON_BYTES, Unreadable, read_text, write_json
from compress.report import parts
from compress.report.targets import Target
from compress.report.text_to_image import Attribute, PipelinePart

FORMAT: Literal[4] = 4


def pooled(
    quality: Mapping[str, parts.Figure], *several: Mapping[str, parts.Space | Attribute]
) -> dict[str, list[parts.Figure]]:
    """Every figure under its name, those of spaces and of attributes beside each other."""
    found = {name: [figure] for name, figure in quality.items()}
    for one in (one for each in several for one in each.values()):
        for name, figure in one.metrics.items():
            found.setdefault(name, []).append(figure)
    return found


class Costs(parts.Part):
    """What the student costs beside its teacher, and where that was measured."""

    teacher: parts.Side
    student: parts.Side
    ratios: dict[str, parts.Figure]
    latency: tuple[parts.Latency, ...]
    failed: tuple[parts.Failed, ...]
    process: tuple[parts.Process, ...]
    environment: parts.Environment


class Report(Costs):
    """The whole report. stages: what the passes cost; unmeasured: metrics, and why they were not measured. engines: of
    which the fastest was chosen, milliseconds of a guided call, or why one was left out. targets: files for other
    engines beside the bundle.
    """

    format: Literal[4]
    recipe: str
    verdict: parts.Verdict
    gates: tuple[parts.Decision, ...]
    quality: dict[str, parts.Figure]
    unmeasured: dict[str, str]
    spaces: dict[str, parts.Space]
    probe: tuple[parts.TimestepError, ...]
    guidance: dict[str, tuple[parts.Response, ...]]
    by_class: tuple[parts.ClassAccuracy, ...]
    few_steps: tuple[parts.FewSteps, ...]
    stages: tuple[parts.Stage, ...]
    quantization: parts.Quantization | None
    reference: parts.Reference
    seed: int
    attributes: dict[str, Attribute] = Field(default_factory=dict)
    pipeline: tuple[PipelinePart, ...] = ()
    engines: dict[str, float | str] = Field(default_factory=dict)
    targets: dict[str, Target] = Field(default_factory=dict)

    def figures(self) -> list[tuple[str, str, parts.Figure]]:
        """(metric, space or attribute or nothing, figure) of every figure of quality, those of one metric beside each
        other."""
        own = [(metric, "", figure) for metric, figure in self.quality.items()]
        several: dict[str, Attribute | parts.Space] = {**self.attributes, **self.spaces}
        every = dict.fromkeys(metric for one in several.values() for metric in one.metrics)
        each = ((metric, name, one.metrics) for metric in every for name, one in several.items())
        return own + [(metric, name, found[metric]) for metric, name, found in each if metric in found]

    @property
    def agreement(self) -> dict[str, bool]:
        """Of each figure that several spaces have: do they say the same of whether student and teacher differ?"""
        said = pooled({}, self.spaces)
        return {metric: len({figure.resolved for figure in each}) == 1 for metric, each in said.items() if each[1:]}

    def write(self, folder: Path) -> None:
        """Save it as report.json."""
        write_json(folder / "report.json", self.model_dump(mode="json"))


def read(folder: Path) -> Report:
    """The report of a result folder, or of the bundle folder `onnx` in it.

    Raises ReportError if there is none, if it is damaged, or if it is of another format than is written here.
    """
    inside = not lexists(folder / "report.json") and lexists(folder / "bundle.json")
    path = (folder.parent if inside else folder) / "report.json"
    if not lexists(path):
        raise ReportError(
            f"{folder}: has no report.json; give the result folder of a recipe that ends in verify, "
            "or write one with `compress verify --output`"
        )
    try:
        return Report.model_validate_json(read_text(path, JSON_BYTES))
    except Unreadable as error:
        said = f"cannot be read: {error}"
    except ValidationError as error:
        faults = {".".join(map(str, fault["loc"])): fault["msg"] for fault in error.errors()}
        said = "is damaged (" + "; ".join(f"{place or 'it'}: {fault}" for place, fault in [*faults.items()][:3]) + ")"
        if "format" in faults:
            said = f"is of another format than {FORMAT}, the one that this version of compress reads"
    raise ReportError(f"{path}: {said}; verify the bundle again, with --recipe")

"""What stands in report.json, format 3, and reading it from a result folder.

`verify` writes it. Reports of format 2 have no gates that always hold and are never "not judged"; those from before the
format had a number lack floors, bounds and baselines: what is here is shown and the rest left out. Shares are 0 to 1,
ratios of sizes student ÷ teacher, speedups teacher ÷ student, intervals 95%.
"""

from collections.abc import Mapping
from os.path import lexists
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from compress.errors import ReportError
from compress.files import Unreadable, read_json

FORMAT = 3
Number = Annotated[float, Field(allow_inf_nan=False)]
Span = Annotated[list[Number], Field(min_length=2, max_length=2)]


class Part(BaseModel):
    """A table of the report. A row either holds all of `measured` or says the reason why not."""

    model_config = ConfigDict(strict=True, extra="ignore")
    measured: ClassVar[tuple[str, ...]] = ()
    aligned: ClassVar[tuple[str, ...]] = ()  # lists of the same length

    @model_validator(mode="after")
    def _measured(self) -> "Part":
        missing = [key for key in self.measured if getattr(self, key) is None]
        if missing and getattr(self, "reason", None) is None:
            raise ValueError(f"{', '.join(missing)}: missing, and no reason given")
        if len({len(getattr(self, key)) for key in self.aligned}) > 1:
            raise ValueError(f"{', '.join(self.aligned)}: should be of the same length")
        return self


class Entry(Part):
    """A figure of quality; of what could not be measured, only the reason."""

    measured = ("value",)
    reason: str | None = None
    value: Number | None = None
    interval: Span | None = None
    count: int | None = None
    better: Literal["more", "less"] | None = None
    teacher: Number | None = None  # the teacher's own figure, on other noise
    floor: Number | None = None  # how far that strays from seed to seed
    excess: Number | None = None  # student's value minus the teacher's
    excess_interval: Span | None = None
    resolved: bool | None = None  # False: the excess is within the floor, or its interval holds 0


class Gate(Part):
    """A limit on a metric; `bound`, the far end of the value's interval, is what is held against it.

    always: whatever the recipe says.
    """

    measured = ("value", "passed")
    name: str
    kind: Literal["min", "max", "margin"]
    limit: Number
    value: Number | None = None
    bound: Number | None = None
    passed: bool | None = None
    reason: str | None = None
    always: bool = False


class Side(Part):
    """What a call and an image cost, of the teacher in PyTorch or of the student as it ships."""

    params: int
    macs: int
    bytes: int
    ms_per_call: Number
    ms_per_image: Number


class Ratios(Part):
    """Sizes: student ÷ teacher; speedups: teacher ÷ student."""

    params: Number
    macs: Number
    bytes: Number
    call_speedup: Number
    image_speedup: Number


class Latency(Part):
    """Milliseconds of one call of a whole batch; of an engine that failed, only the reason."""

    measured = ("ms", "p90", "interval", "speedup")
    name: str
    batch: int
    threads: int
    reason: str | None = None
    ms: Number | None = None
    p90: Number | None = None
    interval: Span | None = None
    speedup: Number | None = None  # PyTorch's eager teacher ÷ this, at the same batch
    speedup_interval: Span | None = None


class Process(Part):
    """A fresh process: import, load, first call."""

    measured = ("cold_start_s", "peak_memory_bytes")
    name: str
    reason: str | None = None
    cold_start_s: Number | None = None
    peak_memory_bytes: Number | None = None


class Space(Part):
    """Distances in one feature space; `enough`: there are samples enough for its dimension."""

    dimension: int
    enough: bool
    real_halves: Number | None = None  # Fréchet distance between the halves of the real images
    metrics: dict[str, Entry]


class Probe(Part):
    """Relative squared error of the guided output at each of the student's timesteps."""

    aligned = ("timesteps", "error", "low", "high", "floor")
    timesteps: list[Number]
    error: list[Number]
    low: list[Number]
    high: list[Number]
    floor: list[Number]


class Figure(Part):
    """A figure with its interval."""

    value: Number
    interval: Span | None = None


class Curve(Part):
    """A metric at every guidance scale."""

    teacher: list[Figure]
    student: list[Figure]


class Guidance(Part):
    """How both sides respond to the guidance scale."""

    scales: list[Number]
    curves: dict[str, Curve]


class ByClass(Part):
    """Class accuracy, class by class."""

    aligned = ("labels", "teacher", "student")
    labels: list[int]
    teacher: list[Number]
    student: list[Number]


class FewSteps(Part):
    """The teacher with fewer evaluations: the strongest cheap baseline."""

    name: str
    evaluations: int
    class_accuracy: Number | None = None
    frechet: Number | None = None
    ms_per_image: Number


class Stage(Part):
    """The model after a pass; the first is the teacher. Error and SQNR are against the teacher."""

    name: str
    params: int
    macs: int
    bytes: int
    ms_per_call: Number | None = None
    engine: str | None = None
    output_error: Number | None = None
    sqnr_db: Number | None = None
    psnr: Number | None = None


class Report(Part):
    """The whole report; what may be missing is left out where it is shown."""

    verdict: Literal["pass", "fail", "not judged"]
    summary: str
    gates: list[Gate]
    teacher: Side
    student: Side
    ratios: Ratios
    intervals: dict[str, Span]
    quality: dict[str, Entry]
    format: int | None = None
    recipe: str | None = None
    latency: list[Latency] | None = None
    process: list[Process] | None = None
    spaces: dict[str, Space] | None = None
    agreement: dict[str, bool] | None = None
    probe: Probe | None = None
    guidance: Guidance | None = None
    by_class: ByClass | None = None
    few_steps: list[FewSteps] | None = None
    stages: list[Stage] | None = None
    quantization: dict[str, Number | None] | None = None
    reference: dict[str, Any] | None = None
    samples: int | None = None
    seed: int | None = None
    seeds: dict[str, list[int]] | None = None
    environment: dict[str, Any] | None = None
    commands: list[str] | None = None


def read_report(folder: Path) -> dict[str, Any]:
    """The report of a result folder, or of the bundle folder `onnx` in it.

    Raises ReportError if there is none, if it is damaged, or if it is of a format that is not known here.
    """
    inside = not lexists(folder / "report.json") and lexists(folder / "bundle.json")
    path = (folder.parent if inside else folder) / "report.json"
    if not lexists(path):
        raise ReportError(
            f"{folder}: has no report.json; give the result folder of a recipe that ends in verify, "
            "or write one with `compress verify --output`"
        )
    try:
        content = read_json(path)
    except Unreadable as error:
        raise ReportError(f"{path}: cannot be read: {error}; verify the bundle again") from error
    return check(content, path)


def check(content: Any, where: Path) -> dict[str, Any]:
    """The content itself, if it is a report. Raises ReportError that names the first faults."""
    if isinstance(content, Mapping) and isinstance(content.get("format"), int) and content["format"] > FORMAT:
        raise ReportError(
            f"{where}: has format {content['format']}; this version reads up to {FORMAT}: update compress"
        )
    try:
        Report.model_validate(content)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, fault['loc'])) or 'it'}: {fault['msg']}" for fault in error.errors()[:3]]
        raise ReportError(f"{where}: is damaged: {'; '.join(faults)}; verify the bundle again") from error
    return dict(content)

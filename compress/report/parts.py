"""What a report is made of: the parts that are filled where they are measured, saved, and read by every page.

Shares are 0 to 1, ratios of sizes student ÷ teacher, speedups teacher ÷ student, intervals 95%.
"""

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, computed_field

from compress.report.statistics import Interval, interval

Better = Literal["more", "less"]
Kind = Literal["min", "max", "margin"]
Verdict = Literal["pass", "fail", "not judged"]
Unit = Literal["call", "guided call", "whole image", "text", "decoding"]
_UNITS: dict[Unit, str] = {"call": "", "guided call": "guided "}  # before the rest of a row's name


class Part(BaseModel):
    """A part of the report: immutable, every value of its own kind, numbers finite."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class Figure(Part):
    """A student's figure beside its teacher's.

    value: the student's; interval: its 95% interval. better: whether more or less of it is. count: items behind it.
    teacher: the same figure of the teacher itself. floor: how far the teacher's strays when only the seed, or only
    the runtime, is another: half the width of its 95% interval. excess: student's minus teacher's, with its interval.
    """

    value: float
    better: Better
    interval: Interval | None = None
    count: int | None = None
    teacher: float | None = None
    floor: float | None = None
    excess: float | None = None
    excess_interval: Interval | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def resolved(self) -> bool | None:
        """Whether student and teacher were told apart: the excess is over the floor, and its interval excludes 0.
        None: nothing is known of the teacher's own figure."""
        if self.excess is None or self.excess_interval is None or self.floor is None:
            return None
        low, high = self.excess_interval
        return not low <= 0 <= high and abs(self.excess) > self.floor


def against(
    value: float, better: Better, ends: Interval, count: int, teacher: float, floor: float, more: Interval | None = None
) -> Figure:
    """A figure beside the teacher's own. more: how much more it is, an interval; None: the teacher's own has none."""
    return Figure(
        value=value,
        better=better,
        interval=ends,
        count=count,
        teacher=teacher,
        floor=floor,
        excess=value - teacher,
        excess_interval=more or (ends[0] - teacher, ends[1] - teacher),
    )


def beside(estimates: np.ndarray, replicates: np.ndarray, better: Better, count: int) -> Figure:
    """A figure from the student's and the teacher's estimates [2] and their paired bootstrap replicates [rounds, 2]."""
    (student, teacher), (own, others) = map(float, estimates), replicates.T
    low, high = interval(others)
    return against(student, better, interval(own), count, teacher, (high - low) / 2, interval(own - others))


class Decision(Part):
    """A gate's limit, held.

    value: what was measured, for a margin what the student lacks; bound: its interval's far end.
    passed: None where the figure means nothing for this student; then `reason` says why, and the verdict goes without.
    always: whether this is a limit whatever the recipe says.
    """

    name: str
    kind: Kind
    limit: float
    value: float | None = None
    bound: float | None = None
    passed: bool | None = None
    reason: str | None = None
    always: bool = False


class Engine(Part):
    """What computes, and in which scheme; in PyTorch every scheme but float is simulated."""

    engine: str
    scheme: str

    @property
    def runtime(self) -> str:
        """As it is printed."""
        if self.scheme == "float":
            return self.engine if self.engine.endswith(":bf16") else f"{self.engine} fp32"
        return f"{self.engine}, simulated {self.scheme}" if self.engine == "PyTorch" else f"{self.engine} {self.scheme}"


class Row(Engine):
    """What was timed: whose net, in one call, one with guidance, all of an image; or a text or a picture around it."""

    side: Literal["teacher", "student"]
    unit: Unit = "call"

    @property
    def name(self) -> str:
        """As it is printed, wherever it is."""
        return f"{_UNITS.get(self.unit, f'{self.unit}, ')}{self.side}, {self.runtime}"


class Latency(Row):
    """Milliseconds of one call of a whole batch: median, 90th percentile, interval of the median. speedup: the
    teacher's in PyTorch, eager, at the same batch ÷ this."""

    batch: int
    threads: int
    ms: float
    p90: float
    interval: Interval
    speedup: float
    speedup_interval: Interval


class Failed(Row):
    """An engine that could not be timed, and why."""

    batch: int
    threads: int
    reason: str


class Process(Row):
    """A fresh process: import, load, first call."""

    cold_start_s: float
    peak_memory_bytes: int


class FewSteps(Row):
    """The teacher with fewer evaluations: the strongest cheap baseline. frechet: in the space that is named."""

    solver: str
    evaluations: int
    ms_per_image: float
    space: str
    frechet: float
    class_accuracy: float | None = None

    @property
    def name(self) -> str:
        """As it is printed, wherever it is."""
        return f"{super().name}, {self.solver}"


class Stage(Engine):
    """The model after a pass, the first is the teacher: `name` and `kind` of the pass. Errors are against the teacher.

    None: where steps were distilled an evaluation has no error, and in simulated arithmetic a call has no time.
    """

    name: str
    kind: str
    params: int
    macs: int
    bytes: int
    ms_per_call: float | None
    output_error: float | None
    sqnr_db: float | None


class Quantization(Part):
    """SQNR in dB against the float student."""

    simulated_sqnr_db: float
    kernels_sqnr_db: float


class Side(Part):
    """What a call and an image cost, of the teacher in PyTorch or of the student as it ships."""

    params: int
    macs: int
    bytes: int
    ms_per_call: float
    ms_per_call_p90: float
    ms_per_image: float


class Space(Part):
    """Distances in one feature space. enough: there are samples enough for its dimension."""

    dimension: int
    enough: bool
    metrics: dict[str, Figure]


class TimestepError(Part):
    """Relative squared error of the guided output at a timestep. floor: of the teacher in another runtime."""

    timestep: float
    error: float
    interval: Interval
    floor: float


class Response(Part):
    """A figure of both sides at a guidance scale."""

    scale: float
    teacher: Figure
    student: Figure


class ClassAccuracy(Part):
    """Class accuracy of both sides in one class."""

    label: int
    teacher: float
    student: float


class Reference(Part):
    """What was judged against: `paired` samples of the teacher from the same noise, and `count` others."""

    count: int
    paired: int
    identity: str
    solver: str
    steps: int


class Environment(Part):
    """Where it was measured."""

    cpu: str
    threads: int
    python: str
    torch: str
    onnxruntime: str
    compress: str

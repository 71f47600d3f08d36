"""The report on a file that another tool made: candidate.json."""

from compress.report.parts import Decision, Figure, Part, Verdict


class Finding(Part):
    """One thing that is wrong. value: the figure that says so; certain: whether it is beyond doubt, which is "fail"."""

    name: str
    value: float
    certain: bool
    said: str


class Asked(Part):
    """The answers at one timestep. output_error: relative squared error of the guided output."""

    timestep: float
    output_error: float
    sqnr_db: float


class Candidate(Part):
    """Figures of the file beside its teacher. left: share that is left of what each condition, what guidance and what
    the timestep changes in the teacher's output, 1 being all of it. inputs: what each of the file's was taken for."""

    file: str
    verdict: Verdict
    gates: tuple[Decision, ...]
    figures: dict[str, Figure]
    left: dict[str, Figure]
    timesteps: tuple[Asked, ...]
    findings: tuple[Finding, ...]
    inputs: dict[str, str]

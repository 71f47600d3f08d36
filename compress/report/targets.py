"""Part of the report: what a bundle's files for other engines are worth."""

from pydantic import Field

from compress.report.parts import Decision, Engine, Figure, Verdict


class Target(Engine):
    """A file for one target, drawn from by its engine, beside the same samples of the teacher.

    ms_per_call: of one guided call, batch 1; speedup: of the bundle's own, interleaved; None: the engine does not
    compute at the target's speed. reason: why it was not run, or fails whatever it draws.
    """

    bytes: int
    verdict: Verdict
    gates: tuple[Decision, ...] = ()
    quality: dict[str, Figure] = Field(default_factory=dict)
    ms_per_call: float | None = None
    speedup: Figure | None = None
    reason: str | None = None

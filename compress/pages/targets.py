"""Tables of engines and targets: where else a bundle runs."""

from compress.pages import words
from compress.pages.tables import Cell, Cells, Table
from compress.report.report import Report


def engines(report: Report) -> Table:
    """Of which the fastest was chosen."""
    said = {
        name: words.ms(one) if isinstance(one, float) else f"left out: {one}" for name, one in report.engines.items()
    }
    return Table(("engine that the bundle may run on", "a guided call"), [*said.items()])


def targets(report: Report) -> Table:
    """The bundle itself, and every file for another engine: what it is worth there."""
    rows: list[Cells] = []
    for name, target in report.targets.items():
        failed = ", ".join(words.name(gate.name) for gate in target.gates if gate.passed is False)
        psnr, ms, faster = target.quality.get("psnr"), target.ms_per_call, target.speedup
        rows.append(
            (
                Cell(name, small=target.runtime),
                Cell(said=target.reason or f"{target.verdict}{f': {failed}' if failed else ''}"),
                "" if psnr is None else f"{psnr.value:.1f}",
                words.size(target.bytes),
                "" if ms is None or faster is None else Cell(words.ms(ms), words.faster(faster.value)),
            )
        )
    return Table(("target", "verdict", "PSNR to the teacher, dB", "bytes", "a guided call, beside the bundle"), rows)

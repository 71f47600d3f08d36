"""compare.html: several students of one teacher, side by side, from their reports."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from compress.errors import ReportError
from compress.pages import findings, plots, tables
from compress.pages.page import Section, picture, render
from compress.report.report import Report
from compress.report.report import read as read_report

NOTE = (
    "In small type: 95% intervals. “Not resolved”: the difference from the teacher's own figure is within what changes "
    "from seed to seed, or its 95% interval holds 0. Each student was timed in its own run."
)


def read(folders: Sequence[Path]) -> dict[str, Report]:
    """The reports by names that tell them apart, in their order. Raises ReportError unless they can stand side by side.

    They must be of one teacher (its parameters and multiply-accumulates) and judged against one reference.
    """
    if len(folders) < 2:
        raise ReportError("compare needs at least two bundles: name two result folders or more")
    whole = [folder.resolve() for folder in folders]
    if len(set(whole)) < len(whole):
        raise ReportError("compare: a bundle is named twice")
    names = [folder.parent.name if folder.name == "onnx" else folder.name for folder in whole]
    if len(set(names)) < len(names):
        names = list(map(str, folders))
    reports = {name: read_report(folder) for name, folder in zip(names, folders, strict=True)}
    first = reports[names[0]]
    for folder, report in zip(folders, reports.values(), strict=True):
        for key in ("params", "macs"):
            ours, theirs = getattr(first.teacher, key), getattr(report.teacher, key)
            if ours != theirs:
                said = f"has another teacher than {folders[0]} ({key} {theirs:,}, not {ours:,})"
                raise ReportError(f"{folder}: {said}; compare students of one teacher")
        known, other = first.reference.identity, report.reference.identity
        if known != other:
            raise ReportError(
                f"{folder}: was judged against another reference than {folders[0]} ({other}, not {known}): "
                "another teacher, sampling or number of images; verify both with the same recipe"
            )
    return reports


def caveats(reports: Mapping[str, Report]) -> list[str]:
    """What makes figures of these reports less comparable than they look."""
    found = []
    for key, what in (("cpu", "processors"), ("threads", "numbers of threads"), ("torch", "versions of PyTorch")):
        values = sorted({str(getattr(report.environment, key)) for report in reports.values()})
        if len(values) > 1:
            found.append(f"timed on different {what} ({', '.join(values)}): compare ratios, not milliseconds")
    why = {name: findings.unjudged(report) for name, report in reports.items()}
    return found + [f"{name} is not judged: {said}" for name, said in why.items() if said]


def comparison(reports: Mapping[str, Report], folders: Sequence[Path]) -> str:
    """One HTML file with the table, the plots and, from the result folders, the samples of every student."""
    costs = [(name, report.student, _error(report)) for name, report in reports.items()]
    trades = [] if None in (error for _, _, error in costs) else plots.trades(costs)
    probes = {name: report.probe for name, report in reports.items() if report.probe}
    samples = {name: _home(folder) / "samples.png" for name, folder in zip(reports, folders, strict=True)}
    sections = [
        Section("Side by side", NOTE, tables=[tables.side_by_side(reports)]),
        Section("Cost against error", "Down and to the left is better.", trades),
        Section("Error along the trajectory", pictures=[plots.probe(probes)] if probes else []),
        *(Section(f"Samples: {name}", pictures=[picture(file)]) for name, file in samples.items() if file.is_file()),
    ]
    title = f"{len(reports)} students of one teacher"
    return render("comparison.html.jinja", title=title, reports=reports, caveats=caveats(reports), sections=sections)


def _error(report: Report) -> float | None:
    return report.quality["output_error"].value if "output_error" in report.quality else None


def _home(folder: Path) -> Path:
    """The result folder of a bundle's."""
    return folder.parent if (folder / "bundle.json").is_file() else folder

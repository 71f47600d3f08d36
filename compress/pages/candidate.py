"""The tables of the report on a file that another tool made."""

from compress.pages import tables, words
from compress.pages.tables import Cell, Table
from compress.report.candidate import Candidate


def tables_of(report: Candidate) -> list[Table]:
    """Figures, timesteps, gates, and what was taken for what."""
    figures = [
        (words.name(name), Cell(words.number(figure.value, name), small=words.span(figure.interval, name)))
        for name, figure in report.figures.items()
    ]
    figures += [
        (f"left of {name}, share", Cell(words.number(figure.value), small=words.span(figure.interval)))
        for name, figure in report.left.items()
    ]
    inputs = ", ".join(f"{theirs} = {ours}" for theirs, ours in report.inputs.items())
    return [
        Table(("figure", "the file beside its teacher"), figures, f"{report.file}: {inputs}"),
        tables.of("timestep", report.timesteps, "timestep", "output_error", "sqnr_db"),
        tables.gates(report),
    ]

"""Plots as inline SVG, small enough for a phone, in colours that follow the page (light or dark).

Matplotlib writes fixed colours; the ones below stand for variables of the page's stylesheet and are
exchanged for them. Text stays text, in the page's font.
"""

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from compress.pages import words
from compress.report.parts import ClassAccuracy, Latency, Response, Side, Stage, TimestepError

COLOURS = {
    "#0a0b01": "var(--ink)",
    "#0a0b02": "var(--muted)",
    "#0a0b03": "var(--line)",
    "#0a0b04": "var(--teacher)",
    "#0a0b05": "var(--student)",
    "#0a0b06": "var(--page)",
    "#0a0b11": "var(--series-1)",
    "#0a0b12": "var(--series-2)",
    "#0a0b13": "var(--series-3)",
    "#0a0b14": "var(--series-4)",
    "#0a0b15": "var(--series-5)",
}
INK, MUTED, LINE, TEACHER, STUDENT, PAGE, *SERIES = COLOURS
MARKERS = "osD^v"
WIDTH = 5.0  # inches: 360 units, about the width of a phone, so that text is never scaled down
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "compress",  # the same ids from the same figure
    "text.parse_math": False,  # names are shown as they are
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.6,
}


def latency(rows: Sequence[Latency], names: Sequence[str] = ()) -> Markup:
    """A bar for each engine of one batch size, in ms a call; the name stands above it, so that it may be long.

    names: other than the rows' own.
    """
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(0.5 * len(rows) + 0.5)
        longest = max(row.interval[1] for row in rows)
        for place, row in enumerate(rows):
            axes.text(0, place - 0.36, names[place] if names else row.name, va="center", ha="left", fontsize=10)
            axes.barh(place + 0.1, row.ms, height=0.42, color=STUDENT if row.side == "student" else TEACHER)
            axes.plot(row.interval, [place + 0.1] * 2, color=INK, linewidth=1.2)
            high = row.interval[1]
            axes.text(high + 0.015 * longest, place + 0.1, words.ms(row.ms), va="center", ha="left")
        axes.set(xlim=(0, 1.22 * longest), ylim=(len(rows) - 0.55, -0.65), xlabel="ms a call (line: 95% interval)")
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        return _svg(figure, f"Latency of {len(rows)} engines, ms a call; the table has the figures")


def probe(curves: Mapping[str, Sequence[TimestepError]]) -> Markup:
    """Relative squared error of the output at each timestep, with its interval and the floor; one curve a student."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(2.9)
        for place, (label, curve) in enumerate(curves.items()):
            colour = STUDENT if len(curves) == 1 else SERIES[place % len(SERIES)]
            steps, errors = [point.timestep for point in curve], [point.error for point in curve]
            lows, highs = zip(*(point.interval for point in curve), strict=True)
            axes.fill_between(steps, lows, highs, color=colour, alpha=0.22, linewidth=0)
            axes.plot(steps, errors, color=colour, label=label, marker=MARKERS[place % 5], markersize=4)
        first = next(iter(curves.values()))
        floor = [point.floor for point in first]
        axes.plot([point.timestep for point in first], floor, color=MUTED, linestyle="--", label="floor")
        points = [point for curve in curves.values() for point in curve]
        positive = [value for point in points for value in (point.error, point.floor) if value > 0]
        if positive:
            _logarithmic(axes, positive)
            axes.set_ylim(bottom=min(positive) / 3)
        axes.invert_xaxis()
        axes.set(xlabel="timestep (noise on the left)", ylabel="relative squared error")
        _legend(axes, min(len(curves) + 1, 2))
        return _svg(figure, "Relative squared error of the guided output at each timestep, with the floor")


def trades(models: Sequence[tuple[str, Side | Stage, float | None]], first: Stage | None = None) -> list[Markup]:
    """Bytes, then ms a call, against output error, of those that have both. models: (label, what it costs, its error).

    first: the teacher of models on their way through a recipe: it has no error and is drawn as a line.
    """
    drawn = []
    for key, scale, label in (("bytes", 1e-6, "MB"), ("ms_per_call", 1, "ms a call")):
        costs = [(name, getattr(model, key), error) for name, model, error in models]
        points = [(name, cost * scale, error) for name, cost, error in costs if cost is not None and error]
        if points:
            drawn.append(_trade(points, label, None if first is None else getattr(first, key) * scale))
    return drawn


def _trade(points: Sequence[tuple[str, float, float]], xlabel: str, teacher: float | None) -> Markup:
    """Cost against error, both to the left and down better; along a path from a teacher's cost, if there is one."""
    ylabel, path = "relative output error", teacher is not None
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(2.9)
        costs, errors = [p[1] for p in points], [p[2] for p in points]
        if path:
            axes.plot(costs, errors, color=MUTED, linewidth=0.9, zorder=1)
        for place, (label, cost, error) in enumerate(points):
            axes.plot(cost, error, "o", color=STUDENT if path else SERIES[place % len(SERIES)], markersize=6)
            left = cost > max(costs) / 2  # the label is drawn towards the middle
            offset = (-7 if left else 7, -12 if place % 2 else 5)  # above and below in turn: passes may lie close
            side = "right" if left else "left"
            axes.annotate(label, (cost, error), xytext=offset, textcoords="offset points", ha=side)
        if teacher is not None:
            axes.axvline(teacher, color=TEACHER, linestyle="--", linewidth=1.2)
            top = axes.get_xaxis_transform()
            axes.text(teacher, 1.01, "teacher", transform=top, ha="right", va="bottom", color=INK, fontsize=10)
        if min(errors) > 0:
            _logarithmic(axes, errors)
        axes.margins(0.14, 0.16)
        axes.set_xlim(left=0)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        return _svg(figure, f"{ylabel} against {xlabel}: " + ", ".join(label for label, *_ in points))


def guidance(curve: Sequence[Response], metric: str) -> Markup:
    """One metric of both sides at every guidance scale, with intervals."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(2.5)
        scales = [point.scale for point in curve]
        for side, colour, marker in (("teacher", TEACHER, "s"), ("student", STUDENT, "o")):
            found = [getattr(point, side) for point in curve]
            axes.plot(scales, [one.value for one in found], color=colour, label=side, marker=marker, markersize=4)
            lows, highs = zip(*(one.interval or (one.value, one.value) for one in found), strict=True)
            axes.fill_between(scales, lows, highs, color=colour, alpha=0.2, linewidth=0)
        axes.set(xlabel="guidance scale", ylabel=words.name(metric))
        axes.set_xticks(scales)
        axes.xaxis.set_major_formatter("{x:g}")
        if metric in words.PERCENT:
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}".replace(".0%", "%"))
        _legend(axes, 2)
        return _svg(figure, f"{words.name(metric)} of teacher and student at each guidance scale")


def by_class(rows: Sequence[ClassAccuracy]) -> Markup:
    """Class accuracy of both sides, class by class."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _axes(2.5)
        places, size = range(len(rows)), 6 if len(rows) <= 30 else 3
        for place, row in enumerate(rows):
            axes.plot([place, place], [row.teacher, row.student], color=MUTED, linewidth=1)
        theirs, ours = [row.teacher for row in rows], [row.student for row in rows]
        axes.plot(places, theirs, "s", color=TEACHER, label="teacher", markersize=size + 2, fillstyle="none")
        axes.plot(places, ours, "o", color=STUDENT, label="student", markersize=size)
        every = -(-len(rows) // 15)
        axes.set_xticks(places[::every], [str(row.label) for row in rows[::every]])
        axes.set(xlabel="class", ylabel="class accuracy")
        axes.margins(y=0.12)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}".replace(".0%", "%") if value <= 1 else "")
        axes.grid(axis="x", visible=False)
        _legend(axes, 2)
        return _svg(figure, "Class accuracy of teacher and student, class by class")


def _axes(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    return figure, axes


def _logarithmic(axes: Axes, values: Sequence[float]) -> None:
    """Plain numbers at the powers of ten, and between them where the values span less than two powers."""
    axes.set_yscale("log", nonpositive="mask")
    if max(values) < 100 * min(values):
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")


def _legend(axes: Axes, columns: int) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2, handlelength=1.6)


def _svg(figure: Figure, description: str) -> Markup:
    """The figure as an <svg> element: the same bytes from the same data, no ids but those it refers to."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 : text.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style [^>]*>.*?</style>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r'<g id="[^"#]+_\d+">', "<g>", body).replace("xlink:href=", "href=")
    body = re.sub(
        r"font-family: [^;\"]+;? ?|font: ([\d.]+px) [^;\"]+", lambda m: f"font-size: {m[1]}" if m[1] else "", body
    )
    # two plots on a page must not share the ids of their clip paths and markers
    salt = hashlib.sha256(body.encode()).hexdigest()[:6]
    body = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{salt}-", body)
    for fixed, variable in COLOURS.items():
        body = body.replace(fixed, variable)
    width, height = (72 * inches for inches in figure.get_size_inches())
    head = Markup('<svg class="plot" role="img" aria-label="{}" viewBox="0 0 {:g} {:g}">').format(
        description, width, height
    )
    return head + Markup(re.sub(r"\n\s*", "\n", body)) + Markup("</svg>")

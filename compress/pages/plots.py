"""Plots as SVG pictures, small enough for a phone; in the dark the page's stylesheet turns their colours over."""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from compress.pages import words
from compress.report.parts import ClassAccuracy, Latency, Response, Side, Stage, TimestepError
from compress.report.statistics import Interval

COLOURS = {"teacher": "#7d8894", "student": "#1766b5"}
MARKERS = {"teacher": "s", "student": "o"}
SERIES = (COLOURS["student"], "#b8590a", "#257a4a", "#8a3fa8", "#8f6a00")
WIDTH = 5.0  # inches: 360 units, about the width of a phone, so that text is never scaled down
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text, in a font of the reader's
    "svg.hashsalt": "compress",  # the same bytes from the same figure
    "text.parse_math": False,  # names are shown as they are
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "grid.color": "#d8dde2",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}


class Picture(NamedTuple):
    """What a page shows: the picture itself as a data URI, and what it is in words."""

    source: str
    said: str


class Curve(NamedTuple):
    """Points of a plot, perhaps with an interval or a name each. look: as Matplotlib draws them."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    look: Mapping[str, Any]
    intervals: Sequence[Interval] = ()
    names: Sequence[str] = ()


def latency(rows: Sequence[Latency], title: str) -> Picture:
    """A bar for each engine of one batch size, in ms a call; the name stands above it, so that it may be long."""

    def draw(axes: Axes) -> None:
        longest = max(row.interval[1] for row in rows)
        for place, row in enumerate(rows):
            axes.text(0, place - 0.36, row.name, va="center")
            axes.barh(place + 0.1, row.ms, height=0.42, color=COLOURS[row.side])
            axes.plot(row.interval, [place + 0.1] * 2, color="black", linewidth=1.2)
            axes.text(row.interval[1] + 0.015 * longest, place + 0.1, words.ms(row.ms), va="center")
        axes.set(xlim=(0, 1.22 * longest), ylim=(len(rows) - 0.55, -0.65), yticks=[], title=title)
        axes.set_xlabel("ms a call (line: 95% interval)")

    return _picture(draw, 0.5 * len(rows) + 0.8, f"ms a call of {len(rows)} engines, {title}")


def probe(curves: Mapping[str, Sequence[TimestepError]]) -> Picture:
    """Relative squared error of the output at each timestep, with its interval and the floor; one curve a student."""
    drawn = []
    for place, (name, points) in enumerate(curves.items()):
        steps, look = [point.timestep for point in points], {"color": SERIES[place % 5], "marker": "osD^v"[place % 5]}
        drawn.append(Curve(name, steps, [p.error for p in points], look, [p.interval for p in points]))
    points = next(iter(curves.values()))
    floor = [point.floor for point in points]
    drawn.append(Curve("floor", drawn[0].x, floor, {"color": "grey", "linestyle": "--"}))
    return lines(drawn, "timestep (noise on the left)", "relative squared error", xinverted=True)


def trades(models: Sequence[tuple[str, Side | Stage, float | None]], first: Stage | None = None) -> list[Picture]:
    """Bytes, then ms a call, against output error, of those that have both. models: (label, what it costs, its error).

    first: the teacher of models on their way through a recipe: it has no error and is drawn as a line.
    """
    drawn, error = [], "relative output error"
    for key, scale, cost in (("bytes", 1e-6, "MB"), ("ms_per_call", 1, "ms a call")):
        found = [(name, getattr(model, key), error) for name, model, error in models]
        points = [(name, cost * scale, error) for name, cost, error in found if cost is not None and error]
        if points:
            names, x, y = zip(*points, strict=True)
            look = {"color": COLOURS["student"], "marker": "o", "linewidth": 0.9 if first else 0}
            curves = [Curve("_", x, y, look, names=names)]
            if first:
                whole = [getattr(first, key) * scale] * 2
                curves.append(
                    Curve("teacher", whole, [min(y), max(y)], {"color": COLOURS["teacher"], "linestyle": "--"})
                )
            drawn.append(lines(curves, cost, error, xlim=(0, None)))
    return drawn


def guidance(metric: str, curve: Sequence[Response]) -> Picture:
    """One metric of both sides at every guidance scale, with intervals."""
    scales, both = [point.scale for point in curve], []
    for side, colour in COLOURS.items():
        found = [getattr(point, side) for point in curve]
        intervals = [one.interval or (one.value, one.value) for one in found]
        look = {"color": colour, "marker": MARKERS[side]}
        both.append(Curve(side, scales, [one.value for one in found], look, intervals))
    return lines(both, "guidance scale", words.name(metric), xticks=scales)


def by_class(rows: Sequence[ClassAccuracy]) -> Picture:
    """Class accuracy of both sides, class by class."""
    places, every = range(len(rows)), -(-len(rows) // 15)
    curves = []
    for side, size in (("teacher", 8), ("student", 5)):
        look = {"color": COLOURS[side], "marker": MARKERS[side], "markersize": size, "linewidth": 0}
        curves.append(Curve(side, places, [getattr(row, side) for row in rows], look))
    labels = [str(row.label) for row in rows[::every]]
    return lines(curves, "class", words.name("class_accuracy"), xticks=places[::every], xticklabels=labels)


def lines(curves: Sequence[Curve], xlabel: str, ylabel: str, **more: Any) -> Picture:
    """Curves in one plot: errors on a logarithmic axis, accuracy in percent. more: properties of the axes."""

    def draw(axes: Axes) -> None:
        for curve in curves:
            axes.plot(curve.x, curve.y, label=curve.label, **curve.look)
            if curve.intervals:
                lows, highs = zip(*curve.intervals, strict=True)
                axes.fill_between(curve.x, lows, highs, color=curve.look["color"], alpha=0.2, linewidth=0)
            for place, (name, x, y) in enumerate(zip(curve.names, curve.x, curve.y, strict=False)):
                right = x <= max(curve.x) / 2  # towards the middle, above and below in turn: points may lie close
                where = (7 if right else -7, -12 if place % 2 else 5)
                axes.annotate(name, (x, y), where, textcoords="offset points", ha="left" if right else "right")
        positive = [y for curve in curves for y in curve.y if y > 0]
        if "error" in ylabel and positive:
            axes.set_yscale("log", nonpositive="mask")
            axes.set_ylim(min(positive) / 3, 2 * max(positive))
            if max(positive) < 100 * min(positive):
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
        elif "accuracy" in ylabel:
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}".replace(".0%", "%") if value <= 1 else "")
            axes.margins(y=0.12)
        axes.xaxis.set_inverted(more.pop("xinverted", False))
        axes.set(xlabel=xlabel, ylabel=ylabel, **more)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, handlelength=1.6)

    return _picture(draw, 2.7, f"{ylabel} by {xlabel}: {', '.join(one.label for one in curves)}")


def _picture(draw: Callable[[Axes], None], height: float, said: str) -> Picture:
    with matplotlib.rc_context(STYLE):
        figure, stream = Figure(figsize=(WIDTH, height), layout="constrained"), io.BytesIO()
        draw(figure.add_subplot())
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(stream, format="svg", transparent=True, metadata=nothing)
    return embedded(stream.getvalue(), "image/svg+xml", said)


def embedded(content: bytes, kind: str, said: str) -> Picture:
    """A file as part of a page. kind: its MIME type."""
    return Picture(f"data:{kind};base64,{base64.b64encode(content).decode()}", said)

"""results/peers.md: the tables of the peers, and in words where this toolkit is behind and where ahead."""

from collections.abc import Callable, Mapping
from typing import Any

EAGER = "PyTorch eager fp32"
TOOLKIT = "this toolkit, int8"
OURS = "this toolkit"  # in the names of the rows whose file it makes
WITHIN_DB = 0.1  # two of one exactness
Row = Mapping[str, Any]

HEAD = """\
# This toolkit's int8 and its peers

Written by `python -m benchmarks.peers`. Every engine runs in a process of its own and only one of them computes at a
time; each round runs all of them, so that all meet the same noise. Times are medians of a call with their 95%
intervals. "Speedup" is over PyTorch eager. SQNR is that of the output against PyTorch's fp32 output, on inputs that
calibration did not see, the same for all. All quantizers were given the same calibration inputs and keep their
defaults; this toolkit's leaves the ends of the net in float, the others do not, and its file is opened as its runtime
opens it, with two options of onnxruntime's. "Tuned" peers are set up as a careful user would: onnxruntime with ranges
by percentile and the ends of the net in float; NNCF with its settings for attention (model_type TRANSFORMER, preset
MIXED) and ranges that clip nothing. Rows that name this toolkit run files that it
wrote. "For OpenVINO" is the file of `targets: [openvino]`. Weights of all but the digits
teacher are random: their SQNR compares quantizers on one net and says nothing of images.
"""
COLUMNS = (
    "| | ms | 95% interval | p90 | speedup | 95% interval | SQNR, dB | bytes |\n|---|---:|---|---:|---:|---|---:|---:|"
)


def table(result: Mapping[str, Any]) -> str:
    """Markdown: for every model and batch a table sorted by speed, and sentences that compare; see `words`."""
    return "\n".join([HEAD, *(_cell(cell) for cell in result["cells"])])


def summary(result: Mapping[str, Any]) -> str:
    """The README's table: every engine at batch 1, fastest on the first model first; the fastest of each in bold."""
    cells = {
        cell["title"]: {row["name"]: row for row in cell["rows"]} for cell in result["cells"] if cell["batch"] == 1
    }
    titles = sorted(cells, key=lambda title: "digits" not in title)
    names = {name: cells[titles[0]].get(name, {}).get("ms", float("inf")) for title in titles for name in cells[title]}
    best = {title: min(row.get("ms", float("inf")) for row in cells[title].values()) for title in titles}
    head = "".join(f" ms, {title.partition(',')[0]} | SQNR, dB |" for title in titles)
    lines = [f"| row of peers.md |{head}", f"|---|{'---:|---:|' * len(titles)}"]
    for name in sorted(names, key=lambda name: names[name]):
        line = f"| {'**' + name + '**' if name == TOOLKIT else name} |"
        for title in titles:
            row = cells[title].get(name, {})
            time = f"{row['ms']:.2f}" if "ms" in row else "failed"
            line += f" {'**' + time + '**' if row.get('ms') == best[title] else time} |"
            line += f" {row['sqnr_db']:.1f} |" if "sqnr_db" in row else " |"
        lines.append(line)
    return "\n".join(lines)


def bars(result: Mapping[str, Any]) -> dict[str, float]:
    """By model and batch: the time of our fastest engine ÷ that of the fastest peer, ours no less exact than that."""
    found: dict[str, float] = {}
    for cell in result["cells"]:
        rows = [row for row in cell["rows"] if "ms" in row]
        ours = [row for row in rows if OURS in row["name"]]
        best = min((row for row in rows if row not in ours), key=lambda row: row["ms"], default=None)
        exact = [row["ms"] for row in ours if best and row["sqnr_db"] > best["sqnr_db"] - WITHIN_DB]
        if best and exact:
            found[f"peers_{cell['model']}_{cell['batch']}"] = float(min(exact) / best["ms"])
    return found


def _cell(cell: Mapping[str, Any]) -> str:
    measured = sorted((row for row in cell["rows"] if "ms" in row), key=lambda row: row["ms"])
    failed = [row for row in cell["rows"] if "ms" not in row]
    threads = f"{cell['threads']} thread{'s' if cell['threads'] > 1 else ''}"
    lines = [f"## {cell['title']}: batch {cell['batch']}, {threads}", "", COLUMNS]
    lines += [_line(row) for row in measured]
    lines += [f"| {row['name']} | failed | | | | | | |" for row in failed]
    lines += ["", *(f"- {sentence}" for sentence in words(cell)), ""]
    noted = [f"{row['name']}: {note}" for row in measured for note in row["notes"]]
    idle = max((row["idle_ms"] for row in measured), default=0.0)
    versions = "; ".join(_versions(place, found) for place, found in cell["environments"].items())
    counts = f"{cell['rounds']} rounds, {cell['calibration']} calibration inputs, SQNR on {cell['held_out']} others"
    slept = f"After its answer no process spent more than {idle:.1f} ms of CPU time before it was asked again."
    lines += [" ".join([f"{cell['cpu']}; {counts}.", slept, *(f"{note}." for note in noted)]), ""]
    lines += [f"Versions: {versions}.", ""]
    return "\n".join(lines)


def _versions(place: str, found: Mapping[str, str] | str) -> str:
    if isinstance(found, str):
        return f"{place}: {found}"
    named = ("torch", "torchao", "diffusers", "onnx", "onnxruntime", "openvino", "nncf", "optimum-quanto", "numpy")
    return f"{place}: {', '.join(f'{name} {found[name]}' for name in named if name in found)}"


def _line(row: Row) -> str:
    name = f"**{row['name']}**" if row["name"] == TOOLKIT else row["name"]
    speedup, between = ("", "")
    if "speedup" in row:
        speedup, between = f"{row['speedup']:.2f}×", _range(row["speedup_interval"], "{:.2f}")
    cells = [name, f"{row['ms']:.2f}", _range(row["interval"], "{:.2f}"), f"{row['p90']:.2f}", speedup, between]
    cells += [f"{row['sqnr_db']:.1f}", f"{row['bytes']:,}"]
    return f"| {' | '.join(cells)} |"


def _range(ends: tuple[float, float], form: str) -> str:
    return f"{form.format(ends[0])} … {form.format(ends[1])}"


def words(cell: Mapping[str, Any]) -> list[str]:
    """Where this toolkit is slower, less exact and larger than others, then where it is the contrary, then failures.

    A difference is told where its 95% interval excludes none; exactness is compared among quantized models alone.
    """
    rows = {row["name"]: row for row in cell["rows"]}
    failures = [f"**Failed**: {row['name']}: {row['reason']}" for row in cell["rows"] if "reason" in row]
    own = rows.get(TOOLKIT)
    if own is None or "ms" not in own:
        return ["Nothing can be said of this toolkit's int8, which was not measured.", *failures]
    others = sorted((row for row in cell["rows"] if "toolkit_time" in row), key=lambda row: row["ms"])
    int8 = [row for row in others if "int8" in row["name"]]

    def told(label: str, those: list[Row], chosen: Callable[[Row], bool], form: Callable[[Row], str]) -> list[str]:
        parts = [f"{row['name']} ({form(row)})" for row in those if chosen(row)]
        return [f"**{label}** {'; '.join(parts)}."] if parts else []

    def time(row: Row) -> str:
        return f"{row['toolkit_time']:.2f}× its time, {_range(row['toolkit_time_interval'], '{:.2f}')}"

    def exactness(row: Row) -> str:
        return f"{row['toolkit_db']:+.1f} dB, {_range(row['toolkit_db_interval'], '{:+.1f}')}"

    def size(row: Row) -> str:
        return f"{own['bytes'] / row['bytes']:.2f}× its bytes"

    return [
        *told("This toolkit is slower than", others, lambda r: r["toolkit_time_interval"][0] > 1, time),
        *told("It is less exact than", int8, lambda r: r["toolkit_db_interval"][1] < 0, exactness),
        *told("Its file is larger than that of", int8, lambda r: own["bytes"] > r["bytes"], size),
        *told("It is faster than", others, lambda r: r["toolkit_time_interval"][1] < 1, time),
        *told("It is more exact than", int8, lambda r: r["toolkit_db_interval"][0] > 0, exactness),
        *told("Its file is smaller than that of", int8, lambda r: own["bytes"] < r["bytes"], size),
        *told("No difference in speed is shown to", others, lambda r: _holds(r["toolkit_time_interval"], 1), time),
        *told("No difference in exactness is shown to", int8, lambda r: _holds(r["toolkit_db_interval"], 0), exactness),
        *failures,
    ]


def _holds(ends: tuple[float, float], value: float) -> bool:
    return ends[0] <= value <= ends[1]

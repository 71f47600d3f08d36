"""Lays out the result of a recipe: student/, onnx/, report.json, report.html, record.json, README.md, pictures."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.files import Unreadable, copy, read_json, write_atomically, write_json, write_text
from compress.folders import refuse_foreign, write_folder
from compress.pages.card import card
from compress.pages.page import page
from compress.pages.pictures import draw_pairs
from compress.pipeline.source import NETS
from compress.pipeline.variants import OWN_WEIGHTS
from compress.report.report import Report, read
from compress.targets import ITSELF, TARGETS

_PLACES = {"model": "student", "onnx": "onnx"}  # of what a pass stored, in the output folder


def check(output: Path) -> None:
    """Raises OutputError where a folder stands that a recipe's result would replace and that no recipe made."""
    for place in (*_PLACES.values(), *TARGETS):
        refuse_foreign(output / place)


def publish(recipe: str, output: Path, records: Sequence[dict[str, Any]]) -> str | None:
    """Put what the passes left in its place in `output`; the verdict of the last `verify`, if any.

    Large files are there once, under two names.
    """
    samples = None
    for number, record in enumerate(records, start=1):
        folder = output / "passes" / f"{number:02d}-{record['name']}"
        if record["stored"] is not None:
            _copy(folder / record["stored"], output / _PLACES[record["stored"]])
        for file in sorted((folder / "files").iterdir()):
            if file.name == "samples.npz":
                samples = file
            else:
                _copy(file, output / file.name)
    write_json(output / "record.json", {"recipe": recipe, "passes": list(records)})
    report = read(output) if any(record["pass"] == "verify" for record in records) else None
    write_text(output / "README.md", card(recipe, records, report, (output / "onnx").is_dir(), _student(output)))
    if report is None:
        return None
    write_page(output, report, records, samples)
    _tell(output / "onnx" / "bundle.json", report, records)
    return report.verdict


def _tell(bundle: Path, report: Report, records: Sequence[Mapping[str, Any]]) -> None:
    """Let a bundle name for which targets it passed."""
    try:
        manifest = read_json(bundle)
        found = dict(manifest["targets"])
    except (Unreadable, KeyError, TypeError):  # there is none, or one of an earlier version
        return
    notes: Mapping[str, Any] = next((record["notes"] for record in records if record["pass"] == "export_onnx"), {})
    for name in found:
        if name == ITSELF:
            found[name] = report.verdict
        elif name in report.targets:
            found[name] = report.targets[name].reason or report.targets[name].verdict
        else:
            found[name] = notes.get(name, {}).get("run", "pass")
    write_json(bundle, {**manifest, "targets": found})


def _student(output: Path) -> str | None:
    """The folder of the student's net, if there is one that diffusers loads; "": this package alone loads it."""
    net = next((f"student/{name}" for name in NETS if (output / "student" / name).is_dir()), None)
    return "" if net and (output / net / OWN_WEIGHTS).is_file() else net


def write_page(folder: Path, report: Report, records: Sequence[Mapping[str, Any]], samples: Path | None) -> None:
    """report.html and samples.png beside the report.json of `folder`. samples: the .npz with pairs; None: as it is."""
    picture = folder / "samples.png"
    if samples and samples.is_file():
        draw_pairs(samples, picture)
    write_text(folder / "report.html", page(report, records, picture if picture.is_file() else None))


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        write_folder(target, lambda part: shutil.copytree(source, part, copy_function=_one, dirs_exist_ok=True))
    else:
        write_atomically(target, lambda part: shutil.copyfile(source, part))


def _one(source: str, target: str) -> None:
    copy(Path(source), Path(target))

"""A pipeline's parts beside each other: which of them takes the time and the bytes, and which makes the error."""

import copy
from collections.abc import Mapping
from pathlib import PurePosixPath

import numpy as np

from compress.judge.baseline import Baseline
from compress.judge.cost import TEACHER, of_unit, student_row
from compress.judge.images import Images, sample
from compress.judge.quality import psnr
from compress.judge.yardsticks import Yardsticks, pictures
from compress.report.parts import Figure, Row, Unit
from compress.report.report import Costs
from compress.report.statistics import bootstrap_mean
from compress.report.text_to_image import PipelinePart
from compress.runtime import Bundle
from compress.runtime.schemes import SCHEMES

COUNT = 30  # pictures in which one part alone is the student's


def measure(
    yardsticks: Yardsticks, bundle: Bundle, baseline: Baseline, drawn: Images, costs: Costs
) -> tuple[PipelinePart, ...]:
    """A row for each part that there is; nothing where a net stands alone."""
    parts = baseline.parts
    texts = [one.net for one in parts.text.encoders.values()] if parts.text and bundle.text else []
    decoders = [parts.decoder.net] if parts.decoder and bundle.decoder else []
    named = {"text encoder": texts, "decoder": decoders}
    nets = {
        name: sum(parameter.numel() for net in found for parameter in net.parameters())
        for name, found in named.items()
        if found
    }
    if not nets:
        return ()
    nets["denoiser"] = baseline.bundle.manifest["params"]
    errors = blamed(yardsticks, bundle, baseline, drawn) if drawn.finite else {}
    ours, single = bytes_of(bundle), {row.name: row.ms for row in costs.latency if row.batch == 1}
    return tuple(
        PipelinePart(
            name=name,
            teacher_bytes=round(SCHEMES["float"].bytes * nets[name]),
            student_bytes=ours[name],
            teacher_ms=_milliseconds(name, TEACHER, baseline.bundle, single),
            student_ms=_milliseconds(name, student_row(bundle), bundle, single),
            psnr=errors.get(name),
        )
        for name in ("text encoder", "denoiser", "decoder")
        if name in nets
    )


def bytes_of(bundle: Bundle) -> dict[str, int]:
    """What a device needs of each part, together `size_bytes`: what lies in the folders of text encoder and decoder,
    and all else, which is the denoiser's."""
    sizes = {name: int(entry["bytes"]) for name, entry in bundle.manifest["files"].items()}
    texts = (bundle.manifest.get("text") or {}).get("encoders", {}).values()
    owned = {
        "text encoder": [one[file] for one in texts for file in ("model", "tokenizer")],
        "decoder": [bundle.manifest["decoder"]["model"]] if bundle.manifest.get("decoder") else [],
    }
    found = {}
    for name, files in owned.items():
        folders = {PurePosixPath(file).parent for file in files}
        found[name] = sum(size for file, size in sizes.items() if PurePosixPath(file).parent in folders)
    return {**found, "denoiser": bundle.size_bytes - sum(found.values())}


def _milliseconds(name: str, row: Row, bundle: Bundle, single: Mapping[str, float]) -> float:
    """Of a part, for one picture. single: of a call at batch 1, by the name of its row."""
    units: dict[str, Unit] = {"text encoder": "text", "decoder": "decoding"}
    if name in units:
        return single[of_unit(units[name], row).name]
    whole = single.get(of_unit("whole image", row).name)
    if whole is not None:
        return max(0.0, whole - sum(single.get(of_unit(unit, row).name, 0.0) for unit in units.values()))
    return len(bundle.steps) * single[of_unit("guided call", row).name]


def blamed(yardsticks: Yardsticks, bundle: Bundle, baseline: Baseline, drawn: Images) -> dict[str, Figure]:
    """PSNR of pictures in which one part alone is the student's, by the part's name."""
    few, say, teacher = drawn.pairs[:COUNT], yardsticks.progress, baseline.guided
    latents = {}
    if bundle.text is not None:
        told = yardsticks.as_told(bundle, few)
        latents["text encoder"] = sample(_leaving_out(teacher, bundle), told, say, "the student's text encoder alone")
    if drawn.sets.again is not None:
        latents["denoiser"] = sample(_leaving_out(bundle, teacher), few, say, "the student's denoiser alone")
    title = "decoding with one part the student's"
    seen = {name: pictures(baseline.bundle, samples, say, title) for name, samples in latents.items()}
    if bundle.decoder is not None:
        seen["decoder"] = pictures(bundle, few.samples.numpy(), say, title)
    return {name: _psnr(drawn.sets.twin[: len(own)], own) for name, own in seen.items() if np.isfinite(own).all()}


def _leaving_out(bundle: Bundle, other: Bundle) -> Bundle:
    """The bundle, guided away from what another leaves out: the empty text, as that one's text encoder says it."""
    changed = copy.copy(bundle)
    changed.null = other.null or bundle.null
    return changed


def _psnr(teacher: np.ndarray, student: np.ndarray) -> Figure:
    values = psnr(teacher, student)
    return Figure(value=float(values.mean()), better="more", interval=bootstrap_mean(values), count=len(values))

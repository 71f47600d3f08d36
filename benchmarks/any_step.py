"""One student for any number of steps and any guidance scale, beside students made for one number each.

All begin with the same pruned net that takes the guidance scale as an input, and learn from the same trajectories. The
one for any number of steps has as many optimizer steps as the dedicated ones together. They draw through onnxruntime,
each from the same noise as the teacher, at every guidance scale. A part of `python -m benchmarks.few_steps`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.structure import PAIRS, SEED, Judges
from compress import engine, passes, terminal
from compress.judge import metrics, quality
from compress.judge.images import at_scale, sample
from compress.model.reference import Drawn, draw_kept
from compress.recipe.identity import code_identity, digest
from compress.recipe.inputs import Options
from compress.recipe.recipe import Recipe, Step
from compress.report.statistics import bootstrap_mean
from compress.runtime import Bundle

ROOT = Path(__file__).parents[1]
COUNTS = (1, 2, 4, 8)
SCALES = (1.0, 1.3, 2.0, 3.0, 5.0)  # diffusers' convention: 1 + w of the papers
BUDGET = 400  # optimizer steps for each number of steps
TRAIN = {"batch_size": 32, "learning_rate": 1e-3}
BEGIN: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("prune_blocks", {"layout": "bk-small"}),
    ("prune_channels", {"target": {"macs": 0.46}}),
    ("distill_guidance", {"mode": "embedded", "scales": [SCALES[0], SCALES[-1]], "steps": BUDGET, **TRAIN}),
)
ANY = "any"


def chain(counts: tuple[int, ...]) -> list[tuple[str, Mapping[str, Any]]]:
    """The passes of a student that serves `counts`."""
    steps = {
        "sampling_steps": list(counts),
        "teacher_steps": 2 * max(COUNTS),  # so that the grids of all counts are nested
        "trajectories": 3000,
        "steps": BUDGET * len(counts),
        **TRAIN,
    }
    return [*BEGIN, ("distill_steps", steps), ("export_onnx", {})]


CHAINS = {ANY: chain(COUNTS), **{str(n): chain((n,)) for n in COUNTS}}


def identity() -> str:
    """Changes with everything that the figures depend on."""
    return digest([CHAINS, SCALES, PAIRS, SEED, [code_identity(kind) for kind, _ in CHAINS[ANY]]])


def student(judges: Judges, name: str) -> Bundle:
    """The exported student of a chain; passes that were run are used again."""
    steps = [Step(kind, kind, passes.module(kind).Config.model_validate(config)) for kind, config in CHAINS[name]]
    head = judges.recipe.head.model_copy(update={"name": "any_step"})
    output = ROOT / "outputs" / "any_step"
    options = Options(torch.device("cpu"), terminal.progress, terminal.log)
    engine.apply(Recipe(head, steps, ROOT / "recipes" / "digits-anystep.yaml"), output, options)
    return Bundle(output / "onnx")


def measure(judges: Judges) -> dict[str, Any]:
    """For every scale and number of steps the likeness to the teacher, of both students, and their gap."""
    ours: dict[tuple[str, int, float], np.ndarray] = {}
    drawn = {scale: _teacher(judges, scale) for scale in SCALES}
    for name in CHAINS:
        bundle = student(judges, name)
        for count in COUNTS if name == ANY else (int(name),):
            for scale in SCALES:
                with_scale = bundle.at_steps(count).at_scale(scale)
                ours[name, count, scale] = sample(with_scale, drawn[scale], terminal.progress, f"{name}: {count}")
    cells = []
    for scale in SCALES:
        theirs = drawn[scale].samples.numpy()
        before: np.ndarray | None = None
        for count in COUNTS:
            cell: dict[str, Any] = {"scale": scale, "steps": count}
            values = {}
            for side, name in (("any", ANY), ("dedicated", str(count))):
                images = ours[name, count, scale]
                values[side] = quality.ssim(theirs, images)
                cell[side] = _figures(judges, drawn[scale], images)
            lost = (values["dedicated"] - values["any"]) / values["dedicated"].mean()
            cell["lost"] = {"value": float(lost.mean()), "interval": bootstrap_mean(lost)}
            if before is not None:  # of the same images, in fewer steps
                gained = values["any"] - before
                cell["gained"] = {"value": float(gained.mean()), "interval": bootstrap_mean(gained)}
            before = values["any"]
            cells.append(cell)
    return {"identity": identity(), "cells": cells}


def _teacher(judges: Judges, scale: float) -> Drawn:
    teacher = at_scale(judges.teacher, scale)
    title = f"teacher's samples at {scale}"
    return draw_kept(teacher, PAIRS, SEED, judges.judged.load, terminal.progress, title)


def _figures(judges: Judges, drawn: Drawn, images: np.ndarray) -> dict[str, float]:
    figures = metrics.figures(judges.judged.sets(drawn, images, drawn.samples.numpy()[:30]))
    return {name: figures[name].value for name in ("ssim", "psnr", "class_accuracy")}


def back(cells: list[dict[str, Any]]) -> int:
    """How often more steps of the student for any number make it less like the teacher, resolved or not."""
    return sum(cell["gained"]["value"] < 0 for cell in cells if "gained" in cell)


def bars(found: Mapping[str, Any]) -> dict[str, float]:
    """The share of SSIM lost where most is lost, and the steps that make it worse."""
    cells = found["cells"]
    return {"anystep_ssim_lost": max(cell["lost"]["value"] for cell in cells), "anystep_steps_back": float(back(cells))}


def table(found: Mapping[str, Any]) -> str:
    """Markdown: a line for each scale and number of steps."""
    lines = [
        "| guidance scale | steps | SSIM, any-step | SSIM, dedicated | lost | gained over fewer steps | "
        "PSNR, any-step | PSNR, dedicated | named as asked |",
        "|---:|---:|---:|---:|---|---|---:|---:|---:|",
    ]
    for cell in found["cells"]:
        low, high = cell["lost"]["interval"]
        ours, theirs, gained = cell["any"], cell["dedicated"], ""
        if "gained" in cell:
            ends = cell["gained"]["interval"]
            gained = f"{cell['gained']['value']:+.4f} ({ends[0]:+.4f} … {ends[1]:+.4f})"
        lines.append(
            f"| {cell['scale']:g} | {cell['steps']} | {ours['ssim']:.3f} | {theirs['ssim']:.3f} "
            f"| {cell['lost']['value']:+.1%} ({low:+.1%} … {high:+.1%}) | {gained} "
            f"| {ours['psnr']:.1f} | {theirs['psnr']:.1f} | {ours['class_accuracy']:.1%} |"
        )
    further = [cell["gained"] for cell in found["cells"] if "gained" in cell]
    resolved = sum(gained["interval"][1] < 0 for gained in further)
    lines.append(
        f"\nOf {len(further)} further steps {back(found['cells'])} lead back, {resolved} of them by a resolved "
        "difference. Tried before: the mean loss over a walk's steps, by which each of 8 steps weighed an eighth; 8 "
        "steps were then worse than 4 at every scale, by 0.001 to 0.006, and one step better by 0.03. Now every step "
        "weighs the same."
    )
    return (
        "\n".join(lines)
        + f"\n\nOne student for {', '.join(map(str, COUNTS))} steps and every guidance scale, beside one for each "
        f"number: 0.3 of the teacher's multiply-accumulates, {BUDGET} optimizer steps of {TRAIN['batch_size']} images "
        f"for each number ({BUDGET * len(COUNTS)} for the one student). {PAIRS} pairs from the teacher's noise "
        "at each scale, drawn by onnxruntime; 95% intervals.\n"
    )

"""Take out residual blocks, attention blocks and the mid block: by path, by a BK-SDM layout, or until a target is met.

A residual block leaves its shortcut behind, an attention block and the mid block leave nothing, so that no width
changes. Layouts are those of Kim et al. 2023, "BK-SDM" (arXiv:2305.15798), except that resampling and 1×1 shortcut
convolutions stay.

For a target every block is judged once, on its own: by the error of the output without it, against the model with it.
Blocks then go in the order of error per unit saved until the target is met, and those that turn out not to be needed
come back. A target of latency is met by measured times, in the order for multiply-accumulates: the times of single
blocks would drown in noise. `recovery` takes the error after a short distillation where that is the lower one: the
error right after removal says little about what training can mend (Fang et al. 2024, "TinyFusion", arXiv:2412.01199).
"""

import contextlib
import dataclasses
import json
import math
import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator

from compress import training
from compress.contract import Context, Forecast, PassConfig, PassResult
from compress.data import Batch, Dataset
from compress.errors import PassError
from compress.files import write_json
from compress.folders import own_folder, remove_own
from compress.measure import counts, target
from compress.model.blocks import inputs_read, without
from compress.model.denoiser import Denoiser, predict
from compress.model.noising import noised, with_null
from compress.model.paths import meant, outermost
from compress.randomness import Draw, generator
from compress.settings import Many, only

_RANKING = "ranking.json"
_RANKING_FIELDS = ("ranking", "probe_steps", "learning_rate", "batch_size", "batches")


class Target(target.Target):
    """How much is to be left, as a fraction of the model so far. Exactly one is given."""

    latency: float | None = Field(None, gt=0, le=1, description="measured time of one evaluation in PyTorch, here")


class Config(PassConfig):
    """Settings of `prune_blocks`. Exactly one of blocks, layout and target is given."""

    blocks: Many[str] | None = Field(
        None, min_length=1, description="blocks to take out: paths as globs, e.g. [mid_block, down_blocks.*.resnets.1]"
    )
    layout: Literal["bk-base", "bk-small", "bk-tiny"] | None = Field(
        None,
        description="base: all but the first pair of down stages, the middle ones of up stages; small: and the mid "
        "block; tiny: and all of the innermost stage but resampling",
    )
    target: Target | None = Field(None, description="what is to be left, e.g. {latency: 0.7}; the pass chooses blocks")
    ranking: Literal["recovery", "loss"] = Field(
        "recovery", description="for a target: blocks by the error after a short recovery, or right after removal"
    )
    probe_steps: int = Field(20, ge=1, description="for ranking recovery: optimizer steps of each block's recovery")
    learning_rate: float = Field(
        1e-4,
        gt=0,
        description="for ranking recovery: peak learning rate of AdamW; too high a rate undoes what it mends",
    )
    batch_size: int = Field(32, ge=1, description="for a target: images in a batch")
    batches: int = Field(8, ge=1, description="for a target: batches on which the error is measured")

    @model_validator(mode="after")
    def _one(self) -> Self:
        only(self, "blocks", "layout", "target")
        idle = [name for name in _RANKING_FIELDS if name in self.model_fields_set]
        if idle and self.target is None:
            raise ValueError(f"{', '.join(idle)}: only a target is met by ranking; leave out, or give a target")
        return self


class Imitation(training.Objective):
    """The error of a model without a block, the student, against the whole one, as the model is sampled."""

    def forward(self, batch: Batch, random: torch.Generator) -> Mapping[str, torch.Tensor]:
        """Mean (S − T)² ÷ mean T² of the outputs S without the block and T with it [b,…]."""
        question = with_null(self.teacher, noised(self.teacher, batch, random), random)
        with torch.no_grad():
            wanted = predict(self.teacher, *question.asked).float()
        error = (predict(self.student, *question.asked).float() - wanted).square().mean()
        return {"output": error / wanted.square().mean()}


def run(model: Denoiser, config: Config, context: Context) -> PassResult[Denoiser]:
    """Choose blocks, take them out, and report what went."""
    table: list[dict[str, Any]] = []
    if config.target is not None:
        if config.target.fraction == 1:
            return PassResult(model, changed=False, notes=target.REACHED)
        table = _ranked(model, config, config.target, context)
        chosen = _fewest(model, table, config.target, context.name)
    elif config.layout is not None:
        chosen = _of_layout(model, config.layout, context.name)
    else:
        blocks = list(model.family.blocks(model.net))
        chosen = outermost(meant(config.blocks or (), blocks, f"{context.name}: blocks", "block of this model"))
    pruned = without(model, chosen)
    unread = sorted(inputs_read(model) - inputs_read(pruned))
    if unread:
        raise PassError(
            f"{context.name}: without {', '.join(chosen)} nothing is left that reads {', '.join(unread)}; keep one of "
            "the blocks that do"
        )
    notes: dict[str, Any] = {"removed": list(chosen), **counts.compared(model, pruned), "ranking": table}
    if config.target is not None and config.target.latency is not None:
        notes["ratios"] |= {"latency": round(target.LEFT["latency"](pruned, model), 4)}
    return PassResult(pruned, changed=True, notes=notes)


def _of_layout(model: Denoiser, name: str, where: str) -> list[str]:
    """The blocks that a layout leaves out, of which there is at least one."""
    layouts = model.family.layouts
    if name not in layouts:
        raise PassError(
            f"{where}: layout: {name} is none of a {model.family.name}, which has "
            f"{', '.join(layouts) or 'no layouts'}; use `blocks` or `target`"
        )
    chosen = layouts[name](model.net)
    if not chosen:
        raise PassError(
            f"{where}: {name} takes nothing out of this model, whose stages have no second layer (or lost it); use "
            "another layout, or `blocks` or `target`"
        )
    return chosen


def _ranked(model: Denoiser, config: Config, wanted: Target, context: Context) -> list[dict[str, Any]]:
    """Every block that can go, with what taking it out costs and saves; the cheapest first."""
    blocks = model.family.blocks(model.net)
    errors = _errors(model, list(blocks), config, context)
    unit = "params" if wanted.params is not None else "macs"
    rows: list[dict[str, Any]] = []
    for path in blocks:
        sizes = counts.compared(model, without(model, [path]))
        saved = {key: before - sizes["after"][key] for key, before in sizes["before"].items()}
        rows.append({"path": path, "error": errors[path], "saved": saved})
    return sorted(rows, key=lambda row: row["error"] / row["saved"][unit] if row["saved"][unit] > 0 else math.inf)


def _errors(model: Denoiser, paths: Sequence[str], config: Config, context: Context) -> dict[str, float]:
    """The error of the output without each block. A killed ranking goes on where it was."""
    fitted, probe = context.training_data().split()  # what verify holds out is seen by neither
    file = context.workdir / _RANKING
    errors: dict[str, float] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    recovers = config.ranking == "recovery"
    steps = config.probe_steps if recovers else 1
    with context.progress(f"{context.name}: ranking", len(paths) * steps) as task:
        task.advance(len(errors) * steps)
        quiet = dataclasses.replace(context, progress=lambda _title, _total: contextlib.nullcontext(task), track=None)
        for path in paths[len(errors) :]:
            less = without(model, [path])
            objective = Imitation(less, model)
            errors[path] = _error(objective, probe, config, context)
            if recovers:
                work = context.workdir / path
                own_folder(work)
                less.net.requires_grad_(True)
                own = dataclasses.replace(quiet, name=f"{context.name}: recovery without {path}", workdir=work)
                training.train(objective, less.net, _recovery(config), own, fitted)
                # Adam moves weights by the learning rate however small the gradient: what was right may get worse
                errors[path] = min(errors[path], _error(objective, probe, config, context))
                write_json(file, errors)
                remove_own(work)
            else:
                task.advance()
    file.unlink(missing_ok=True)
    return errors


def _recovery(config: Config) -> training.TrainingConfig:
    return training.TrainingConfig(
        steps=config.probe_steps, batch_size=config.batch_size, learning_rate=config.learning_rate, ema=0
    )


@torch.no_grad()
def _error(objective: Imitation, probe: Dataset, config: Config, context: Context) -> float:
    """Mean over batches that are the same for every block. Raises PassError if it is not finite."""
    total = 0.0
    for i in range(config.batches):
        key = (context.seed, Draw.RECOVERY, i)
        batch = probe.batch(config.batch_size, *key).to(context.device)
        total += float(objective(batch, generator(*key))["output"])
    if not math.isfinite(total):
        raise PassError(f"{context.name}: the error of the output became {total}; lower learning_rate")
    return total / config.batches


def _fewest(model: Denoiser, table: Sequence[Mapping[str, Any]], wanted: Target, where: str) -> list[str]:
    """The fewest blocks, from the front of the table, without which the target is met."""

    def left(paths: Iterable[str]) -> float:
        return target.LEFT[wanted.kind](without(model, paths), model)

    read = inputs_read(model)
    order: list[str] = []
    for row in table:
        if inputs_read(without(model, [*order, row["path"]])) == read:  # it stays a denoiser, and guided
            order.append(row["path"])
    least = left(order)
    if least > wanted.fraction:
        most = f"taking out all {len(outermost(order))} blocks that can go"
        advice = "raise the target, or remove channels first (prune_channels)"
        raise target.out_of_reach(where, wanted, most, least, advice)
    count = 1 + bisect_left(range(1, len(order)), True, key=lambda count: left(order[:count]) <= wanted.fraction)
    chosen = outermost(order[:count])
    if wanted.kind != "latency":  # a measured share is too noisy to tell blocks apart one by one
        for row in sorted(table, key=lambda row: -row["error"]):
            rest = [path for path in chosen if path != row["path"]]
            if left(rest) <= wanted.fraction:
                chosen = rest
    return chosen


def forecast(model: Denoiser, config: Config, context: Context) -> Forecast:
    """Blocks are really taken out, for a target by the error right after; recovery is measured on a few steps."""
    began = time.monotonic()
    result = run(model, config.model_copy(update={"ranking": "loss"}), context)
    seconds, memory = time.monotonic() - began, 0
    if config.target and config.ranking == "recovery" and result.changed:
        less = without(model, result.notes["removed"][:1])
        less.net.requires_grad_(True)
        each = training.forecast_of(Imitation(less, model), _recovery(config), context)
        seconds, memory = seconds + each.seconds * len(result.notes["ranking"]), each.memory_bytes
    return Forecast(result.model, seconds, memory)

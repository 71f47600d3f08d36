"""A student of another architecture: the config of the model so far with some values changed.

The student is a plain diffusers model. It reads and writes what the model before it does; where levels are removed,
the outer ones stay. Parameters that nothing is inherited for are drawn from the recipe's seed.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field

from compress.contract import Context, PassConfig, PassResult
from compress.errors import PassError, suggest
from compress.measure import counts
from compress.model import trial
from compress.model.denoiser import Denoiser
from compress.randomness import Draw, generator


class Config(PassConfig):
    """Settings of `new_student`."""

    config: dict[str, Any] = Field(
        description="values of the diffusers config to change, e.g. {block_out_channels: [16, 32, 32]}"
    )
    inherit: Literal["weights", "slices", "none"] = Field(
        "weights",
        description="weights: parameters of the same name and shape; slices: of others, too, their leading part; "
        "none: all parameters are random",
    )


def run(model: Denoiser, config: Config, context: Context) -> PassResult[Denoiser]:
    """Build the student, inherit what fits and report its size."""
    _check_keys(model, config, context.name)
    changes = {key: value for key, value in config.config.items() if _plain(model.config[key]) != _plain(value)}
    if not changes:
        return PassResult(model, changed=False, notes={"reason": "no value of the config is changed"})
    student = _build(model, changes, context)
    inherited = 0 if config.inherit == "none" else _inherit(student, model, config.inherit == "slices")
    notes = {
        **counts.compared(model, student),
        "config": changes,
        "inherited": round(inherited / counts.parameters(student), 4),
    }
    return PassResult(student, changed=True, notes=notes)


def _plain(value: Any) -> Any:
    """As JSON has it, whose lists are diffusers' tuples."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _check_keys(model: Denoiser, config: Config, where: str) -> None:
    known = [key for key in model.config if not key.startswith("_")]
    for key in config.config:
        if key not in known:
            raise PassError(f"{where}: config: {model.family.name} knows no {key!r}{suggest(key, known)}")


def _build(model: Denoiser, changes: Mapping[str, Any], context: Context) -> Denoiser:
    """The student with random weights. Raises PassError if it cannot be built, run, or used in the model's place."""
    where = f"{context.name}: config"
    family = model.family
    config = {key: value for key, value in model.config.items() if not key.startswith("_")}
    config |= {"_class_name": family.name, **changes}
    reason = family.refuse(config)
    if reason:
        raise PassError(f"{where}: {reason}")
    try:
        trial.build(family, config)
    except ValueError as error:
        raise PassError(f"{where}: {error}") from None
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator(context.seed, Draw.NEW_STUDENT).initial_seed())
        net = family.build(config)
    net = net.to(model.device).eval().requires_grad_(False)
    student = dataclasses.replace(model, net=net, kept={})
    mine, theirs = _interface(student), _interface(model)
    for name, found in mine.items():
        if found != theirs[name]:
            raise PassError(
                f"{where}: changes {name} from {theirs[name]} to {found}; a student takes and gives what its teacher "
                "does, so leave out what sets it"
            )
    try:
        counts.macs(student)
    except Exception as error:  # widths that do not fit show when the net runs
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PassError(f"{where}: {family.name} is built, but cannot run: {reason}") from None
    return student


def _interface(model: Denoiser) -> dict[str, Any]:
    """What must stay as it is."""
    conditions = {name: (str(condition.dtype), *condition.shape) for name, condition in model.conditions.items()}
    return {
        "the sample's size": _plain(model.config["sample_size"]),
        "the sample's channels": (model.config["in_channels"], model.family.channels(model.config)),
        "the number of labels": model.family.classes(model.net),
        "the conditions": conditions,
    }


def _inherit(student: Denoiser, teacher: Denoiser, slices: bool) -> int:
    """Copy what fits into the student; the number of values copied. slices: the leading part of what does not fit."""
    theirs = dict(teacher.net.named_parameters())
    copied = 0
    for name, mine in student.net.named_parameters():
        source = theirs.get(student.family.counterpart(name, student.net, teacher.net))
        if source is None or source.ndim != mine.ndim or not (slices or source.shape == mine.shape):
            continue
        part = tuple(slice(min(sizes)) for sizes in zip(source.shape, mine.shape, strict=True))
        mine[part] = source[part]
        copied += source[part].numel()
    return copied

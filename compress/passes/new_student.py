"""A student of another architecture: the config of the model so far with some values changed.

The student is a plain diffusers model, but for the numbers that the model before it takes as inputs. It reads and
writes what that does; where levels are removed, the outer ones stay. Parameters that nothing is inherited for are drawn
from the recipe's seed.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from pydantic import Field

from compress.contract import Context, PassConfig, PassResult
from compress.errors import PassError, suggest
from compress.measure import counts
from compress.model import scalars, trial
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
    where = f"{context.name}: config"
    known = {key: value for key, value in model.config.items() if not key.startswith("_")}
    for key in config.config:
        if key not in known:
            raise PassError(f"{where}: {model.family.name} knows no {key!r}{suggest(key, list(known))}")
    changes = {key: value for key, value in config.config.items() if _plain(known[key]) != _plain(value)}
    if not changes:
        return PassResult(model, changed=False, notes={"reason": "no value of the config is changed"})
    student = _build(model, known | changes, context.seed, where)
    inherited = 0 if config.inherit == "none" else _inherit(student, model, config.inherit == "slices")
    share = round(inherited / counts.parameters(student), 4)
    notes = {**counts.compared(model, student), "config": changes, "inherited": share}
    return PassResult(student, changed=True, notes=notes)


def _plain(value: Any) -> Any:
    """As JSON has it, whose lists are diffusers' tuples."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _build(model: Denoiser, config: Mapping[str, Any], seed: int, where: str) -> Denoiser:
    """The student with random weights. Raises PassError if it cannot be built, run, or used in the model's place."""
    family = model.family
    named = {**config, "_class_name": family.name}
    try:
        trial.build(family, named)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(generator(seed, Draw.NEW_STUDENT).initial_seed())
            net = family.build(named)
            for name in scalars.names(model.net, family):
                scalars.add(net, family, name)
        student = dataclasses.replace(model, net=net.to(model.device).eval().requires_grad_(False), kept={})
        for (name, found), (_, theirs) in zip(_interface(student), _interface(model), strict=True):
            if found != theirs:
                raise ValueError(
                    f"changes {name} from {theirs} to {found}; a student takes and gives what its teacher does, "
                    "so leave out what sets it"
                )
        trial.run(student)
    except ValueError as error:
        raise PassError(f"{where}: {error}") from None
    return student


def _interface(model: Denoiser) -> Iterator[tuple[str, Any]]:
    """What must stay as it is, (name, value); what comes first is asked first."""
    config = model.config
    yield "the sample's size", _plain(config["sample_size"])
    channels = (config["in_channels"], config.get("out_channels"), model.family.channels(config))
    yield "the sample's channels", channels
    yield "the number of labels", model.family.classes(model.net)
    yield "the conditions", {name: (str(each.dtype), *each.shape) for name, each in model.conditions.items()}


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

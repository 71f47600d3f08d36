"""What every family promises, and one of tokens that lives in this file alone and goes through passes."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from compress.contract import Context
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.errors import PassError
from compress.families.family import Condition, Family, Layers
from compress.families.replacements import Passthrough
from compress.model import edits, scalars, structure
from compress.model.denoiser import Denoiser, predict
from compress.passes import distill, factorize, new_student, prune_blocks, prune_channels
from compress.pipeline import checkpoint, source
from tests.conftest import SCHEDULER, inputs_for


def test_what_a_family_names_is_there(any_model: Denoiser) -> None:
    net, family = any_model.net, any_model.family
    paths = [path for both in family.stages(net).values() for path in both]
    paths += [path for block in family.attention(net).values() for path in block.paths]
    paths += [*family.attention(net), *family.blocks(net), *family.layers.ends]
    assert all(isinstance(net.get_submodule(path), nn.Module) for path in paths)
    assert {edit["kind"] for edit in family.blocks(net).values()} <= set(family.left)
    assert all(hasattr(net, path) for path in family.scalars(net))
    assert all(block.heads == net.get_submodule(path).heads for path, block in family.attention(net).items())


def test_nothing_is_repaired_where_nothing_changed(any_model: Denoiser) -> None:
    before = copy.deepcopy(any_model.net)
    any_model.family.repair(any_model.net)
    assert structure.describe(any_model.net, before, any_model.family) == {}


def test_a_scalar_goes_nowhere_but_to_its_place(class_model: Denoiser) -> None:
    with pytest.raises(ValueError, match="in place of a Conv2d"):
        edits.put(class_model.net, class_model.family, "conv_in", {"kind": "scalars", "names": ["steps"], "width": 8})


def test_what_a_family_does_not_have_is_refused(class_model: Denoiser, context_for: Callable[..., Context]) -> None:
    family = dataclasses.replace(class_model.family, layouts={}, narrower=None)
    model = dataclasses.replace(class_model, family=family)
    context = context_for(model)
    with pytest.raises(PassError, match="layout: bk-base is none of a UNet2DModel, which has no layouts"):
        prune_blocks.run(model, prune_blocks.Config(layout="bk-base"), context)
    config = prune_channels.Config(target={"channels": 0.5}, widths="stock", importance="l1")
    with pytest.raises(PassError, match="widths: stock: the config of a UNet2DModel has no such widths"):
        prune_channels.run(model, config, context)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(16, 16)
        self.inner = nn.Linear(width, 2 * width)
        self.outer = nn.Linear(2 * width, width)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[b,16,width] -> the same."""
        x = hidden_states + self.mix(hidden_states.mT).mT
        return x + self.outer(self.inner(x).relu())


class Tokens(ModelMixin, ConfigMixin):
    """Samples [b,1,8,8] as 16 tokens of a patch each, as transformers have it; it gives a variance beside the rest."""

    @register_to_config
    def __init__(self, sample_size: int = 8, in_channels: int = 1, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(in_channels, width, 2, stride=2)
        self.time = nn.Linear(1, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(depth)])
        self.out = nn.Linear(width, 4 * 2 * in_channels)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        x = self.patches(sample).flatten(2).mT + self.time(timestep[:, None] / 1000)[:, None]
        for block in self.blocks:
            x = block(x)
        return nn.functional.pixel_shuffle(self.out(x).mT.unflatten(2, (4, 4)), 2)


def no_place(_net: nn.Module) -> dict[str, int]:
    raise ValueError("Tokens have no place for an embedding")


def left_blocks(net: nn.Module) -> list[str]:
    return [path for path, module in net.named_modules() if isinstance(module, Block)]


TOKENS = Family(
    name="Tokens",
    folder="transformer",
    build=lambda config: Tokens.from_config(dict(config)),
    refuse=lambda config: None,
    classes=lambda net: None,
    multiple=lambda config: config["sample_size"],
    conditions=lambda net, tokens: dict[str, Condition](),
    call=lambda net, sample, timestep, conditions, scalars: net(sample, timestep),
    scalars=no_place,
    stages=lambda net: {path: (path, f"{path}.outer") for path in left_blocks(net)},
    channel_axis=2,
    attention=lambda net: {},
    protected=lambda net: [net.patches, net.time, net.out, *(net.get_submodule(p).outer for p in left_blocks(net))],
    blocks=lambda net: {path: {"kind": "passthrough"} for path in left_blocks(net)},
    left={"passthrough": Passthrough},
    repair=lambda net: None,
    counterpart=lambda name, student, teacher: name,
    layers=Layers(ends=("patches", "out")),
)


@pytest.fixture
def tokens() -> Denoiser:
    torch.manual_seed(0)
    sampling = from_scheduler_config(SCHEDULER, SamplingOptions(steps=4))
    return Denoiser(Tokens().eval().requires_grad_(False), TOKENS, sampling, SCHEDULER)


def test_a_family_of_tokens_is_distilled_through_its_own_axis(
    tokens: Denoiser, context_for: Callable[..., Context], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    context = context_for(tokens)
    narrow = new_student.run(tokens, new_student.Config(config={"width": 24}, inherit="slices"), context).model
    with pytest.raises(PassError, match=r"widths: stock: the config of a Tokens"):
        prune_channels.run(tokens, prune_channels.Config(target={"channels": 0.5}, widths="stock"), context)
    objective = distill.imitation(narrow, distill.Config(steps=2), context)
    assert {key: layer.weight.shape for key, layer in objective.stages.projections.items()} == {
        f"blocks_{i}": (32, 24) for i in range(3)
    }
    less = prune_blocks.run(narrow, prune_blocks.Config(blocks=("blocks.1",)), context).model
    trained = distill.run(less, distill.Config(steps=3, batch_size=8), context)
    assert trained.notes["projected_stages"] == ["blocks_0", "blocks_2"]
    low = factorize.run(trained.model, factorize.Config(target={"rank": 0.25}, batches=1), context)
    assert not {"patches", "out"} & {*low.notes["layers"]} and low.notes["ratios"]["macs"] < 1
    with pytest.raises(ValueError, match="no place"):
        scalars.add(low.model.net, TOKENS, scalars.STEPS)
    monkeypatch.setitem(source.FAMILIES, "Tokens", TOKENS)
    checkpoint.save(low.model, tmp_path / "model")
    with torch.no_grad():
        outputs = [predict(each, *inputs_for(low.model)) for each in (low.model, checkpoint.load(tmp_path / "model"))]
    assert torch.equal(*outputs)

"""Edits: what they compute, what they refuse, and that a folder gives them back."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compress.errors import CheckpointError
from compress.families.replacements import LowRank
from compress.model import edits, structure
from compress.model.denoiser import Denoiser, predict
from compress.pipeline import checkpoint
from tests.conftest import inputs_for


def edited(model: Denoiser, *paths: str) -> Denoiser:
    copied = copy.deepcopy(model)
    blocks = model.family.blocks(model.net)
    for path in paths:
        edits.put(copied.net, model.family, path, blocks[path])
    return copied


def test_every_block_of_every_family_can_be_taken_out(any_model: Denoiser, tmp_path: Path) -> None:
    blocks = any_model.family.blocks(any_model.net)
    kinds = {edit["kind"] for edit in blocks.values()}
    assert kinds == {"shortcut", "passthrough"} and "mid_block" in blocks
    inputs = inputs_for(any_model)
    with torch.no_grad():
        whole = predict(any_model, *inputs)
        for i, path in enumerate(blocks):
            model = edited(any_model, path)
            output = predict(model, *inputs)
            assert output.shape == whole.shape and not torch.equal(output, whole), path
            checkpoint.save(model, tmp_path / str(i))
            loaded = checkpoint.load(tmp_path / str(i))
            assert torch.equal(predict(loaded, *inputs), output), path
            assert edits.found(loaded.net) == ({} if path == "mid_block" else {path: blocks[path]})


def test_all_at_once(any_model: Denoiser) -> None:
    blocks = [path for path in any_model.family.blocks(any_model.net) if not path.startswith("mid_block.")]
    model = edited(any_model, *blocks)
    with torch.no_grad():
        assert predict(model, *inputs_for(any_model)).isfinite().all()
    assert "mid_block" not in model.family.stages(model.net)
    for _, writer in model.family.stages(model.net).values():
        assert model.net.get_submodule(writer).weight.ndim == 4


def test_what_is_taken_out_is_the_residual_branch(class_model: Denoiser) -> None:
    """A block whose last layer is zero computes its shortcut alone."""
    path = next(p for p, e in class_model.family.blocks(class_model.net).items() if e["kind"] == "shortcut")
    silent = copy.deepcopy(class_model)
    nn.init.zeros_(silent.net.get_submodule(path).conv2.weight)
    nn.init.zeros_(silent.net.get_submodule(path).conv2.bias)
    inputs = inputs_for(class_model)
    with torch.no_grad():
        torch.testing.assert_close(predict(edited(class_model, path), *inputs), predict(silent, *inputs))


@pytest.mark.parametrize("kernel, stride, padding", [(1, 1, 0), (3, 1, 1), (3, 2, 1)])
def test_full_rank_factors_compute_the_layer(kernel: int, stride: int, padding: int) -> None:
    layer = nn.Conv2d(6, 8, kernel, stride, padding)
    rank = min(6 * kernel**2, 8)
    low = LowRank(layer, rank)
    u, s, v = torch.linalg.svd(layer.weight.flatten(1), full_matrices=False)
    with torch.no_grad():
        low.down.weight.copy_((s[:, None] * v).reshape(low.down.weight.shape))
        low.up.weight.copy_(u[:, :, None, None])
        low.up.bias.copy_(layer.bias)
        x = torch.randn(2, 6, 9, 9)
        torch.testing.assert_close(low(x), layer(x), atol=1e-5, rtol=1e-4)
    assert (low.in_channels, low.out_channels) == (6, 8)


def test_described_and_applied_with_other_changes(class_model: Denoiser, tmp_path: Path) -> None:
    model = edited(class_model, "mid_block")
    edits.put(model.net, model.family, "time_embedding.linear_2", {"kind": "low_rank", "rank": 3})
    inputs = inputs_for(model)
    with torch.no_grad():
        wanted = predict(model, *inputs)
        checkpoint.save(model, tmp_path)
        assert torch.equal(predict(checkpoint.load(tmp_path), *inputs), wanted)
    described = structure.describe(model.net, class_model.net, model.family)
    assert described["edits"]["time_embedding.linear_2"] == {"kind": "low_rank", "rank": 3}


@pytest.mark.parametrize(
    "path, edit",
    [
        ("absent", {"kind": "shortcut"}),
        ("", {"kind": "passthrough"}),
        ("conv_in", {"kind": "shortcut"}),
        ("conv_in", {"kind": "low_rank", "rank": 0}),
        ("conv_in", {"kind": "low_rank", "rank": "2"}),
        ("conv_in", {"kind": "low_rank"}),
        ("conv_in", {"kind": "pickle"}),
        ("mid_block", {"kind": "passthrough", "more": 1}),
        ("mid_block", "passthrough"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(class_model: Denoiser, path: str, edit: Any) -> None:
    with torch.device("meta"):
        net = class_model.family.build(class_model.config)
    with pytest.raises(CheckpointError, match=r"^here/structure\.json: "):
        structure.apply(net, class_model.family, {"edits": {path: edit}}, "here/structure.json")

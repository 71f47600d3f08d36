"""`structure.json`: measured, applied, and the net is there again."""

import copy
import json
from typing import Any

import pytest
import torch
from torch import nn

from compress.errors import CheckpointError
from compress.model import structure
from compress.model.denoiser import Denoiser, predict
from compress.passes import prune_channels
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG, UNCONDITIONAL_CONFIG, inputs_for, make_denoiser

CONFIGS = {"class": CLASS_CONFIG, "text": TEXT_CONFIG, "unconditional": UNCONDITIONAL_CONFIG}


def on_meta(model: Denoiser) -> nn.Module:
    with torch.device("meta"):
        return model.family.build(model.config)


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def shapes(net: nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in net.state_dict().items()}


@pytest.fixture(scope="module", params=list(CONFIGS))
def pruned(request: pytest.FixtureRequest) -> Denoiser:
    """A model with layers of uneven widths."""
    model = make_denoiser(CONFIGS[request.param])
    model.net.requires_grad_(True)
    config = prune_channels.Config(target={"channels": 0.5}, importance="l2")
    pruned = prune_channels.prune(model, prune_channels.rank(model, config, 0, "prune"), config, 0.5)
    pruned.net.requires_grad_(False)
    return pruned


def test_stock_net_has_an_empty_structure(any_model: Denoiser) -> None:
    assert structure.describe(any_model.net, on_meta(any_model), any_model.family) == {}


def test_weights_are_no_part_of_the_structure(class_model: Denoiser) -> None:
    changed = copy.deepcopy(class_model.net)
    with torch.no_grad():
        changed.conv_in.weight.add_(1)
    assert structure.describe(changed, class_model.net, class_model.family) == {}


def test_training_mode_is_no_part_of_the_structure(class_model: Denoiser) -> None:
    assert structure.describe(copy.deepcopy(class_model.net).train(), class_model.net, class_model.family) == {}


def test_only_what_differs_is_described(class_model: Denoiser) -> None:
    changed = copy.deepcopy(class_model.net)
    changed.conv_in = nn.Conv2d(1, 12, 3, padding=1)
    assert structure.describe(changed, class_model.net, class_model.family) == {
        "shapes": {"conv_in.weight": [12, 1, 3, 3], "conv_in.bias": [12]},
        "attributes": {"conv_in": {"out_channels": 12}},
    }


def test_tuples_are_described_as_lists_and_applied_as_tuples(class_model: Denoiser) -> None:
    changed = copy.deepcopy(class_model.net)
    changed.conv_in.dilation = (2, 2)
    described = structure.describe(changed, class_model.net, class_model.family)
    assert described["attributes"] == {"conv_in": {"dilation": [2, 2]}}
    fresh = on_meta(class_model)
    structure.apply(fresh, class_model.family, through_json(described), "structure.json")
    assert fresh.conv_in.dilation == (2, 2)


def test_pruned_net_differs_from_stock(pruned: Denoiser) -> None:
    described = structure.describe(pruned.net, on_meta(pruned), pruned.family)
    assert described["shapes"] and described["attributes"]


def test_applied_structure_gives_the_shapes_back(pruned: Denoiser) -> None:
    fresh = on_meta(pruned)
    assert shapes(fresh) != shapes(pruned.net)
    described = structure.describe(pruned.net, fresh, pruned.family)
    structure.apply(fresh, pruned.family, through_json(described), "structure.json")
    assert shapes(fresh) == shapes(pruned.net)


def test_describe_after_apply_finds_no_difference(pruned: Denoiser) -> None:
    fresh = on_meta(pruned)
    described = structure.describe(pruned.net, fresh, pruned.family)
    structure.apply(fresh, pruned.family, through_json(described), "structure.json")
    assert structure.describe(pruned.net, fresh, pruned.family) == {}


def test_rebuilt_net_computes_the_same(pruned: Denoiser) -> None:
    fresh = on_meta(pruned)
    described = structure.describe(pruned.net, fresh, pruned.family)
    structure.apply(fresh, pruned.family, through_json(described), "structure.json")
    fresh.load_state_dict(pruned.net.state_dict(), assign=True)
    rebuilt = Denoiser(fresh.eval(), pruned.family, pruned.sampling, pruned.scheduler, pruned.null)
    inputs = inputs_for(pruned)
    with torch.no_grad():
        assert torch.equal(predict(rebuilt, *inputs), predict(pruned, *inputs))


def test_empty_structure_changes_nothing(class_model: Denoiser) -> None:
    fresh = on_meta(class_model)
    structure.apply(fresh, class_model.family, {}, "structure.json")
    assert structure.describe(fresh, on_meta(class_model), class_model.family) == {}


@pytest.mark.parametrize(
    "bad",
    [{"shapes": []}, {"attributes": None}, {"code": {}}, {"edits": {"mid_block": 1}}, {"attributes": {"conv_in": []}}],
)
def test_apply_names_the_file_of_what_is_no_structure(class_model: Denoiser, bad: Any) -> None:
    with pytest.raises(CheckpointError, match=r"^here/structure\.json: is damaged"):
        structure.apply(on_meta(class_model), class_model.family, bad, "here/structure.json")


@pytest.mark.parametrize(
    "bad",
    [
        {"shapes": {"absent.weight": [1]}},
        {"shapes": {"conv_in.weight": [1, 1, 3, -3]}},
        {"attributes": {"conv_in": {"absent": 1}}},
        {"attributes": {"absent": {"in_channels": 1}}},
        {"attributes": {"conv_in": {"in_channels": None}, "": {"state_dict": 1}}},
    ],
)
def test_apply_names_the_file_of_a_structure_that_does_not_fit(class_model: Denoiser, bad: Any) -> None:
    with pytest.raises(CheckpointError, match=r"^here/structure\.json: .* does not exist"):
        structure.apply(on_meta(class_model), class_model.family, bad, "here/structure.json")

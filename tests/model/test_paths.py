"""Modules by their paths: what patterns mean, what lies within others, and what is seen of calls."""

import pytest
import torch

from compress.errors import PassError
from compress.model.denoiser import Denoiser, predict
from compress.model.paths import matches, meant, outermost, watched
from tests.conftest import inputs_for

PATHS = ["conv_in", "mid_block.attentions.0.to_q", "mid_block.attentions.0.to_k"]


def test_patterns_mean_paths_in_the_order_of_the_net() -> None:
    assert meant(["*.to_k", "*.to_q"], PATHS, "pass: layers", "layer") == PATHS[1:]
    assert matches("conv_in", ["conv_*"]) and not matches("conv_in", ["Conv_*", "conv"])


@pytest.mark.parametrize(
    ("pattern", "paths", "end"),
    [
        ("con_in", PATHS, "; did you mean 'conv_in'?"),
        ("#", PATHS, f"; known: {', '.join(PATHS)}"),
        ("a", [], "; none is left"),
    ],
)
def test_a_pattern_without_a_match_is_named(pattern: str, paths: list[str], end: str) -> None:
    with pytest.raises(PassError) as caught:
        meant(["conv_in"] * bool(paths) + [pattern], paths, "pass: layers", "layer")
    assert str(caught.value) == f"pass: layers: {pattern!r} matches no layer{end}"


def test_what_lies_within_another_is_not_named_twice() -> None:
    paths = ["mid_block.resnets.0", "a.1", "mid_block", "a.1", "a.10"]
    assert outermost(paths) == ["a.1", "mid_block", "a.10"]


def test_every_call_is_seen_while_it_is_watched(class_model: Denoiser) -> None:
    seen: list[tuple[str, int, tuple[int, ...]]] = []

    def told(path: str, module: torch.nn.Module, inputs: tuple, named: dict, output: torch.Tensor) -> None:
        assert module is class_model.net.get_submodule(path) and isinstance(named, dict)
        seen.append((path, len(inputs), tuple(output.shape)))

    inputs = inputs_for(class_model)
    with torch.no_grad(), pytest.raises(KeyError), watched(class_model.net, ["conv_in", "conv_out"], told):
        predict(class_model, *inputs)
        predict(class_model, *inputs)
        raise KeyError
    assert seen == [("conv_in", 1, (3, 16, 8, 8)), ("conv_out", 1, (3, 1, 8, 8))] * 2
    assert not any(module._forward_hooks for module in class_model.net.modules())

"""A target is exactly one number; what is left is measured in its units."""

import pytest
from pydantic import ValidationError

from compress.measure.target import LEFT, Target, out_of_reach
from compress.model.denoiser import Denoiser
from compress.passes import factorize, prune_blocks, prune_channels
from tests.conftest import CLASS_CONFIG, make_denoiser


@pytest.mark.parametrize("module", [factorize, prune_blocks, prune_channels], ids=lambda module: module.__name__)
def test_exactly_one_is_given(module) -> None:  # type: ignore[no-untyped-def]
    names = list(module.Target.model_fields)
    for given in ({}, {name: 0.5 for name in names[:2]}):
        with pytest.raises(ValidationError, match=f"give exactly one of {', '.join(names)}"):
            module.Target.model_validate(given)
    for name in names:
        found = module.Target.model_validate({name: 0.5})
        assert (found.kind, found.fraction) == (name, 0.5)


def test_what_is_left_of_a_model_with_half_the_levels() -> None:
    whole = make_denoiser(CLASS_CONFIG)
    less = make_denoiser({**CLASS_CONFIG, "block_out_channels": [8, 16]})
    for kind in ("macs", "params", "bytes"):
        assert 0.2 < LEFT[kind](less, whole) < 0.5 and LEFT[kind](whole, whole) == 1


def test_time_of_a_model_against_itself(class_model: Denoiser) -> None:
    assert 0.5 < LEFT["latency"](class_model, class_model) < 2


def test_a_target_out_of_reach_says_how_far_one_comes() -> None:
    error = out_of_reach("here", Target(macs=0.1), "taking all", 0.25, "raise the target")
    assert str(error) == "here: macs: 0.1 is out of reach; taking all leaves 0.250; raise the target"

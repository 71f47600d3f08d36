"""A scheme is one row, and every room reads it there."""

import typing

import pytest

from compress.passes import quantize
from compress.runtime.engines import ONNXRUNTIME
from compress.runtime.schemes import SCHEMES


def test_recipes_may_ask_for_every_scheme() -> None:
    asked = typing.get_args(quantize.Config.model_fields["scheme"].annotation)
    assert set(asked) == {"auto", *SCHEMES} - {"float"}
    described = str(quantize.Config.model_fields["scheme"].description)
    assert all(f"{name}: " in described for name in asked)


@pytest.mark.parametrize("name", SCHEMES)
def test_sessions_have_the_options_of_their_row(name: str) -> None:
    options = ONNXRUNTIME.options(3, name)
    assert options.intra_op_num_threads == 3
    for key, value in SCHEMES[name].session.items():
        assert options.get_session_config_entry(key) == value
    every = {key for row in SCHEMES.values() for key in row.session}
    for key in every - set(SCHEMES[name].session):
        with pytest.raises(RuntimeError, match="does not have configuration"):
            options.get_session_config_entry(key)

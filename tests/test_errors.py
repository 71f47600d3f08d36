"""What a fault says is one line that can be read."""

import pytest

from compress.errors import LONGEST, BundleError, RecipeError


def test_a_message_a_fault() -> None:
    assert RecipeError(["one", "two"]).messages == ["one", "two"]
    assert BundleError("a.onnx: is damaged").messages == ["a.onnx: is damaged"]


@pytest.mark.parametrize("sign", ["\n", "\r", "\0", "\x1b", "\udcff"])
def test_what_cannot_be_printed_does_not_break_the_line(sign: str) -> None:
    assert BundleError(f"a{sign}b.onnx: no such file").messages == ["a b.onnx: no such file"]


def test_a_long_name_does_not_fill_the_screen() -> None:
    (message,) = BundleError(f"begin{'x' * 10_000}end").messages
    assert len(message) <= LONGEST + 3
    assert message.startswith("begin") and message.endswith("end")

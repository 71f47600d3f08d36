"""Documents made to break their reader: refused in one short message with the line, and at once."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from compress.errors import RecipeError, short
from compress.recipe import recipe
from tests.conftest import write_recipe
from tests.recipe.test_recipe import MODEL, fault, faults, home, of_pass, read

__all__ = ["home"]
LAUGHS = "[&a0 [x], " + ", ".join(f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)) + "]"


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    began = time.process_time()
    yield
    assert time.process_time() - began < 5


def told(home: Path, text: str, *overrides: str) -> str:
    """The only fault, which is short and one line."""
    found = fault(home, text, *overrides)
    assert len(found) < 300 and len(found.splitlines()) == 1
    return found


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (LAUGHS, "aliases are not read here"),
        ("[" * 500 + "]" * 500, "nested more than 50 deep"),
        ("[" * 30_000, "nested more than 50 deep"),
        ("{a: " * 500 + "1" + "}" * 500, "nested more than 50 deep"),
        ("!!bool x", "'x' is no bool"),
        ("!!int ''", "'' is no int"),
        ("!!float ''", "'' is no float"),
        ("2024-13-45", "'2024-13-45' is no timestamp"),
        ("1" * 5000, "an integer of more than 15 digits"),
        ("0x" + "f" * 5000, "an integer of more than 15 digits"),
        ('"\\UFFFFFFFF"', "is not YAML that is read here"),
        ("&a [*a]", "aliases are not read here"),
        ("&a {<<: *a}", "aliases are not read here"),
        ("*absent", "aliases are not read here"),
    ],
    ids=lambda value: short(value),
)
def test_value_that_is_not_built(home: Path, value: str, words: str) -> None:
    found = told(home, f"{MODEL}seed: {value}\npasses: [distill]\n")
    assert words in found and (found.startswith("3: ") or value.startswith('"'))
    assert words in told(home, of_pass("  - distill\n"), f"seed={value}")


def test_a_value_is_shown_in_short(home: Path) -> None:
    for value in (
        "[" + "x," * 2000 + "]",
        "[" + "[]," * 20_000 + "]",
        "x" * 50_000,
        "{" + ", ".join(f"k{i}: {i}" for i in range(2000)) + "}",
    ):
        assert told(home, f"{MODEL}seed: {value}\npasses: [distill]\n").startswith("3: seed: should be a whole number")


def test_a_key_is_shown_in_short(home: Path) -> None:
    assert "unknown key" in told(home, f"{MODEL}? {'x' * 50_000}\n: 1\npasses: [distill]\n")
    assert "unknown key" in told(home, f'{MODEL}"a\\nb": 1\npasses: [distill]\n')
    found = faults(home, f'{MODEL}"a\\nb": 1\n"a\\nb": 1\npasses: [distill]\n')
    assert found[0] == "4: 'a\\nb' is given twice"


def test_thousands_of_faults_are_counted(home: Path) -> None:
    keys = "".join(f"k{i}: 1\n" for i in range(2000))
    found = faults(home, f"{MODEL}{keys}passes: [distill]\n")
    assert len(found) == 101 and "1,900 more faults" in found[-1]
    assert len(faults(home, of_pass("  - distill\n" * 2000))) == 1999


def test_override_of_great_depth(home: Path) -> None:
    assert "names no setting" in told(home, of_pass("  - distill\n"), "seed" + ".a" * 3000 + "=1")
    assert "no pass is called" in told(home, of_pass("  - distill\n"), f"passes.{'x' * 9000}.a=1")


def test_a_recipe_of_bounded_size(home: Path) -> None:
    assert "at most 65,536" in faults(home, of_pass("  - distill\n") + "#" * 70_000)[0]


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("data.path", "data: {source: npz, path: pipe}"),
        ("data.embeddings", "data: {source: teacher, embeddings: pipe}"),
        ("guidance.null_embedding", "guidance: {scale: 2, null_embedding: pipe}"),
        ("guidance.classifier", "guidance: {scale: 2, classifier: pipe}"),
    ],
)
def test_a_pipe_or_a_folder_for_a_file(home: Path, key: str, line: str) -> None:
    os.mkfifo(home / "pipe")
    text = f"{MODEL}{line}\npasses: [distill]\n"
    assert fault(home, text) == f"3: {key}: is a pipe, a socket or a device; give an ordinary file; got 'pipe'"
    assert fault(home, text.replace("pipe", "model")) == f"3: {key}: is a folder; give a file; got 'model'"


def test_a_pipe_for_features_and_for_a_folder(home: Path) -> None:
    os.mkfifo(home / "pipe")
    text = of_pass("  - export_onnx\n  - verify: {features: [pipe]}\n")
    assert fault(home, text).startswith("5: verify.features.0: ") and "is a pipe" in fault(home, text)
    text = f"{MODEL}data: {{source: folder, path: pipe}}\npasses: [distill]\n"
    assert fault(home, text) == "3: data.path: is no folder; got 'pipe'"


def test_a_pipe_for_the_recipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "recipe.yaml")
    with pytest.raises(RecipeError, match="is a pipe"):
        recipe.read(tmp_path / "recipe.yaml")


# What a recipe means.


def test_numbers_with_an_exponent_alone(home: Path) -> None:
    found = read(home, of_pass("  - distill: {learning_rate: 1e-3}\n"), "passes.distill.weight_decay=2E+0")
    config: object = found.steps[0].config
    assert (config.learning_rate, config.weight_decay) == (1e-3, 2.0)  # type: ignore[attr-defined]


def test_as_within_and_beside(home: Path) -> None:
    assert fault(home, of_pass("  - distill: {as: one}\n    as: two\n")).startswith("5: as is given twice")


def test_nothing_is_merged(home: Path) -> None:
    assert "unknown key 'distill.<<'" in fault(home, of_pass("  - distill: {<<: {steps: 5}, steps: 6}\n"))


def test_the_file_itself_is_named(home: Path) -> None:
    file = write_recipe(home, f"{MODEL}seed: yes\npasses: [distill]\n")
    with pytest.raises(RecipeError, match=f"{file}:3: seed: should be a whole number; got true"):
        recipe.read(file)

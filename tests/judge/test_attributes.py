"""Attributes of pictures: named by a classifier from outside, held against what was asked and against the teacher's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.data import read_asked
from compress.errors import DataError, VerifyError
from compress.judge.attributes import load
from tests.judge.classifiers import LIGHT, save_classifier

SHAPE = (3, 8, 8)
PROMPTS = [{"text": "sun", "light": "bright"}, {"text": "cave", "light": "dark"}]


def pictures(bright: Any) -> np.ndarray:
    """A picture for each truth value, bright or dark, of noise."""
    level = np.where(np.asarray(bright), 0.5, -0.5).astype(np.float32)[:, None, None, None]
    return level + 0.1 * np.random.default_rng(0).standard_normal((len(level), *SHAPE)).astype(np.float32)


def test_pictures_are_named_as_asked_and_as_the_teachers(tmp_path: Path) -> None:
    classifier = load(save_classifier(tmp_path / "light.onnx"), SHAPE, 0.9, PROMPTS)
    texts = ["sun", "cave"] * 150
    asked = np.array(texts) == "sun"
    theirs, ours = asked.copy(), asked.copy()
    theirs[:10] ^= True  # the teacher errs in 10, the student in 40, 10 of them the same
    ours[:40] ^= True
    found = classifier.compare(pictures(ours), pictures(theirs), texts, paired=True)["light"]
    assert (found.classes, found.accuracy, found.count) == (2, 0.95, 40)
    accuracy, agreement = found.metrics["attribute_accuracy"], found.metrics["attribute_agreement"]
    assert (accuracy.value, accuracy.teacher) == (pytest.approx(260 / 300), pytest.approx(290 / 300))
    assert accuracy.excess == pytest.approx(-0.1) and accuracy.resolved
    low, high = accuracy.excess_interval or (0, 0)
    # of 300 differences, 30 of −1: a standard error of √(0.1 · 0.9 / 300)
    assert (low, high) == (pytest.approx(-0.1 - 0.034, abs=0.006), pytest.approx(-0.1 + 0.034, abs=0.006))
    assert agreement.value == pytest.approx(0.9) and agreement.teacher == 1


def test_without_pairs_or_words_of_the_prompts_the_rest_is_measured(tmp_path: Path) -> None:
    file = save_classifier(tmp_path / "light.onnx")
    images = pictures([True, False])
    assert set(load(file, SHAPE, 0.9).compare(images, images, [], paired=True)["light"].metrics) == {
        "attribute_agreement"
    }
    unpaired = load(file, SHAPE, 0.9, PROMPTS).compare(images, images, ["sun", "cave"], paired=False)
    assert set(unpaired["light"].metrics) == {"attribute_accuracy"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"about": None}, r"has no 'attributes' among its metadata; write JSON there like"),
        ({"about": "{"}, "should be JSON like"),
        ({"about": "[1]"}, "should be JSON like"),
        ({"about": {}}, "should be JSON like"),
        ({"about": {"light": {**LIGHT["light"], "accuracy": 2}}}, "accuracy: should be less than or equal to 1"),
        ({"about": {"light": {**LIGHT["light"], "classes": ["one"]}}}, "classes: should"),
        ({"about": {"light": {**LIGHT["light"], "accuracy": 0.712}}}, "71.2%.*judge_accuracy is 0.9: lower it to 0.71"),
        ({"outputs": ("shade",)}, "should have one input, and outputs light; got inputs pixels and outputs shade"),
        ({"classes": 3}, r"2 pictures should give light \[2, 2\]; got \[2, 3\]"),
    ],
)  # fmt: skip
def test_what_is_no_classifier_is_told(tmp_path: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(VerifyError, match=said):
        load(save_classifier(tmp_path / "light.onnx", **given), SHAPE, 0.9, PROMPTS)


def test_files_of_other_kinds_are_told(tmp_path: Path) -> None:
    (tmp_path / "light.onnx").write_bytes(b"nothing")
    with pytest.raises(VerifyError, match=r"light.onnx: cannot be read as a classifier of attributes"):
        load(tmp_path / "light.onnx", SHAPE, 0.9)
    with pytest.raises(VerifyError, match=r"light.pt: a classifier of attributes is an ONNX file"):
        load(tmp_path / "light.pt", SHAPE, 0.9)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "dusk", "light": "drak"}, "prompts: 'dusk' asks for light 'drak', .* did you mean 'dark'"),
        ({"text": "dusk"}, "prompts: 'dusk' asks for no light"),
        ({"text": "sun", "light": "dark"}, "prompts: 'sun' stands twice, with another light"),
    ],
)
def test_prompts_that_ask_for_what_nobody_names_are_told(tmp_path: Path, row: dict[str, str], said: str) -> None:
    with pytest.raises(VerifyError, match=said):
        load(save_classifier(tmp_path / "light.onnx"), SHAPE, 0.9, [*PROMPTS, row])


def test_prompts_that_speak_of_other_things_alone_are_told(tmp_path: Path) -> None:
    with pytest.raises(VerifyError, match=r"prompts: ask for shape; .* names light alone"):
        load(save_classifier(tmp_path / "light.onnx"), SHAPE, 0.9, [{"text": "sun", "shape": "round"}])


def test_prompts_are_read_with_what_they_ask_for(tmp_path: Path) -> None:
    file = tmp_path / "held_out.jsonl"
    file.write_text("\n".join(map(json.dumps, PROMPTS)) + "\n\n", encoding="utf-8")
    assert read_asked(file) == PROMPTS
    for line in ('{"light": "dark"}', '{"text": "cave", "light": 3}', '["cave"]', '{"text": " "}', "null"):
        file.write_text(f'{{"text": "sun"}}\n{line}\n', encoding="utf-8")
        with pytest.raises(DataError, match="line 2: should be like"):
            read_asked(file)

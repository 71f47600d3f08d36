"""From values and limits to a verdict."""

import json
import math

import pytest

from compress.evaluation.decision import Decision, as_json, decide, verdict


def held(value: float, **bounds: float | None) -> list[bool]:
    return [decision.passed for decision in decide({"x": value}, {"x": bounds})]


@pytest.mark.parametrize(
    "value, passed", [(0.9, False), (1.0, True), (1.1, True), (math.inf, True), (-math.inf, False)]
)
def test_least_value(value, passed):
    assert held(value, min=1.0) == [passed]


@pytest.mark.parametrize(
    "value, passed", [(0.9, True), (1.0, True), (1.1, False), (math.inf, False), (-math.inf, True)]
)
def test_greatest_value(value, passed):
    assert held(value, max=1.0) == [passed]


def test_next_float_beyond_the_limit_fails():
    assert held(math.nextafter(0.3, 0), min=0.3) == [False]
    assert held(math.nextafter(0.3, 1), max=0.3) == [False]


@pytest.mark.parametrize("bounds", [{"min": 0.0}, {"max": 0.0}, {"min": -math.inf}, {"max": math.inf}])
def test_nan_never_passes(bounds):
    assert held(math.nan, **bounds) == [False]


def test_both_limits_are_two_decisions():
    decisions = decide({"x": 5.0}, {"x": {"min": 1.0, "max": 4.0}})
    assert decisions == [Decision("x", "min", 1.0, 5.0, True), Decision("x", "max", 4.0, 5.0, False)]


def test_limit_of_zero_counts_and_none_does_not():
    assert held(-1.0, min=0, max=None) == [False]
    assert held(-1.0, min=None, max=None) == []


def test_values_without_limits_are_not_judged():
    assert [decision.name for decision in decide({"x": 1.0, "y": 2.0}, {"y": {"min": 0.0}})] == ["y"]


def test_unknown_name_is_an_error():
    with pytest.raises(KeyError, match="speed"):
        decide({"x": 1.0}, {"speed": {"min": 0.0}})


def test_one_failure_fails_the_verdict():
    limits = {"x": {"min": 1.0}, "y": {"max": 1.0}}
    assert verdict(decide({"x": 1.0, "y": 1.0}, limits)) == "pass"
    assert verdict(decide({"x": 1.0, "y": 1.5}, limits)) == "fail"
    assert verdict(decide({"x": math.nan, "y": 1.0}, limits)) == "fail"
    assert verdict([]) == "pass"


def test_report_has_every_field_and_is_a_copy():
    decisions = decide({"x": 5.0}, {"x": {"min": 1}})
    content = as_json(decisions)
    assert json.loads(json.dumps(content)) == [{"name": "x", "kind": "min", "limit": 1, "value": 5.0, "passed": True}]
    content[0]["passed"] = False
    assert decisions[0].passed

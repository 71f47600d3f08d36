"""From values and limits to a verdict."""

import json
import math

import pytest

from compress.evaluation.decision import Decision, as_json, decide, verdict
from compress.evaluation.figure import Figure


def exact(**values: float) -> dict[str, list[Figure]]:
    return {name: [Figure(value, "more")] for name, value in values.items()}


def held(value: float, **bounds: float | None) -> list[bool | None]:
    return [decision.passed for decision in decide(exact(x=value), {"x": bounds}, {})]


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
    decisions = decide(exact(x=5.0), {"x": {"min": 1.0, "max": 4.0}}, {})
    assert decisions == [Decision("x", "min", 1.0, 5.0, 5.0, True), Decision("x", "max", 4.0, 5.0, 5.0, False)]


def test_limit_of_zero_counts_and_none_does_not():
    assert held(-1.0, min=0, max=None) == [False]
    assert held(-1.0, min=None, max=None) == []


def test_values_without_limits_are_not_judged():
    assert [decision.name for decision in decide(exact(x=1.0, y=2.0), {"y": {"min": 0.0}}, {})] == ["y"]


def test_unknown_name_is_an_error():
    with pytest.raises(KeyError, match="speed"):
        decide(exact(x=1.0), {"speed": {"min": 0.0}}, {})


def test_one_failure_fails_the_verdict():
    limits = {"x": {"min": 1.0}, "y": {"max": 1.0}}
    assert verdict(decide(exact(x=1.0, y=1.0), limits, {})) == "pass"
    assert verdict(decide(exact(x=1.0, y=1.5), limits, {})) == "fail"
    assert verdict(decide(exact(x=math.nan, y=1.0), limits, {})) == "fail"
    assert verdict([]) == "pass"


def test_report_has_every_field_and_is_a_copy():
    decisions = decide(exact(x=5.0), {"x": {"min": 1}}, {})
    content = as_json(decisions)
    assert json.loads(json.dumps(content)) == [
        {"name": "x", "kind": "min", "limit": 1, "value": 5.0, "bound": 5.0, "passed": True}
    ]
    content[0]["passed"] = False
    assert decisions[0].passed


def figure(value: float, half: float, better: str = "less", teacher: float = 1.0) -> Figure:
    low, high = value - half, value + half
    return Figure(value, better, (low, high), 10, teacher, 0.1, value - teacher, (low - teacher, high - teacher))  # type: ignore[arg-type]


def test_far_end_of_the_interval_is_held_against_the_limit():
    figures = {"x": [figure(5.0, 1.0)]}
    for bounds, passed, bound in (({"min": 4.5}, False, 4), ({"min": 4}, True, 4), ({"max": 5.5}, False, 6)):
        (decision,) = decide(figures, {"x": bounds}, {})
        assert (decision.passed, decision.bound, decision.value) == (passed, bound, 5.0)


@pytest.mark.parametrize(
    ("better", "value", "half", "lacks", "bound"),
    [("less", 1.5, 0.2, 0.5, 0.7), ("more", 0.5, 0.2, 0.5, 0.7), ("more", 1.5, 0.2, -0.5, -0.3)],
)
def test_margin_is_what_the_student_lacks(better, value, half, lacks, bound):
    figures = {"x": [figure(value, half, better)]}
    for margin in (0.0, 0.6, 0.75):
        (decision,) = decide(figures, {"x": {"margin": margin}}, {})
        assert decision.value == pytest.approx(lacks) and decision.bound == pytest.approx(bound)
        assert decision.passed == (bound <= margin)


def test_worst_of_several_spaces_decides():
    figures = {"x": [figure(1.0, 0.1), figure(2.0, 0.1), figure(1.5, 0.1)]}
    assert [d.value for d in decide(figures, {"x": {"min": 0, "max": 3, "margin": 3}}, {})] == [1.0, 2.0, 1.0]


def test_margin_needs_the_teachers_own_figure():
    with pytest.raises(ValueError, match="takes no margin"):
        decide(exact(x=1.0), {"x": {"margin": 0.1}}, {})


def test_what_means_nothing_is_left_out_and_said():
    decisions = decide({}, {"x": {"min": 1.0}}, {"x": "other noise"})
    assert as_json(decisions) == [{"name": "x", "kind": "min", "limit": 1.0, "reason": "other noise"}]
    assert verdict(decisions) == "pass"

"""From values and limits to a verdict."""

import math

import pytest

from compress.judge.decision import ALWAYS, decide, verdict, with_always
from compress.report.parts import Decision, Figure, against


def exact(**values: float) -> dict[str, list[Figure]]:
    return {name: [Figure(value=value, better="more")] for name, value in values.items()}


def held(value: float, **bounds: float | None) -> list[bool | None]:
    return [decision.passed for decision in decide(exact(x=value), {"x": bounds}, {})]


@pytest.mark.parametrize("value, passed", [(0.9, False), (1.0, True), (1.1, True), (1e300, True), (-1e300, False)])
def test_least_value(value, passed):
    assert held(value, min=1.0) == [passed]


@pytest.mark.parametrize("value, passed", [(0.9, True), (1.0, True), (1.1, False), (1e300, False), (-1e300, True)])
def test_greatest_value(value, passed):
    assert held(value, max=1.0) == [passed]


def test_next_float_beyond_the_limit_fails():
    assert held(math.nextafter(0.3, 0), min=0.3) == [False]
    assert held(math.nextafter(0.3, 1), max=0.3) == [False]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_no_figure_and_never_passes(value):
    with pytest.raises(ValueError, match="finite number"):
        exact(x=value)
    for bounds in ({"min": 0.0}, {"max": 0.0}):
        figure = Figure.model_construct(value=value, better="more", interval=None)
        with pytest.raises(ValueError, match="finite number"):
            decide({"x": [figure]}, {"x": bounds}, {})


def test_both_limits_are_two_decisions():
    decisions = decide(exact(x=5.0), {"x": {"min": 1.0, "max": 4.0}}, {})
    assert decisions == (
        Decision(name="x", kind="min", limit=1.0, value=5.0, bound=5.0, passed=True),
        Decision(name="x", kind="max", limit=4.0, value=5.0, bound=5.0, passed=False),
    )


def test_limit_of_zero_counts_and_none_does_not():
    assert held(-1.0, min=0, max=None) == [False]
    assert held(-1.0, min=None, max=None) == []


def test_values_without_limits_are_not_judged():
    assert [decision.name for decision in decide(exact(x=1.0, y=2.0), {"y": {"min": 0.0}}, {})] == ["y"]


def test_unknown_name_is_an_error():
    with pytest.raises(KeyError, match="speed"):
        decide(exact(x=1.0), {"speed": {"min": 0.0}}, {})


def test_one_failure_fails_the_verdict():
    limits = {"ssim": {"min": 1.0}, "bytes": {"max": 1.0}}
    assert verdict(decide(exact(ssim=1.0, bytes=1.0), limits, {})) == "pass"
    assert verdict(decide(exact(ssim=1.0, bytes=1.5), limits, {})) == "fail"


def figure(value: float, half: float, better: str = "less", teacher: float = 1.0) -> Figure:
    low, high = value - half, value + half
    return against(value, better, (low, high), 10, teacher, 0.1)  # type: ignore[arg-type]


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


def test_a_limit_that_is_met_to_the_last_picture_is_held():
    lost = 0.78 - 0.8  # 20 of 1,000 pictures: -0.020000000000000018
    assert -lost > 0.02
    figure = Figure(value=0.78, better="more", teacher=0.8, excess=lost, excess_interval=(lost, lost))
    (decision,) = decide({"x": [figure]}, {"x": {"margin": 0.02}}, {})
    assert decision.passed
    (decision,) = decide({"x": [figure]}, {"x": {"margin": 0.019}}, {})
    assert decision.passed is False


def test_margin_needs_the_teachers_own_figure():
    with pytest.raises(ValueError, match="takes no margin"):
        decide(exact(x=1.0), {"x": {"margin": 0.1}}, {})


def test_what_means_nothing_is_left_out_and_said():
    decisions = decide({}, {"x": {"min": 1.0}}, {"x": "other noise"})
    assert decisions == (Decision(name="x", kind="min", limit=1.0, reason="other noise"),)


SOUND = {"finite_output": 1.0, "listed_files": 1.0, "sampling_error": 0.0, "kernel_loss": 0.1}


@pytest.mark.parametrize(
    ("gates", "left_out", "expected"),
    [
        ({}, {}, "not judged"),
        ({"bytes": {"max": 1}, "macs": {"max": 1}, "params": {"max": 1}, "call_speedup": {"min": 0}}, {}, "not judged"),
        ({"kernel_loss": {"max": 0.5}, "sampling_error": {"max": 1e-6}}, {}, "not judged"),
        ({"psnr": {"min": 0}}, {"psnr": "other noise"}, "not judged"),
        ({"psnr": {"min": 2}, "bytes": {"max": 1}}, {"psnr": "other noise"}, "fail"),
        ({"bytes": {"max": 0.1}}, {}, "fail"),
        *(({name: {"min": 0}}, {}, "pass") for name in ("psnr", "class_accuracy", "guidance_ratio", "vendi")),
        ({"psnr": {"min": 0}, "output_error": {"max": 0}}, {"output_error": "few steps"}, "pass"),
    ],
)
def test_a_pass_needs_a_gate_on_quality_that_was_held(gates, left_out, expected):
    names = ("psnr", "class_accuracy", "guidance_ratio", "vendi", "bytes", "macs", "params", "call_speedup")
    figures = exact(**dict.fromkeys(names, 1.0), **SOUND)
    if expected == "fail":
        figures["bytes"] = [Figure(value=2.0, better="less")]
    assert verdict(decide(figures, with_always(gates, figures), left_out)) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("finite_output", value) for value in (0.999, 0.0)),
        ("listed_files", 0.0),
        *(("sampling_error", value) for value in (2e-5, 1.0)),
        *(("kernel_loss", value) for value in (1.01, 8.4)),
    ],
)
def test_what_no_user_would_accept_fails_whatever_the_recipe_says(name, value):
    figures = exact(psnr=60.0, **{**SOUND, name: value})
    for own in ({}, {name: {"min": -1000.0, "max": 1000.0}}):
        decisions = decide(figures, with_always({"psnr": {"min": 1.0}, **own}, figures), {})
        assert verdict(decisions) == "fail"
        (failed,) = [decision for decision in decisions if decision.passed is False and decision.always]
        assert failed.name == name and failed.limit == next(iter(ALWAYS[name].values()))


def test_the_stricter_of_two_limits_holds_and_the_recipes_come_first():
    limits = with_always(
        {"psnr": {"min": 1}, "kernel_loss": {"min": None, "max": 0.5, "margin": None}, "sampling_error": {"max": 1}},
        SOUND,
    )
    assert [name for name in limits] == ["psnr", "kernel_loss", "sampling_error", "finite_output", "listed_files"]
    assert limits["kernel_loss"]["max"] == 0.5 and limits["sampling_error"]["max"] == 1e-5
    always = {(d.name, d.kind): d.always for d in decide(exact(psnr=2.0, **SOUND), limits, {})}
    assert always == {
        ("psnr", "min"): False,
        ("kernel_loss", "max"): False,  # the recipe's own
        ("sampling_error", "max"): True,
        ("finite_output", "min"): True,
        ("listed_files", "min"): True,
    }


def test_a_margin_stands_beside_what_always_holds_and_recipes_are_left_alone():
    own = {"kernel_loss": {"margin": 0.2}}
    assert with_always(own, SOUND)["kernel_loss"] == {"margin": 0.2, "max": 1.0} and own["kernel_loss"] == {
        "margin": 0.2
    }


def test_of_what_is_not_known_there_is_nothing_to_hold():
    assert list(with_always({}, {"sampling_error": 0, "psnr": 1})) == ["sampling_error"]

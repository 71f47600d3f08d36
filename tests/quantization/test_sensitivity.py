"""Which layers are int8: within the budget, for the least that is given up."""

from hypothesis import given
from hypothesis import strategies as st

from compress.quantization.sensitivity import left_in_float

ERRORS = {"a": 1e-4, "b": 1e-2, "c": 2e-4, "d": 3e-4}
GAINS = {"a": 0.1, "b": 0.1, "c": -0.1, "d": 0.0}


def added(names: list[str]) -> float:
    return sum(ERRORS[name] for name in names)


def test_layers_that_save_nothing_stay_float() -> None:
    assert left_in_float(ERRORS, GAINS, 1.0, added) == {"c": "int8 is not faster", "d": "int8 is not faster"}


def test_the_one_that_ruins_it_is_left_first() -> None:
    left = left_in_float(ERRORS, GAINS, 1e-3, added)
    assert set(left) == {"b", "c", "d"} and left["b"] == "saves 0.100 ms and adds 99.0% of the error"


def test_errors_that_show_only_together_leave_all_in_float() -> None:
    for found in (1.0, float("nan")):
        left = left_in_float({"a": 0.0, "b": 0.0}, {"a": 0.1, "b": 0.2}, 0.5, lambda names, found=found: found)
        assert set(left) == {"a", "b"}


@given(
    st.dictionaries(st.text("abcdef", min_size=1), st.tuples(st.floats(0, 1), st.floats(-1, 1)), max_size=12),
    st.floats(1e-6, 1.0),
    st.floats(0.3, 3.0),
)
def test_what_remains_is_within_the_budget(layers: dict, budget: float, together: float) -> None:
    errors = {name: error for name, (error, _) in layers.items()}
    gains = {name: gain for name, (_, gain) in layers.items()}

    def measure(names: list[str]) -> float:
        return together * sum(errors[name] for name in names)

    left = left_in_float(errors, gains, budget, measure)
    rest = [name for name in errors if name not in left]
    assert measure(rest) <= budget * (1 + 1e-9)
    assert all(gains[name] > 0 for name in rest)
    for name in left:  # none is left that saves more for its error than one that stays
        if gains[name] > 0:
            ratio = gains[name] / max(errors[name], 1e-30)
            assert all(ratio <= gains[other] / max(errors[other], 1e-30) for other in rest)

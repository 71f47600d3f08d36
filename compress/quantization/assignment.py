"""Which layers to compute in int8: the cheapest choice whose error stays within a budget. Pure functions of figures."""

from collections.abc import Callable, Mapping


def left_in_float(
    errors: Mapping[str, float], gains: Mapping[str, float], budget: float, measure: Callable[[list[str]], float]
) -> dict[str, str]:
    """Layers that are not to be int8, and why.

    errors: relative squared error that a layer adds alone. gains: milliseconds that it saves; layers that save none are
    left. Of the rest those are left first that save least for the error they add, until `measure`, the error of all
    that remain together, is within the budget. Errors add up roughly, so as many go at once as the sum says.
    """
    left = {name: "int8 is not faster" for name in errors if gains[name] <= 0}
    rest = [name for name in errors if name not in left]
    rest.sort(key=lambda name: gains[name] / max(errors[name], 1e-30))
    found = measure(rest) if rest else 0.0
    while not found <= budget:  # also where it is not a number
        total = max(sum(errors[name] for name in rest), 1e-30)
        allowed = total * budget / found
        while rest:
            name = rest.pop(0)
            left[name] = f"saves {gains[name]:.3f} ms and adds {errors[name] / total:.1%} of the error"
            if sum(errors[other] for other in rest) <= allowed:
                break
        found = measure(rest) if rest else 0.0
    return left

"""The table of few steps; its rows are of passes that exist."""

import itertools

import pytest

from benchmarks import any_step, few_steps
from benchmarks.bars import BARS
from compress import passes


def test_every_row_has_valid_passes_and_an_identity_of_its_own() -> None:
    for row in few_steps.ROWS.values():
        for kind, settings in row.passes:
            assert passes.module(kind).Config.model_validate(settings)
    identities = [row.identity() for row in few_steps.ROWS.values()]
    assert len(set(identities)) == len(identities)


def test_distilled_rows_have_equal_budgets() -> None:
    for name, row in few_steps.ROWS.items():
        if row.kind == "distilled":
            settings = row.passes[-1][1]
            rounds = 1
            if settings["method"] == "progressive":
                rounds = len(passes.module("distill_steps")._halvings(row.steps, 20))
            assert settings["steps"] * rounds == few_steps.BUDGET, name


def test_tables_hold_what_was_run() -> None:
    figure = {"value": 0.5}
    frechet = {"frechet_real": {"excess": 0.25, "excess_interval": [0.1, 0.4]}}
    row = {
        "quality": {"ssim": figure, "psnr": {"value": 21.25}, "class_accuracy": {"value": 0.9}},
        "spaces": {"classifier": {"metrics": frechet}},
        "evaluations": 4,
    }
    text = few_steps.table({"trajectory, 4 steps": row})
    assert "| distilled | trajectory, 4 steps | 4 | 0.500 | 21.2 | +0.25 (+0.10 … +0.40) | 90.0% |" in text
    assert f"1 of {len(few_steps.ROWS)} rows" in text
    slow = {"ms": 100.0, "student_faster": 412.4, "interval": (400.2, 420.0)}
    assert "| teacher | 100.00 | 412× (400 … 420) |" in few_steps.speed_table({"teacher": slow})


def test_adaptive_steps_save_only_where_they_are_as_good() -> None:
    def row(evaluations: float, low: float) -> dict:
        return {
            "evaluations": evaluations,
            "spaces": {
                "classifier": {"metrics": {"frechet_real": {"excess_interval": [-0.1, 0.1]}}},
                "pixels": {"metrics": {"frechet_real": {"excess_interval": [low, 0.2]}}},
                "random": {"metrics": {}},
            },
        }

    rows = {"adaptive, 35 dB": row(16, -0.1), "adaptive, 25 dB": row(8, 0.01), "dpmpp_2m, 10 steps": row(20, -0.1)}
    assert few_steps.saving(rows, "adaptive") == (0.6, "adaptive, 35 dB")
    assert few_steps.saving(rows, "no training") == (0.5, "dpmpp_2m, 10 steps")
    assert few_steps.saving({}, "adaptive") == (0.0, "none")


def test_every_bar_is_measured() -> None:
    ratio = {"spaces": {"pixels": {"metrics": {"frechet_ratio": {"value": 1.1}}}}}
    names = [f"teacher, PyTorch, {n} steps" for n in few_steps.SLOW]
    names += [f"teacher, onnxruntime fp32, {n} steps" for n in few_steps.FAST]
    kept = {
        "rows": {},
        "any_step": {"cells": cells(0.9, 0.93)},
        "flagship": {"quality": {"class_accuracy": {"teacher": 1.0, "value": 0.995}}, **ratio},
        "speeds": {name: {"student_faster": 30.0} for name in names},
    }
    found = few_steps._bars(kept, ("rows", "any-step", "flagship"))
    assert set(found) == {name for name in BARS if name.startswith(("flagship", "adaptive", "anystep"))}
    assert found["flagship_accuracy_lost"] == pytest.approx(0.005) and found["flagship_frechet_ratio"] == 1.1


def cells(*quality: float) -> list[dict]:
    """Of given SSIM by number of steps, each known to 0.002."""
    gains = [None, *(b - a for a, b in itertools.pairwise(quality))]
    return [
        {
            "scale": scale,
            "steps": steps,
            "any": {"ssim": ssim, "psnr": 20.0, "class_accuracy": 1.0},
            "dedicated": {"ssim": 0.95, "psnr": 21.0, "class_accuracy": 1.0},
            "lost": {"value": 0.95 - ssim, "interval": [0.01, 0.02]},
            **({} if gain is None else {"gained": {"value": gain, "interval": [gain - 0.002, gain + 0.002]}}),
        }
        for scale in any_step.SCALES
        for steps, ssim, gain in zip(any_step.COUNTS, quality, gains, strict=False)
    ]


def test_students_for_any_number_of_steps_and_for_one_have_equal_budgets() -> None:
    trained = {name: chain[-2][1] for name, chain in any_step.CHAINS.items()}
    assert trained["any"]["steps"] == sum(row["steps"] for name, row in trained.items() if name != "any")
    for chain in any_step.CHAINS.values():
        assert all(passes.module(kind).Config.model_validate(settings) for kind, settings in chain)


def test_more_steps_that_are_worse_are_counted() -> None:
    assert any_step.back(cells(0.8, 0.85, 0.9, 0.95)) == 0
    assert any_step.back(cells(0.8, 0.85, 0.84, 0.95)) == len(any_step.SCALES)
    text = any_step.table({"cells": cells(0.8, 0.85, 0.849, 0.95)})
    assert "Of 15 further steps 5 lead back, 0 of them by a resolved difference" in text
    found = {"cells": cells(0.8, 0.85, 0.84, 0.95)}
    assert any_step.bars(found)["anystep_ssim_lost"] == pytest.approx(0.15)
    assert (
        "| 1.3 | 2 | 0.850 | 0.950 | +10.0% (+1.0% … +2.0%) | +0.0500 (+0.0480 … +0.0520) | 20.0 | 21.0 | 100.0% |"
        in any_step.table(found)
    )

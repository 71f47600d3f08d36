"""Verifies a bundle on its own, without the run that made it."""

import json
import tempfile
from pathlib import Path
from typing import Any

from compress import passes
from compress.contract import PassConfig
from compress.errors import RecipeError, ReportError
from compress.inputs import Inputs, Options
from compress.recipe import Head, Recipe, Step
from compress.runtime import Bundle
from compress.runtime.bundle import find


def verify_bundle(path: Path, teacher: str, recipe: Recipe | None, output: Path, options: Options) -> dict[str, Any]:
    """Judge a bundle on its own and return its report, which `output` then holds. Raises a CompressError.

    recipe: whose data, sampling and gates to use; None: what the bundle says, and the gates of a
    report.json beside it.
    """
    bundle = Bundle(find(path))
    if recipe is None:
        recipe = _recipe_of(bundle, teacher)
    step = next((step for step in recipe.steps if step.kind == "verify"), None)
    if step is None:
        raise RecipeError([f"{recipe.path}: has no verify pass"])
    with tempfile.TemporaryDirectory() as work:
        inputs = Inputs(recipe, options, Path(work))
        passes.module("verify").run(bundle, step.config, inputs.context(step, Path(work), output))
    return json.loads((output / "report.json").read_text(encoding="utf-8"))


def _recipe_of(bundle: Bundle, teacher: str) -> Recipe:
    """The recipe that a bundle carries, as far as verifying needs it."""
    manifest = bundle.manifest
    if manifest["data"] not in ("digits", "teacher", None):
        raise RecipeError(
            [f"{bundle.path}: was made with data of its own ({manifest['data']}); name its recipe with --recipe"]
        )
    given = [name for name in bundle.conditions if name != "class_labels"]
    if given and manifest["data"] == "teacher":
        raise RecipeError(
            [
                f"{bundle.path}: takes {' and '.join(given)}, and does not hold those of its teacher's samples; name "
                "its recipe with --recipe"
            ]
        )
    head: dict[str, Any] = {"name": manifest["name"], "checkpoint": teacher, "sampling": manifest["teacher_sampling"]}
    if manifest["data"]:
        head["data"] = {"source": manifest["data"]}
    if bundle.guidance["kind"] != "none" and "null" not in bundle.guidance:
        raise RecipeError([f"{bundle.path}: its teacher is guided by a classifier; name its recipe with --recipe"])
    if bundle.guidance["kind"] != "none":
        (null,) = bundle.guidance["null"].values()
        key, value = ("null_class", null) if isinstance(null, int) else ("null_embedding", bundle.path / null)
        head["guidance"] = {"scale": bundle.guidance["scale"], key: value}
    config = _earlier(bundle.path.parent / "report.json")
    return Recipe(Head.model_validate(head), [Step("verify", "verify", config)], bundle.path / "bundle.json")


def _earlier(report: Path) -> PassConfig:
    """Gates, and the numbers of samples that they were judged by, of an earlier report, if there is one."""
    config: type[PassConfig] = passes.module("verify").Config
    if not report.is_file():
        return config()
    try:
        earlier = json.loads(report.read_text(encoding="utf-8"))
        gates: dict[str, dict[str, float]] = {}
        for gate in (gate for gate in earlier["gates"] if not gate.get("always")):
            gates.setdefault(gate["name"], {})[gate["kind"]] = gate["limit"]
        counts = {"samples": earlier["samples"]}
        if "reference" in earlier:
            counts["reference"] = earlier["reference"]["count"]
        return config.model_validate({"gates": gates, **counts})
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise ReportError(f"{report}: is damaged ({error!r}); name the bundle's recipe with --recipe") from None

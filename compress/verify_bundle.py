"""Verifies a bundle on its own, without the run that made it."""

import tempfile
from dataclasses import replace
from os.path import lexists
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from compress import passes
from compress.contract import PassConfig
from compress.errors import BundleError, RecipeError, ReportError
from compress.files import unwritable
from compress.folders import alone
from compress.measure.fastest import foreseen
from compress.recipe.head import Head
from compress.recipe.inputs import Inputs, Options
from compress.recipe.recipe import Recipe, Step
from compress.report.report import Report, read
from compress.runtime import Bundle
from compress.runtime.contents import find
from compress.settings import plain


def verify_bundle(
    path: Path, teacher: str, recipe: Recipe | None, output: Path, options: Options, engine: str | None = None
) -> Report:
    """Judge a bundle on its own and return its report, which `output` then holds; one run at a time works in it.

    recipe: whose data, sampling and gates to use; None: what the bundle says, and the gates of a report.json beside it.
    engine: by name, instead of the recipe's. Raises a CompressError.
    """
    bundle = Bundle(find(path))
    if recipe is None:
        recipe = _recipe_of(bundle, teacher)
    step = next((step for step in recipe.steps if step.kind == "verify"), None)
    if step is None:
        raise RecipeError([f"{recipe.path}: has no verify pass"])
    if engine is not None:
        foreseen(engine)
        step = replace(step, config=step.config.model_copy(update={"engine": engine}))
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(output, error) from error
    with alone(output), tempfile.TemporaryDirectory() as work:
        inputs = Inputs(recipe, options)
        passes.module("verify").run(bundle, step.config, inputs.context(step, Path(work), output))
    return read(output)


def _recipe_of(bundle: Bundle, teacher: str) -> Recipe:
    """The recipe that a bundle carries, as far as verifying needs it."""
    manifest = bundle.manifest
    given = [name for name in bundle.conditions if name != "class_labels"]
    lacks = ""
    if manifest["data"] not in ("digits", "teacher", None):
        lacks = f"was made with data of its own ({manifest['data']})"
    elif given:
        lacks = f"takes {' and '.join(given)}, and does not hold those of its teacher's samples"
    elif bundle.guidance["kind"] != "none" and not bundle.guidance.get("null"):
        lacks = "its teacher is guided by a classifier"
    if lacks:
        raise RecipeError([f"{bundle.path}: {lacks}; name its recipe with --recipe"])
    head: dict[str, Any] = {"name": manifest["name"], "checkpoint": teacher, "sampling": manifest["teacher_sampling"]}
    if manifest["data"]:
        head["data"] = {"source": manifest["data"]}
    if bundle.guidance["kind"] != "none":
        head["guidance"] = {"scale": bundle.guidance["scale"], "null_class": bundle.guidance["null"]["class_labels"]}
    config = _earlier(bundle.path.parent)
    file = bundle.path / "bundle.json"
    try:
        return Recipe(Head.model_validate(head), [Step("verify", "verify", config)], file)
    except ValidationError as error:
        raise BundleError(f"{file}: is damaged: {plain(error)}; export the model again") from None


def _earlier(folder: Path) -> PassConfig:
    """Gates, and the numbers of samples that they were judged by, of an earlier report, if there is one."""
    config: type[PassConfig] = passes.module("verify").Config
    if not lexists(folder / "report.json"):
        return config()
    earlier = read(folder)
    gates: dict[str, dict[str, float]] = {}
    for gate in (gate for gate in earlier.gates if not gate.always):
        gates.setdefault(gate.name, {})[gate.kind] = gate.limit
    counts = {"samples": earlier.reference.paired, "reference": earlier.reference.count}
    try:
        return config.model_validate({"gates": gates, **counts})
    except ValidationError as error:
        said = f"is damaged ({plain(error)}); name the bundle's recipe with --recipe"
        raise ReportError(f"{folder / 'report.json'}: {said}") from None

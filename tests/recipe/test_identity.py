"""What a result depends on."""

import re
import tomllib
from pathlib import Path

from compress.recipe import identity

ROOT = Path(__file__).parents[2]


def test_code_of_a_pass_is_what_it_can_reach() -> None:
    def names(kind: str) -> set[str]:
        return {str(file.relative_to(ROOT / "compress")) for file in identity.code_of(kind)}

    training, judging = names("distill"), names("verify")
    assert {
        "passes/distill.py",
        "pipeline/checkpoint.py",
        "recipe/inputs.py",
        "data/folder.py",
        "__init__.py",
    } <= training
    assert not {name for name in training if name.startswith(("judge", "pages", "onnx_graph"))}
    assert "training/loop.py" in training and "training/loop.py" not in judging and "judge/quality.py" in judging
    assert identity.code_identity("prune_channels") != identity.code_identity("verify")


def test_results_of_one_pass_depend_on_the_version_of_every_library_that_computes() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    aside = {"matplotlib", "jinja2", "pydantic", "pyyaml", "typer", "rich", "huggingface_hub", "threadpoolctl"}
    named = {re.split("[<>=]", line)[0] for line in dependencies}
    assert named - aside == set(identity.versions()) - {"compress"}

"""What a result depends on."""

import os
import re
import tomllib
from pathlib import Path

import pytest

from compress.files import sha256
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
        "data/webdataset.py",
        "__init__.py",
    } <= training
    assert not {name for name in training if name.startswith(("judge", "pages", "onnx_graph"))}
    assert "training/loop.py" in training and "training/loop.py" not in judging and "judge/quality.py" in judging
    assert identity.code_identity("prune_channels") != identity.code_identity("verify")


def test_results_of_one_pass_depend_on_the_version_of_every_library_that_computes() -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    aside = {
        "matplotlib",
        "jinja2",
        "pydantic",
        "pyyaml",
        "typer",
        "rich",
        "huggingface_hub",
        "threadpoolctl",
        "psutil",
    }
    named = {re.split("[<>=]", line)[0] for line in dependencies}
    assert named - aside == set(identity.versions()) - {"compress"}


def test_files_are_known_by_content_and_many_by_their_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(name: str, content: str) -> None:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
        os.utime(tmp_path / name, ns=(10**9, 10**9))

    for name in ("a/1", "a/2", "b", "README.md"):
        write(name, "one")
    few = identity.contents(tmp_path)
    assert few == {str(tmp_path / name): sha256(tmp_path / name) for name in ("a/1", "a/2", "b")}
    assert identity.contents(tmp_path / "b") == {str(tmp_path / "b"): few[str(tmp_path / "b")]}
    os.utime(tmp_path / "b", ns=(1, 1))
    assert identity.contents(tmp_path) == few
    for limit in ("LARGE", "LARGE_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(identity, limit, 2)
            seen = [identity.contents(tmp_path)]
            for name, content in (("b", "one"), ("b", "longer"), ("c", "new")):
                write(name, content)
                seen.append(identity.contents(tmp_path))
            assert all(list(one) == [str(tmp_path)] for one in seen)
            assert len({one[str(tmp_path)] for one in seen}) == 4
            assert seen[-1] == identity.contents(tmp_path)
        (tmp_path / "c").unlink()
        write("b", "one")
        os.utime(tmp_path / "b", ns=(1, 1))

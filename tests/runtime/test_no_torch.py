"""The runtime on a device that has numpy and onnxruntime, and nothing of what the toolkit needs."""

import subprocess
import sys

import numpy as np
import pytest

from compress.model.denoiser import draw
from tests.conftest import assert_close_db, inputs_for

BLOCKED = [
    "torch",
    "diffusers",
    "scipy",
    "sklearn",
    "torchmetrics",
    "torchao",
    "onnx",
    "onnxscript",
    "pydantic",
    "PIL",
    "yaml",
]
BLOCKER = f"""
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ImportError(f"{{name}} is not on the device")

sys.meta_path.insert(0, Blocker())
"""


def python(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKER + script, *arguments], capture_output=True, text=True, timeout=60
    )


def test_blocker_blocks():
    found = python("import sklearn")
    assert found.returncode == 1 and "sklearn is not on the device" in found.stderr


def test_runtime_is_imported_without_torch():
    found = python(f"import compress.runtime; print(sorted(set({BLOCKED!r}) & set(sys.modules)))")
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize("kind", ["class", "text"])
def test_bundle_samples_without_torch(exported, tmp_path, kind):
    model, path = exported(kind)
    noise, _, conditions = inputs_for(model)
    np.savez(tmp_path / "in.npz", noise=noise, **{name: value.numpy() for name, value in conditions.items()})
    script = """
import numpy as np
from compress.runtime import Bundle
given = dict(np.load(sys.argv[2]))
np.save(sys.argv[3], Bundle(sys.argv[1], threads=1).sample(given.pop("noise"), **given))
"""
    found = python(script, str(path), str(tmp_path / "in.npz"), str(tmp_path / "out.npy"))
    assert found.returncode == 0, found.stderr
    assert_close_db(draw(model, noise, conditions).numpy(), np.load(tmp_path / "out.npy"), 80)


def test_bundle_error_is_raised_without_torch(tmp_path):
    script = """
from compress.errors import BundleError
from compress.runtime import Bundle
try:
    Bundle(sys.argv[1])
except BundleError as error:
    print(error)
"""
    found = python(script, str(tmp_path))
    assert "no bundle.json here" in found.stdout, found.stderr

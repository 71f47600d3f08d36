"""`sample.py`, which lies in every bundle, draws what the runtime draws, with numpy and onnxruntime alone."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer

from compress.runtime import Bundle, standalone, standalone_tokens
from compress.runtime.schemes import SCHEMES

TOKENIZER = Path(__file__).parents[2] / "benchmarks" / "teachers" / "emoji" / "tokenizer" / "tokenizer.json"
TOKENS = 16
LONE = """
import runpy, sys
class Only:
    def find_spec(self, name, path=None, target=None):
        first = name.split(".")[0]
        if first in {"torch", "compress", "tokenizers", "PIL", "onnx", "onnx_ir", "safetensors", "transformers"}:
            raise ImportError(name)
sys.meta_path.insert(0, Only())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def drawn(folder: Path, out: Path, *options: str) -> np.ndarray:
    """What a bundle's own file draws where nothing else can be imported: pixels [h,w] or [h,w,c], or an .npy."""
    called = [sys.executable, "-c", LONE, str(folder / "sample.py"), str(out), *options]
    done = subprocess.run(called, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return np.load(out) if out.suffix == ".npy" else np.asarray(Image.open(out))


def expected(bundle: Bundle, seed: int, **conditions: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((1, *bundle.sample_shape), dtype=np.float32)
    image = bundle.pixels(bundle.sample(noise, **conditions))[0]
    pixels = np.clip((image + 1) * 127.5, 0, 255).round().astype(np.uint8).transpose(1, 2, 0)
    return pixels[..., 0] if pixels.shape[-1] == 1 else pixels


def test_draws_as_the_runtime_does(exported, tmp_path):
    folder = exported("class")[1]
    bundle = Bundle(folder)
    for seed, label in ((0, 3), (7, 1)):
        wanted = expected(bundle, seed, class_labels=np.array([label]))
        found = drawn(folder, tmp_path / "own.png", "--class", str(label), "--seed", str(seed))
        np.testing.assert_array_equal(found, wanted)
    wanted = expected(bundle.at_scale(4.0), 0, class_labels=np.array([3]))
    np.testing.assert_array_equal(drawn(folder, tmp_path / "own.png", "--class", "3", "--guidance-scale", "4"), wanted)
    assert (wanted != expected(bundle, 0, class_labels=np.array([3]))).any()


def test_takes_conditions_from_a_file(exported, tmp_path):
    bundle = Bundle(exported("text")[1])
    states = np.random.default_rng(0).standard_normal((1, *bundle.inputs["encoder_hidden_states"]["shape"][1:]))
    given = {"encoder_hidden_states": states.astype(np.float32)}
    np.savez(tmp_path / "given.npz", **given)
    found = drawn(bundle.path, tmp_path / "own.npy", "--given", str(tmp_path / "given.npz"))
    noise = np.random.default_rng(0).standard_normal((1, *bundle.sample_shape), dtype=np.float32)
    np.testing.assert_allclose(found, bundle.sample(noise, **given)[0], atol=1e-5)


def test_its_bytes_are_no_cost_of_the_device(exported):
    bundle = Bundle(exported("class")[1])
    assert bundle.manifest["files"]["sample.py"]["bytes"] == (bundle.path / "sample.py").stat().st_size
    sizes = {name: entry["bytes"] for name, entry in bundle.manifest["files"].items()}
    assert bundle.size_bytes == sum(sizes.values()) - sizes["sample.py"]


def test_sessions_are_those_of_the_schemes():
    assert {name: dict(scheme.session) for name, scheme in SCHEMES.items() if scheme.session} == standalone.SESSIONS


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_png(channels):
    image = np.random.default_rng(0).uniform(-1.2, 1.2, (channels, 5, 7)).astype(np.float32)
    wanted = np.clip((image + 1) * 127.5, 0, 255).round().astype(np.uint8).transpose(1, 2, 0).squeeze()
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(standalone.png(image)))), wanted)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    found = Tokenizer.from_file(str(TOKENIZER))
    found.enable_truncation(TOKENS)
    found.enable_padding(length=TOKENS, pad_id=found.token_to_id("<|endoftext|>"), pad_token="<|endoftext|>")
    return found


# what newer versions of Unicode add is a letter to one library sooner than to the other
KNOWN = st.characters(max_codepoint=0xFFFF, exclude_categories=("Cn", "Co", "Cs"))

TRICKY = "ab 'stremvldXY019_-!½²Ⅻé日İßΣ\t🙂\u0301\u200d"
SPECIAL = [
    "<|startoftext|>",
    "<|endoftext|>",
    "<|StartOfText|>",
    "<|endoftext",
    "|>",
    ":",
    "!",
    "",
    " ",
    "é",
    "ab",
    "'s",
]


@settings(max_examples=300, deadline=None)
@given(
    text=st.one_of(
        st.text(KNOWN, max_size=40),
        st.text(TRICKY.replace("Σ", ""), max_size=40),
        st.lists(st.sampled_from(SPECIAL), max_size=6).map("".join),
    )
)
def test_tokens_are_those_of_the_library(tokenizer, text):
    about = {"tokenizer": TOKENIZER, "tokens": TOKENS, "pad": tokenizer.token_to_id("<|endoftext|>")}
    assert standalone_tokens.token_ids(text, about)[0].tolist() == tokenizer.encode(text).ids


def test_another_tokenizer_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram"}}))
    with pytest.raises(SystemExit, match="not CLIP's"):
        standalone_tokens.token_ids("a", {"tokenizer": tmp_path / "tokenizer.json"})


def test_it_is_short_and_bundles_without_texts_have_no_tokenizer(exported):
    lines = (exported("class")[1] / "sample.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 120
    assert not (exported("class")[1] / "tokens.py").exists()

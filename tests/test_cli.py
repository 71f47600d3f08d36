"""Arguments that make no sense end in exit code 2 and one message; a fault of the package in a code of its own."""

import errno
import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from compress import files, passes
from compress.runtime import Bundle
from tests.command import compress
from tests.conftest import read_json

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "exported" / "digits-edge"
QUICK = ROOT / "recipes" / "digits-quick.yaml"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a folder of somebody's and a pipe in it."""
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "text").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    return tmp_path


REFUSED = {
    "sample BUNDLE --out thesis": "thesis: is a folder; give a file, such as thesis/NAME",
    "sample BUNDLE --out pipe": "pipe: is a pipe",
    "sample BUNDLE --out /dev/null": "/dev/null: is a pipe, a socket or a device",
    "sample BUNDLE --out thesis/text/x.png": "cannot be written: Not a directory",
    "sample BUNDLE --count 100000000000": "--count",
    "sample BUNDLE --count 0": "--count",
    "sample BUNDLE --threads 100000": "--threads",
    "sample BUNDLE --seed -1": "--seed",
    "sample BUNDLE --seed 99999999999999999999999": "--seed",
    "sample BUNDLE --guidance-scale inf": "finite number; got inf",
    "sample BUNDLE --guidance-scale nan": "finite number; got nan",
    "sample BUNDLE --class 99": "--class 99",
    "sample BUNDLE --class -1": "--class -1",
    "sample BUNDLE --class 99999999999999999999999": "has the classes 0…9",
    "sample BUNDLE --steps 0": "--steps",
    "sample BUNDLE --steps 99999999999999999999999": "serves 20 steps",
    "sample BUNDLE --psnr 30": "no quality was calibrated",
    "sample FLAGSHIP --psnr 30": "its steps were distilled",
    "sample BUNDLE --psnr nan": "psnr should be a positive, finite number; got nan",
    "sample BUNDLE --embeddings pipe": "takes no embeddings",
    "sample BUNDLE --engine steam": "steam: is no engine; known are onnxruntime, openvino, openvino:bf16",
    "sample BUNDLE --engine onnxruntime:cuda": "onnxruntime:cuda: onnxruntime has no CUDAExecutionProvider here",
    "bench BUNDLE --engine onnxruntime:cuda": "onnxruntime:cuda: onnxruntime has no CUDAExecutionProvider here",
    "verify BUNDLE --teacher x --engine onnxruntime:cuda": "onnxruntime:cuda: onnxruntime has no CUDAExecutionProvider",
    "sample nowhere": "no bundle.json here",
    "sample pipe": "no bundle.json here",
    "sample thesis/text": "no bundle.json here",
    "compare BUNDLE BUNDLE --out thesis": "thesis: is a folder",
    "compare BUNDLE pipe": "pipe: has no report.json",
    "bench BUNDLE --batch 1000000000": "--batch",
    "bench BUNDLE --rounds 0": "--rounds",
    "bench thesis.onnx": "no such file",
    "verify pipe --teacher x": "no bundle.json here",
    "verify BUNDLE --teacher x --output thesis/text": "text: is no folder",
    "apply QUICK --output thesis": "holds files that no recipe wrote",
    "apply QUICK --output pipe": "pipe: is no folder",
    "apply QUICK --output /proc/x": "/proc/x: cannot be written",
    "apply QUICK --device tpu": "--device tpu",
    "nonsense": "nonsense",
}


@pytest.mark.parametrize("words", REFUSED)
def test_arguments_that_make_no_sense_are_one_message(place: Path, words: str) -> None:
    before = sorted(place.rglob("*"))
    known = {"BUNDLE": BUNDLE, "FLAGSHIP": BUNDLE.with_name("digits-flagship"), "QUICK": QUICK}
    done = compress(*(known.get(word, word) for word in words.split()), folder=place)
    said = " ".join(done.stderr.replace("│", " ").split())
    assert done.returncode == 2 and REFUSED[words] in said and "Traceback" not in said
    assert said.count("error: ") + said.count("─ Error ─") == 1
    assert sorted(place.rglob("*")) == before and (place / "thesis" / "text").read_text() == "mine"


def test_a_name_that_no_file_may_have_is_one_message(place: Path) -> None:
    for words in (["sample", "n" * 300], ["sample", BUNDLE, "--out", "n" * 300], ["compare", BUNDLE, "n" * 300]):
        done = compress(*words, folder=place)
        assert done.returncode == 2 and "Traceback" not in done.stderr


def test_what_is_not_finite_is_no_picture(place: Path) -> None:
    shutil.copytree(BUNDLE / "onnx", place / "bundle")
    content = read_json(place / "bundle" / "bundle.json")
    content["sampling"]["steps"] = [{**step, "next_from_sample": 1e30} for step in content["sampling"]["steps"][:2]]
    content["sampling"]["levels"] = {name: levels[:3] for name, levels in content["sampling"]["levels"].items()}
    content["sampling"]["clip_range"] = None
    (place / "bundle" / "bundle.json").write_text(json.dumps(content))
    assert len(Bundle(place / "bundle", threads=1).steps) == 2
    done = compress("sample", "bundle", "--count", 1, "--threads", 1, folder=place)
    assert done.returncode == 2 and "drew what is not finite" in done.stderr and not (place / "grid.png").exists()


def test_a_fault_of_the_package_has_a_code_of_its_own(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault() -> None:
        raise AssertionError("two\nlines")

    monkeypatch.setattr(passes, "names", fault)
    done = compress("passes", folder=place)
    assert done.returncode == 70 and done.stderr.count("\n") == 1
    assert "a fault of compress" in done.stderr and done.stderr.endswith("AssertionError: two lines\n")
    done = compress("passes", "-v", folder=place)
    assert done.returncode == 70 and "Traceback" in done.stderr and "test_cli.py" in done.stderr


# Of one image the picture itself is written, of several a grid of them.
WAYS = pytest.mark.parametrize(
    ("saving", "count"), [("PIL.Image.Image.save", 1), ("matplotlib.figure.Figure.savefig", 2)], ids=["one", "grid"]
)


@WAYS
def test_ctrl_c_while_writing_leaves_nothing_and_says_so(
    place: Path, monkeypatch: pytest.MonkeyPatch, saving: str, count: int
) -> None:
    def interrupted(part: Path, content: bytes) -> None:
        part.write_bytes(content[:2])
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(saving, lambda figure, part, **_: interrupted(part, b"half"))
    before = sorted(place.rglob("*"))
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore it
    try:
        done = compress("sample", BUNDLE, "--count", count, "--threads", 1, folder=place)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert done.returncode == 130 and done.stderr == "stopped; the same command continues from here\n"
    assert sorted(place.rglob("*")) == before


@WAYS
def test_a_disk_that_is_full_is_said_of_the_picture(
    place: Path, monkeypatch: pytest.MonkeyPatch, saving: str, count: int
) -> None:
    def full(figure: object, part: Path, **_: object) -> None:
        with part.open("wb"), Path("/dev/full").open("wb", buffering=0) as device:
            device.write(b"half")

    monkeypatch.setattr(saving, full)
    done = compress("sample", BUNDLE, "--count", count, "--threads", 1, folder=place)
    assert done.returncode == 2 and "grid.png: cannot be written: No space left on device; free some" in done.stderr
    assert files.is_full(OSError(errno.ENOSPC, "")) and sorted(p.name for p in place.iterdir()) == ["pipe", "thesis"]

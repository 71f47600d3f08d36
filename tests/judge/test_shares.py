"""Parts of a pipeline: the one that was changed is the one that is blamed."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from compress.data import Dataset
from compress.judge.quality import psnr
from compress.judge.shares import blamed, bytes_of
from compress.judge.yardsticks import Yardsticks
from compress.model.reference import Drawn, silent
from compress.runtime import Bundle
from compress.runtime.parts import Decoder, TextEncoder
from tests.text_to_image import apply, save_pipeline

TEXTS = ["a b", "c", "h g", "d"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The teacher itself as a bundle."""
    folder = tmp_path_factory.mktemp("pipeline")
    save_pipeline(folder)
    return apply(folder, [{"export_onnx": {}}], guidance={"scale": 2.0}) / "onnx"


def noisy(run: Any) -> Any:
    """Gives something else by a hundredth."""
    return lambda feeds: run(feeds) + 0.01 * np.random.default_rng(0).standard_normal(1).astype(np.float32)


def changed(exported: Path, part: str) -> Bundle:
    """The teacher's bundle with one part made worse."""
    bundle = Bundle(exported)
    if part == "text encoder":
        assert bundle.text is not None
        bundle.text = TextEncoder(bundle.path, bundle.text.about, noisy(bundle.text.run))
        bundle.null = {name: value + np.float32(0.01) for name, value in bundle.null.items()}
    elif part == "decoder":
        assert bundle.decoder is not None
        bundle.decoder = Decoder(bundle.decoder.about, noisy(bundle.decoder.run))
    else:
        graph = bundle.graph
        run = noisy(lambda feeds: graph.run(feeds)[0])
        bundle.graph = SimpleNamespace(run=lambda feeds: [run(feeds)])
    return bundle


@pytest.mark.parametrize("part", ["text encoder", "denoiser", "decoder"])
def test_the_part_that_was_changed_is_blamed(exported: Path, part: str) -> None:
    teacher, student = Bundle(exported), changed(exported, part)
    assert teacher.text is not None and student.text is not None
    states = torch.from_numpy(teacher.text.encode(TEXTS))
    noise = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    told = {"encoder_hidden_states": states}
    latents = teacher.sample(noise.numpy(), encoder_hidden_states=states.numpy())
    twin = teacher.pixels(latents)
    whole = student.pixels(student.sample(noise.numpy(), encoder_hidden_states=student.text.encode(TEXTS)))
    yardsticks = Yardsticks(lambda: Dataset(torch.zeros(4, 1), told, TEXTS), None, (), 0.9, silent)
    drawn = SimpleNamespace(
        pairs=Drawn(noise, told, torch.from_numpy(latents)), sets=SimpleNamespace(twin=twin, again=twin)
    )
    found = blamed(yardsticks, student, SimpleNamespace(bundle=teacher, guided=teacher), drawn)
    assert set(found) == {"text encoder", "denoiser", "decoder"}
    for name, figure in found.items():
        if name == part:
            assert figure.value == pytest.approx(psnr(twin, whole).mean(), abs=0.01) and figure.value < 90
        else:
            assert figure.value > 100, name
    drawn.sets.again = None
    assert set(blamed(yardsticks, student, SimpleNamespace(bundle=teacher, guided=teacher), drawn)) == {
        "text encoder",
        "decoder",
    }


def test_bytes_of_parts_are_those_of_their_files(exported: Path) -> None:
    bundle = Bundle(exported)
    found = bytes_of(bundle)
    assert sum(found.values()) == bundle.size_bytes
    sizes = {name: (exported / name).stat().st_size for name in bundle.manifest["files"]}
    text = [size for name, size in sizes.items() if name.startswith(("text_encoder/", "tokenizer/"))]
    assert found["text encoder"] == sum(text) > 0
    assert found["decoder"] == sum(size for name, size in sizes.items() if name.startswith("vae_decoder/")) > 0

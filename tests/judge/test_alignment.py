"""How well pictures fit their texts: paired with the teacher's, for scale beside other texts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

from compress.errors import VerifyError
from compress.judge.alignment import BATCH, Aligned, another, load
from tests.text_to_image import save_clip, save_pipeline

TEXTS = ["a b", "c", "h g", "d e f"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    return save_clip(folder / "clip", save_pipeline(folder) / "tokenizer")


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 3, 16, 16)).astype(np.float32)


def test_similarities_are_those_that_transformers_computes(clip: Path) -> None:
    aligner, count = load(clip), BATCH + 6
    assert aligner is not None
    texts = [TEXTS[i % 4] for i in range(count)]
    ours, theirs = pictures(count), pictures(count, 1)
    found = aligner.compare(ours, theirs, texts)
    net, tokenizer = CLIPModel.from_pretrained(clip).eval(), CLIPTokenizer.from_pretrained(clip)
    processor = CLIPImageProcessor.from_pretrained(clip)
    for i in (0, 3, count - 1):
        for own, images in ((found.student, ours), (found.twin, theirs)):
            seen = processor(images=np.uint8((images[i].transpose(1, 2, 0) + 1) * 127.5 + 0.5), return_tensors="pt")
            with torch.no_grad():
                logits = net(**tokenizer(texts[i], truncation=True, return_tensors="pt"), **seen).logits_per_image
            assert own[i] == pytest.approx(float(logits / net.logit_scale.exp()), abs=1e-5)
    shuffled = aligner.compare(theirs, theirs, [texts[j] for j in another(texts)])
    np.testing.assert_allclose(found.elsewhere, shuffled.twin, atol=1e-6)


def test_another_text_is_the_next_that_differs() -> None:
    assert another(["a", "a", "b", "a"]) == [2, 2, 3, 2]
    assert another(["a", "a"]) == []


def test_a_model_that_tells_no_text_from_another_says_nothing() -> None:
    random = np.random.default_rng(0)
    own, chance = random.normal(0.3, 0.05, 200), random.normal(0.1, 0.05, 200)
    assert Aligned(own, own, chance).fault is None
    assert Aligned(own, own, chance).chance.value == pytest.approx(0.1, abs=0.02)
    assert "does not tell the texts" in (Aligned(own, own, random.normal(0.3, 0.05, 200)).fault or "")
    assert "the same text" in (Aligned(own, own, np.zeros(0)).fault or "")


def test_folders_that_hold_something_else_are_told(clip: Path, tmp_path: Path) -> None:
    assert load(None) is None
    with pytest.raises(VerifyError, match="cannot be read as a CLIPModel with its tokenizer and processor"):
        load(tmp_path)
    with pytest.raises(VerifyError, match="it holds CLIPTextModel"):
        load(clip.parent / "teacher" / "text_encoder")
    for file in clip.iterdir():
        if file.name != "preprocessor_config.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(VerifyError, match="cannot be read"):
        load(tmp_path)

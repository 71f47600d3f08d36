"""Bundles that are exported once for all tests of this folder."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compress.measure.latency import threads
from compress.model.denoiser import Denoiser
from compress.passes import export_onnx
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG, UNCONDITIONAL_CONFIG, make_context, make_denoiser

MODELS: dict[str, Callable[[], Denoiser]] = {
    "class": lambda: make_denoiser(CLASS_CONFIG),
    "text": lambda: make_denoiser(TEXT_CONFIG),
    "unconditional": lambda: make_denoiser(UNCONDITIONAL_CONFIG),
}


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    with threads(1):
        yield


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Denoiser, Path]]:
    """exported("class", batch=4) → (model, bundle folder); do not change the folder."""
    done: dict[object, tuple[Denoiser, Path]] = {}

    def export(kind: str, **settings: object) -> tuple[Denoiser, Path]:
        key = (kind, *settings.items())
        if key not in done:
            model, folder = MODELS[kind](), tmp_path_factory.mktemp("bundle")
            export_onnx.run(model, export_onnx.Config(**settings), make_context(model, folder))
            done[key] = model, folder / "files" / "onnx"
        return done[key]

    return export

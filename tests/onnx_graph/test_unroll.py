"""The one graph draws what the steps draw."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from compress import passes
from compress.errors import BundleError
from compress.model import scalars
from compress.model.denoiser import Denoiser
from compress.model.reference import conditions_for, noise_like
from compress.runtime import Bundle
from tests.conftest import CLASS_CONFIG, TEXT_CONFIG, UNCONDITIONAL_CONFIG, assert_close_db, make_context, make_denoiser

CONFIGS = {"class": CLASS_CONFIG, "text": TEXT_CONFIG, "unconditional": UNCONDITIONAL_CONFIG}


def variant(kind: str, **changes: Any) -> Denoiser:
    model = make_denoiser(CONFIGS[kind], steps=3)
    guidance = changes.pop("guidance", None)
    if guidance:
        changes["guidance"] = model.sampling.guidance.model_copy(update=guidance)
    return dataclasses.replace(model, sampling=model.sampling.model_copy(update=changes))


def exported(model: Denoiser, folder: Path, scheme: str = "float", **settings: Any) -> tuple[Bundle, dict[str, Any]]:
    context = make_context(model, folder)
    shipped: Any = model
    if scheme != "float":
        quantize = passes.module("quantize")
        shipped = quantize.run(model, quantize.Config(scheme=scheme, samples=4, evaluations=20), context).model
    export = passes.module("export_onnx")
    result = export.run(shipped, export.Config(sampler=True, **settings), context)
    return result.model, result.notes


def drawn(bundle: Bundle, model: Denoiser, folder: Path, count: int = 4) -> tuple[np.ndarray, np.ndarray]:
    noise = noise_like(model, count, 9).numpy()
    conditions = conditions_for(model, count, make_context(model, folder).dataset, 9)
    given = {name: value.numpy() for name, value in conditions.items()}
    return bundle.sample(noise, **given), bundle.sample_at_once(noise, **given)


@pytest.mark.parametrize(("kind", "batch"), [("class", None), ("class", 2), ("text", 1), ("unconditional", 1)])
def test_equals_the_steps(kind: str, batch: int | None, tmp_path: Path) -> None:
    model = variant(kind)
    bundle, _ = exported(model, tmp_path, batch=batch)
    assert_close_db(*drawn(bundle, model, tmp_path), 90)


@pytest.mark.parametrize("batch", [None, 1])
def test_equals_the_steps_where_time_is_a_table(batch: int | None, tmp_path: Path) -> None:
    model = variant("class")
    bundle, _ = exported(model, tmp_path, batch=batch, timesteps="own")
    assert_close_db(*drawn(bundle, model, tmp_path), 90)


@pytest.mark.parametrize(("scheme", "batch"), [("int8", None), ("int8", 1), ("fp16", 1)])
def test_equals_the_steps_in_few_bits(scheme: str, batch: int | None, tmp_path: Path) -> None:
    model = variant("class", guidance={"kind": "baked"})
    bundle, _ = exported(model, tmp_path, scheme, batch=batch)
    assert_close_db(*drawn(bundle, model, tmp_path), 40 if scheme == "int8" else 30)


@pytest.mark.parametrize(
    "changes",
    [
        {"clip_range": 0.7},
        {"solver": "dpmpp_2m", "timesteps": (999, 700, 400, 100), "clip_range": 0.7},
        {"guidance": {"kind": "baked"}},
        {"timesteps": (999,), "guidance": {"kind": "baked"}},
    ],
)
def test_equals_the_steps_of_every_solver(changes: dict, tmp_path: Path) -> None:
    model = variant("class", **changes)
    bundle, _ = exported(model, tmp_path, batch=1)
    assert_close_db(*drawn(bundle, model, tmp_path), 90)


def test_takes_the_guidance_scale_and_knows_the_number_of_steps(tmp_path: Path) -> None:
    model = variant("class", guidance={"kind": "embedded", "scales": (1.0, 5.0)})
    for name in (scalars.GUIDANCE_SCALE, scalars.STEPS):
        scalars.add(model.net, model.family, name)
    for embedding in model.net.class_embedding.embeddings.values():
        embedding[2].weight.data.normal_()
    model.net.requires_grad_(False)
    model = dataclasses.replace(model)
    for batch in (None, 1):
        bundle, _ = exported(model, tmp_path / str(batch), batch=batch)
        assert list(bundle.sampler.inputs) == ["noise", "class_labels", "guidance_scale"]
        samples = []
        for scale in (1.0, 4.0):
            steps, whole = drawn(bundle.at_scale(scale), model, tmp_path)
            assert_close_db(steps, whole, 90)
            samples.append(whole)
        assert not np.allclose(*samples, atol=1e-3)


def test_weights_are_stored_once_and_time_and_labels_are_tables(tmp_path: Path) -> None:
    model = variant("class", guidance={"kind": "baked"})
    bundle, notes = exported(model, tmp_path, batch=1)
    assert notes["sampler_sqnr_db"] > 90
    denoiser, sampler = (onnx.load(bundle.path / name) for name in ("denoiser.onnx", "sampler.onnx"))
    onnx.checker.check_model(sampler, full_check=True)
    weights = {t.name: t for t in denoiser.graph.initializer if len(t.dims) == 4}
    names = [t.name for t in sampler.graph.initializer if len(t.dims) == 4]
    kept = {name for name in names if not name.endswith(".table")}
    assert set(weights) == kept and len(names) == len(set(names))  # every convolution's, once, for three evaluations
    kinds = [node.op_type for node in sampler.graph.node]
    assert not {"Sin", "Cos", "Gemm"} & set(kinds)
    assert kinds.count("Gather") == len(model.sampling.timesteps)


def test_runs_in_plain_onnxruntime(tmp_path: Path) -> None:
    model = variant("class")
    bundle, _ = exported(model, tmp_path, batch=1)
    session = onnxruntime.InferenceSession(str(bundle.path / "sampler.onnx"), providers=["CPUExecutionProvider"])
    noise = noise_like(model, 1, 3).numpy()
    (image,) = session.run(["image"], {"noise": noise, "class_labels": np.array([7])})
    assert_close_db(bundle.sample(noise, class_labels=np.array([7])), image, 90)


def test_a_bundle_without_one_says_so(tmp_path: Path) -> None:
    model = variant("class")
    export = passes.module("export_onnx")
    bundle = export.run(model, export.Config(), make_context(model, tmp_path)).model
    with pytest.raises(BundleError, match="sampler: true"):
        bundle.sample_at_once(noise_like(model, 1, 3).numpy(), class_labels=np.array([7]))

"""Models with more than one condition, or whose class is a number or a vector."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from compress import data
from compress.data import FromTeacher, Npz
from compress.errors import DataError, RecipeError
from compress.judge import baseline
from compress.model.denoiser import Denoiser, guided, null_conditions, predict
from compress.model.reference import draw_dataset
from compress.passes import export_onnx
from compress.pipeline import checkpoint
from compress.recipe.inputs import Inputs, Options
from compress.recipe.recipe import read
from tests.conftest import (
    CLASS_CONFIG,
    TEXT_CONFIG,
    TOKENS,
    assert_close_db,
    inputs_for,
    make_context,
    make_denoiser,
    silent,
    write_recipe,
)

NUMBER = {**CLASS_CONFIG, "num_class_embeds": None, "class_embed_type": "timestep"}
VECTOR = {**CLASS_CONFIG, "num_class_embeds": None, "class_embed_type": "identity"}
BESIDE = {**TEXT_CONFIG, "class_embed_type": "projection", "projection_class_embeddings_input_dim": 6}
LABELS = {**TEXT_CONFIG, "num_class_embeds": 10}


def no_prompts(file: Path) -> torch.Tensor:
    raise AssertionError(f"{file}: no prompts are given")


def model_of(config: dict) -> Denoiser:
    model = make_denoiser(config, scale=2.0)
    if config in (NUMBER, VECTOR):
        guidance = model.sampling.guidance.model_copy(update={"null_class": None})
        model = dataclasses.replace(
            model,
            sampling=model.sampling.model_copy(update={"guidance": guidance}),
            null={"class_embedding": torch.full(model.conditions["class_embedding"].shape, 0.5)},
        )
    return model


@pytest.mark.parametrize(
    ("config", "dropped", "shapes"),
    [
        (NUMBER, "class_embedding", {"class_embedding": ()}),
        (VECTOR, "class_embedding", {"class_embedding": (64,)}),
        (BESIDE, "encoder_hidden_states", {"encoder_hidden_states": (TOKENS, 12), "class_embedding": (6,)}),
        (LABELS, "encoder_hidden_states", {"encoder_hidden_states": (TOKENS, 12), "class_labels": ()}),
    ],
)
def test_one_condition_is_left_out_and_the_others_stay(
    config: dict, dropped: str, shapes: dict, tmp_path: Path
) -> None:
    model = model_of(config)
    assert model.dropped == (dropped,)
    assert {name: condition.shape for name, condition in model.conditions.items()} == shapes
    sample, timestep, conditions = inputs_for(model)
    null = null_conditions(model, conditions)
    for name, value in conditions.items():
        assert torch.equal(null[name], value) == (name != dropped)
    with torch.no_grad():
        both = [predict(model, sample, timestep, given) for given in (conditions, null)]
        torch.testing.assert_close(guided(model, sample, timestep, conditions), 2 * both[0] - both[1])
        for name in conditions:  # every condition is read
            other = {**conditions, name: conditions[name].flip(0)}
            assert not torch.equal(predict(model, sample, timestep, other), both[0])
    checkpoint.save(model, tmp_path / "saved")
    loaded = checkpoint.load(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(guided(loaded, sample, timestep, conditions), guided(model, sample, timestep, conditions))


@pytest.mark.parametrize("config", [NUMBER, BESIDE])
def test_bundle_and_baseline_are_guided_as_the_model(config: dict, tmp_path: Path) -> None:
    model = model_of(config)
    context = make_context(model, tmp_path)
    bundle = export_onnx.run(model, export_onnx.Config(), context).model
    sample, _, conditions = inputs_for(model)
    with torch.no_grad():
        wanted = guided(model, sample, torch.full((len(sample),), 500), conditions).numpy()
    given = {name: value.numpy() for name, value in conditions.items()}
    assert_close_db(wanted, bundle.guided(sample.numpy(), 500, given), 80)
    assert_close_db(wanted, baseline.kept(model, 1, silent, "").guided.guided(sample.numpy(), 500, given), 80)
    assert bundle.sample(sample.numpy(), **given).shape == sample.shape


def npz(file: Path, **arrays: np.ndarray) -> Path:
    np.savez(file, **arrays)
    return file


def test_data_hold_what_the_model_takes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = random.standard_normal((4, 4, 8, 8)).astype(np.float32)
    texts = random.standard_normal((4, TOKENS, 12)).astype(np.float32)
    classes = random.standard_normal((4, 6)).astype(np.float32)
    wanted = {"encoder_hidden_states": (TOKENS, 12), "class_embedding": (6,)}
    file = npz(tmp_path / "d.npz", images=images, embeddings=texts, class_embeddings=classes)
    found = data.load(Npz(source="npz", path=file), (4, 8, 8), None, wanted).conditions
    assert set(found) == set(wanted)
    np.testing.assert_array_equal(found["class_embedding"], classes)
    lacking = npz(tmp_path / "l.npz", images=images, embeddings=texts)
    with pytest.raises(DataError, match="has no class_embeddings, which the model takes"):
        data.load(Npz(source="npz", path=lacking), (4, 8, 8), None, wanted)
    narrow = npz(tmp_path / "n.npz", images=images, embeddings=texts, class_embeddings=classes[:, :5])
    with pytest.raises(DataError, match=r"class_embeddings should be \['n', 6\]; got \[4, 5\]"):
        data.load(Npz(source="npz", path=narrow), (4, 8, 8), None, wanted)


def test_images_are_drawn_for_what_a_file_holds(tmp_path: Path) -> None:
    model = model_of(BESIDE)
    random = np.random.default_rng(0)
    texts = random.standard_normal((3, TOKENS, 12)).astype(np.float32)
    classes = random.standard_normal((3, 6)).astype(np.float32)
    file = npz(tmp_path / "e.npz", embeddings=texts, class_embeddings=classes)
    config = FromTeacher(source="teacher", count=5, embeddings=file)
    drawn = draw_dataset(model, config, 0, silent, no_prompts)
    assert len(drawn) == 5 and torch.equal(drawn.conditions["class_embedding"][3], torch.from_numpy(classes[0]))
    with pytest.raises(DataError, match=r"conditioned on a class_embedding; name an .npz with `class_embeddings`"):
        draw_dataset(model_of(NUMBER), FromTeacher(source="teacher", count=2), 0, silent, no_prompts)


def test_null_embedding_of_another_shape_is_refused(tmp_path: Path) -> None:
    checkpoint.save(make_denoiser(VECTOR, scale=None), tmp_path / "teacher")
    np.save(tmp_path / "null.npy", np.zeros(5, dtype=np.float32))
    text = (
        "name: r\ncheckpoint: teacher\nguidance: {scale: 2.0, null_embedding: null.npy}\npasses: [{export_onnx: {}}]\n"
    )
    recipe = read(write_recipe(tmp_path, text))
    inputs = Inputs(recipe, Options(torch.device("cpu"), silent, lambda message: None))
    with pytest.raises(RecipeError, match=r"null_embedding: should be \[64\]; got \(5,\)"):
        inputs.teacher()

"""What a denoiser predicts, with and without guidance, and what it draws."""

import dataclasses

import pytest
import torch

from compress.diffusion.sampling import Guidance
from compress.model.denoiser import (
    DEFAULT_TOKENS,
    Denoiser,
    draw,
    example_inputs,
    guided,
    null_conditions,
    predict,
)
from tests.conftest import (
    CLASS_CONFIG,
    TEXT_CONFIG,
    TOKENS,
    UNCONDITIONAL_CONFIG,
    assert_close_db,
    inputs_for,
    make_denoiser,
)

GUIDED = {"class": CLASS_CONFIG, "text": TEXT_CONFIG}


@pytest.fixture(params=list(GUIDED))
def config(request: pytest.FixtureRequest) -> dict:
    return GUIDED[request.param]


def with_guidance(model: Denoiser, **guidance: object) -> Denoiser:
    sampling = model.sampling.model_copy(update={"guidance": Guidance(**guidance)})
    return dataclasses.replace(model, sampling=sampling)


@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0, 7.5])
def test_guided_is_the_formula_of_two_separate_predictions(config: dict, scale: float) -> None:
    model = make_denoiser(config, scale=scale)
    sample, timestep, conditions = inputs_for(model)
    null = null_conditions(model, conditions)
    with torch.no_grad():
        conditional = predict(model, sample, timestep, conditions)
        unconditional = predict(model, sample, timestep, null)
        result = guided(model, sample, timestep, conditions)
    assert (conditional - unconditional).abs().max() > 1e-3
    wanted = scale * conditional + (1 - scale) * unconditional
    assert_close_db(wanted, result, 90)


def test_scale_1_is_the_conditional_prediction(config: dict) -> None:
    model = make_denoiser(config, scale=1.0)
    inputs = inputs_for(model)
    with torch.no_grad():
        torch.testing.assert_close(guided(model, *inputs), predict(model, *inputs), rtol=1e-4, atol=1e-5)


def test_without_guidance_guided_is_the_prediction() -> None:
    for config in (CLASS_CONFIG, TEXT_CONFIG, UNCONDITIONAL_CONFIG):
        model = make_denoiser(config, scale=None)
        inputs = inputs_for(model)
        with torch.no_grad():
            assert torch.equal(guided(model, *inputs), predict(model, *inputs))


def test_null_class_is_what_the_guidance_names(class_model: Denoiser) -> None:
    labels = {"class_labels": torch.tensor([1, 2, 3])}
    assert null_conditions(class_model, labels)["class_labels"].tolist() == [10, 10, 10]
    other = with_guidance(class_model, kind="cfg", scale=2.0, null_class=4)
    assert null_conditions(other, labels)["class_labels"].tolist() == [4, 4, 4]


def test_null_text_is_the_null_embedding_for_every_item(text_model: Denoiser) -> None:
    _, _, conditions = inputs_for(text_model)
    null = null_conditions(text_model, conditions)["encoder_hidden_states"]
    assert null.shape == (3, TOKENS, 12)
    assert all(torch.equal(item, text_model.null["encoder_hidden_states"]) for item in null)


def test_conditions_matter(config: dict) -> None:
    model = make_denoiser(config)
    sample, timestep, conditions = inputs_for(model)
    other = {name: torch.roll(value + 1, 1, 0) for name, value in conditions.items()}
    with torch.no_grad():
        assert not torch.allclose(predict(model, sample, timestep, conditions), predict(model, sample, timestep, other))


def test_items_of_a_batch_do_not_see_each_other(any_model: Denoiser) -> None:
    sample, timestep, conditions = inputs_for(any_model)
    with torch.no_grad():
        together = predict(any_model, sample, timestep, conditions)
        alone = predict(any_model, sample[1:2], timestep[1:2], {name: value[1:2] for name, value in conditions.items()})
    torch.testing.assert_close(alone, together[1:2], rtol=1e-4, atol=1e-5)


def test_draw_is_deterministic(any_model: Denoiser) -> None:
    noise, _, conditions = inputs_for(any_model)
    first = draw(any_model, noise, conditions)
    assert torch.equal(first, draw(any_model, noise, conditions))
    assert first.shape == noise.shape and torch.isfinite(first).all()


def test_draw_leaves_the_noise_alone_and_depends_on_it(class_model: Denoiser) -> None:
    noise, _, conditions = inputs_for(class_model)
    before = noise.clone()
    first = draw(class_model, noise, conditions)
    assert torch.equal(noise, before)
    assert not torch.allclose(first, draw(class_model, -noise, conditions))


def test_draw_needs_no_gradients_and_reports_every_step(class_model: Denoiser) -> None:
    noise, _, conditions = inputs_for(class_model)
    class_model.net.requires_grad_(True)
    steps = []
    assert not draw(class_model, noise, conditions, lambda: steps.append(1)).requires_grad
    assert len(steps) == len(class_model.sampling.timesteps) == 4


def test_draw_uses_the_guidance() -> None:
    mild, strong = make_denoiser(CLASS_CONFIG, scale=1.0), make_denoiser(CLASS_CONFIG, scale=8.0)
    noise, _, conditions = inputs_for(mild)
    assert not torch.allclose(draw(mild, noise, conditions), draw(strong, noise, conditions))


def test_classes_exclude_the_null_class(class_model: Denoiser) -> None:
    assert class_model.config["num_class_embeds"] == 11
    assert class_model.classes == 10


def test_a_null_class_in_the_middle_hides_no_label(class_model: Denoiser) -> None:
    assert with_guidance(class_model, kind="cfg", scale=2.0, null_class=4).classes == 11


def test_all_labels_are_classes_without_guidance() -> None:
    assert make_denoiser(CLASS_CONFIG, scale=None).classes == 11


def test_models_without_labels_have_no_classes(text_model: Denoiser, unconditional_model: Denoiser) -> None:
    assert text_model.classes is None
    assert unconditional_model.classes is None


def test_text_length_is_that_of_the_null_embedding_or_clips() -> None:
    assert make_denoiser(TEXT_CONFIG).tokens == TOKENS
    assert make_denoiser(TEXT_CONFIG, scale=None).conditions["encoder_hidden_states"].shape == (DEFAULT_TOKENS, 12)


@pytest.mark.parametrize(("size", "shape"), [(8, (1, 8, 8)), ([8, 16], (1, 8, 16))])
def test_sample_shape(size: int | list[int], shape: tuple[int, int, int]) -> None:
    assert make_denoiser({**CLASS_CONFIG, "sample_size": size}).sample_shape == shape


def test_example_inputs_can_be_called_with(any_model: Denoiser) -> None:
    with torch.no_grad():
        assert any_model.module(*example_inputs(any_model, batch=2)).shape == (2, *any_model.sample_shape)


def test_a_net_is_told_what_its_sampling_says() -> None:
    """Between two training timesteps the level is that of the fraction, and the net is told the nearest of them."""
    config = {"_class_name": "UniPCMultistepScheduler", "use_karras_sigmas": True, "prediction_type": "v_prediction"}
    model = make_denoiser(UNCONDITIONAL_CONFIG, steps=5, scheduler=config)
    timestep = torch.tensor(model.sampling.timesteps)
    told = torch.tensor([step.timestep for step in model.sampling.steps()])
    assert told.dtype == torch.int64 and not torch.equal(timestep, told.float())
    sample = torch.randn(5, *model.sample_shape, generator=torch.Generator().manual_seed(0))
    found = predict(model, sample, timestep, {})
    assert torch.equal(found, model.module(sample, told)) and not torch.equal(found, model.module(sample, timestep))

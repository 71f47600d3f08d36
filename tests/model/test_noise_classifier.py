"""Guidance by a classifier, against a mixture of Gaussians whose denoisers and classifier are known exactly."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compress import engine, terminal
from compress.diffusion.sampling import Guidance
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.errors import CheckpointError, CompressError, PassError, RecipeError
from compress.model import noise_classifier
from compress.model.denoiser import Denoiser, draw, guided, predict
from compress.model.reference import identity, noise_like
from compress.passes import distill_guidance, distill_steps, export_onnx, prune_channels
from compress.pipeline import checkpoint
from compress.randomness import generator
from compress.recipe.inputs import Inputs, Options
from compress.recipe.recipe import read
from tests.conftest import CLASS_CONFIG, dataset_for, inputs_for, make_context, make_denoiser, read_json, write_recipe

MEANS = (-1.0, 0.5, 2.0)  # of every pixel, by class
SPREAD = 0.3


class Exact(nn.Module):
    """log p(x_t | class), the logits of p(class | x_t), of classes that are N(mean, SPREAD²) in every pixel."""

    def __init__(self, cumulative: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("cumulative", cumulative)
        self.register_buffer("means", torch.tensor(MEANS, dtype=torch.float64))

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        level = self.cumulative[timestep][:, None, None]
        flat = sample.double().flatten(1)[:, None]
        spread = level * 0.09 + 1 - level
        return (-(flat - level.sqrt() * self.means[None, :, None]).square() / (2 * spread)).sum(2)


class Small(nn.Module):
    """A classifier of noisy samples with weights."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, stride=2)
        self.out = nn.LazyLinear(classes)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        found = torch.tanh(self.conv(sample)).flatten(1) * (1 - timestep[:, None] / 2000)
        return self.out(found)


def denoised(kind: str, mean: torch.Tensor | float, sample: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """Output of the exact denoiser of N(mean, SPREAD²)."""
    alpha, sigma = level.sqrt(), (1 - level).sqrt()
    spread = level * SPREAD**2 + 1 - level
    clean = mean + alpha * SPREAD**2 / spread * (sample - alpha * mean)
    noise = (sample - alpha * clean) / sigma
    return {"sample": clean, "epsilon": noise, "v_prediction": alpha * noise - sigma * clean}[kind]


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_class_is_added_to_a_denoiser_that_does_not_know_it(kind: str) -> None:
    sampling = make_denoiser(CLASS_CONFIG).sampling.model_copy(update={"prediction_type": kind})
    classifier = Exact(sampling.alphas_cumprod)
    timestep, labels = torch.tensor([30, 300, 700]), torch.tensor([0, 1, 2])
    level = sampling.alphas_cumprod[timestep][:, None, None, None]
    sample = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    posterior = classifier(sample, timestep).softmax(1)
    # of a mixture the denoised sample is the mean of the components', by their posterior; outputs are linear in it
    mixed = sum(posterior[:, i, None, None, None] * denoised(kind, mean, sample, level) for i, mean in enumerate(MEANS))
    wanted = denoised(kind, torch.tensor(MEANS)[labels][:, None, None, None].double(), sample, level)
    found = mixed + noise_classifier.direction(classifier, sampling, sample, timestep, labels)
    assert float((wanted - mixed).abs().max()) > 0.05
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def scripted(folder: Path, classes: int = 10, size: int = 16, name: str = "classifier.pt") -> Path:
    torch.manual_seed(0)
    net = Small(classes)
    net(torch.zeros(1, 1, size, size), torch.zeros(1, dtype=torch.int64))
    for parameter in net.parameters():
        parameter.data *= 3
    torch.jit.script(net).save(str(folder / name))
    return folder / name


def unguided(size: int = 8) -> Denoiser:
    scheduler = {"_class_name": "DDIMScheduler", "beta_schedule": "linear", "timestep_spacing": "leading"}
    sampling = from_scheduler_config(scheduler, SamplingOptions(steps=4))
    return dataclasses.replace(
        make_denoiser(CLASS_CONFIG | {"num_class_embeds": 10, "sample_size": size}, scale=None),
        sampling=sampling,
        scheduler=scheduler,
    )


def steered(folder: Path, scale: float = 2.0, classes: int = 10) -> Denoiser:
    model = unguided()
    size = model.sample_shape[-1]
    classifier = noise_classifier.load(scripted(folder, classes, size), model.sample_shape, 10, True)
    sampling = model.sampling.model_copy(update={"guidance": Guidance(kind="classifier", scale=scale)})
    return dataclasses.replace(model, sampling=sampling, classifier=classifier)


def test_its_weight_is_the_scale_of_all_or_of_each(tmp_path: Path) -> None:
    model = steered(tmp_path)
    sample, timestep, conditions = inputs_for(model)
    plain = predict(model, sample, timestep, conditions)
    once = guided(steered(tmp_path, 1.0), sample, timestep, conditions) - plain
    assert once.abs().max() > 1e-3
    torch.testing.assert_close(guided(model, sample, timestep, conditions), plain + 2 * once)
    scales = torch.arange(len(sample)).float()
    each = guided(model, sample, timestep, {**conditions, "guidance_scale": scales})
    torch.testing.assert_close(each, plain + scales[:, None, None, None] * once)


def test_it_is_part_of_the_model(tmp_path: Path) -> None:
    model = steered(tmp_path)
    checkpoint.save(model, tmp_path / "saved")
    loaded = checkpoint.load(tmp_path / "saved", allow_pickle=True)
    noise, labels = noise_like(model, 2, 0), {"class_labels": torch.tensor([1, 2])}
    torch.testing.assert_close(draw(loaded, noise, labels), draw(model, noise, labels), rtol=0, atol=0)
    kept, other = (dataclasses.replace(model, classifier=m.classifier) for m in (loaded, steered(tmp_path, classes=12)))
    assert identity(kept) == identity(model) != identity(other)
    pruned = prune_channels.run(model, prune_channels.Config(target={"macs": 0.7}), make_context(model, tmp_path)).model
    assert pruned.classifier is model.classifier
    (tmp_path / "saved" / "classifier.pt").unlink()
    with pytest.raises(CheckpointError, match=r"classifier\.pt: cannot be read"):
        checkpoint.load(tmp_path / "saved", allow_pickle=True)


@pytest.mark.parametrize("mode", ["baked", "embedded"])
def test_its_guidance_is_distilled(mode: str, tmp_path: Path) -> None:
    teacher = steered(tmp_path, 60.0)
    context = make_context(teacher, tmp_path)
    few = {"mode": mode, "steps": 100, "batch_size": 16, "learning_rate": 2e-3, "ema": 0.9}
    few |= {"scales": [50.0, 70.0]} if mode == "embedded" else {}
    config = distill_guidance.Config.model_validate(few)
    untrained = distill_guidance.objective(teacher, config, context).student
    student = distill_guidance.run(teacher, config, context).model
    assert student.classifier is None and student.sampling.guidance.kind == mode
    batch = dataset_for(teacher).batch(40, 5, 0)
    losses = []
    for one in (untrained, student):
        with torch.no_grad():
            found = distill_guidance.Guided(one, teacher)(batch, generator(7))
        losses.append(float(sum(found.values())))
    assert losses[1] < 0.9 * losses[0], losses
    sample, _, conditions = inputs_for(teacher)
    (tmp_path / "exported").mkdir()
    bundle = export_onnx.run(student, export_onnx.Config(), make_context(student, tmp_path / "exported")).model
    given = {name: value.numpy() for name, value in conditions.items()}
    assert np.isfinite(bundle.sample(sample.numpy(), **given)).all()


def test_guidance_and_steps_in_one_pass(tmp_path: Path) -> None:
    teacher = steered(tmp_path)
    few = {"sampling_steps": [2], "bake_guidance": True, "steps": 2, "batch_size": 4, "trajectories": 10}
    student = distill_steps.run(
        teacher, distill_steps.Config.model_validate(few), make_context(teacher, tmp_path)
    ).model
    assert student.classifier is None and student.sampling.guidance.kind == "baked"
    with pytest.raises(PassError, match="cannot follow a classifier's gradient"):
        export_onnx.run(teacher, export_onnx.Config(), make_context(teacher, tmp_path))


def test_files_that_are_no_classifier(tmp_path: Path) -> None:
    shape = make_denoiser(CLASS_CONFIG).sample_shape
    (tmp_path / "text.pt").write_text("no program")
    with pytest.raises(CheckpointError, match=r"text\.pt: cannot be read as a TorchScript classifier"):
        noise_classifier.load(tmp_path / "text.pt", shape, 10, True)
    few = scripted(tmp_path, classes=3, size=shape[-1], name="few.pt")
    with pytest.raises(CheckpointError, match=r"few\.pt: 2 samples should give logits \[2, 10\]; got \[2, 3\]"):
        noise_classifier.load(few, shape, 10, True)
    with pytest.raises(CheckpointError, match=r"few\.pt: fails on 2 noisy samples"):
        noise_classifier.load(few, (3, *shape[1:]), 10, True)


RECIPE = """
name: steered
checkpoint: teacher
data: {source: digits}
guidance: {scale: 2.0, classifier: classifier.pt}
passes:
  - distill_guidance: {steps: 2, batch_size: 4}
  - export_onnx: {batch: 1}
  - verify: {samples: 12, rounds: 10, guidance_scales: [1, 3]}
"""


def test_the_whole_road(tmp_path: Path) -> None:
    model = unguided(16)
    checkpoint.save(model, tmp_path / "teacher")
    scripted(tmp_path, size=model.sample_shape[-1])
    recipe = read(write_recipe(tmp_path, RECIPE))
    options = Options(torch.device("cpu"), terminal.progress, lambda _: None, allow_pickle=True)
    outcome = engine.apply(recipe, tmp_path / "out", options)
    report = read_json(outcome.output / "report.json")
    assert report["quality"]["guidance_ratio"]["value"] == pytest.approx(0, abs=0.5)  # two steps teach nothing


def test_recipes_that_cannot_be(tmp_path: Path) -> None:
    scripted(tmp_path)
    checkpoint.save(unguided(), tmp_path / "teacher")
    early = RECIPE.replace("  - distill_guidance: {steps: 2, batch_size: 4}\n", "")
    with pytest.raises(RecipeError, match="put `distill_guidance`"):
        read(write_recipe(tmp_path, early))
    with pytest.raises(RecipeError, match="give one of null_class"):
        read(write_recipe(tmp_path, RECIPE.replace("scale: 2.0,", "scale: 2.0, null_class: 10,")))
    with pytest.raises(RecipeError, match=r"guidance\.classifier: .*other\.pt does not exist"):
        read(write_recipe(tmp_path, RECIPE.replace("classifier.pt", "other.pt")))


def test_it_is_not_run_without_a_word_of_trust(tmp_path: Path) -> None:
    trust = "classifier.pt: is TorchScript, a program that is run; pass --allow-pickle"
    model = steered(tmp_path)
    with pytest.raises(CompressError, match=trust):
        noise_classifier.load(tmp_path / "classifier.pt", model.sample_shape, 10, False)
    checkpoint.save(model, tmp_path / "saved")
    with pytest.raises(CompressError, match=trust):
        checkpoint.load(tmp_path / "saved")


@pytest.mark.parametrize("named", ["guidance.classifier", "features"])
def test_a_recipe_that_names_a_program_says_so_before_anything_runs(named: str, tmp_path: Path) -> None:
    checkpoint.save(unguided(16), tmp_path / "teacher")
    scripted(tmp_path, size=16)
    text = RECIPE
    if named == "features":
        text = RECIPE.replace("guidance: {scale: 2.0, classifier: classifier.pt}\n", "")
        text = text.replace("  - distill_guidance: {steps: 2, batch_size: 4}\n", "")
        text = text.replace("guidance_scales: [1, 3]", "features: [classifier.pt]")
    recipe, said = read(write_recipe(tmp_path, text)), []
    options = Options(torch.device("cpu"), terminal.progress, said.append)
    with pytest.raises(CompressError, match=r"classifier\.pt: is TorchScript"):
        engine.apply(recipe, tmp_path / "out", options)
    assert not (tmp_path / "out" / "passes").exists() and not said
    Inputs(recipe, dataclasses.replace(options, allow_pickle=True))
    assert len(said) == 1 and "classifier.pt: TorchScript, a program, will be run" in said[0]

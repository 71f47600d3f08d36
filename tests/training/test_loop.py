"""The training loop: parts of a batch, early stop, and going on after a kill, to the bit."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from compress import training
from compress.contract import Context
from compress.data import Batch
from compress.errors import PassError
from compress.randomness import Draw, generator
from compress.training import TrainingConfig, loop, parallel
from compress.training import config as training_config
from tests.conftest import CLASS_CONFIG, dataset_for, make_context, make_denoiser


class Line(nn.Module):
    """Learns w·x = 2x, and after `noise_from` steps nothing but noise."""

    def __init__(self, noise_from: int = 10**9, killed_at: int | None = None) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.net.weight)
        self.calls, self.noise_from, self.killed_at = 0, noise_from, killed_at
        self.sizes: list[int] = []

    def forward(self, batch: Batch, random: torch.Generator) -> Mapping[str, torch.Tensor]:
        x = batch.images.flatten(1).mean(dim=1, keepdim=True) + torch.randn(len(batch.images), 1, generator=random)
        slope = 2.0
        if self.training:
            self.sizes.append(len(batch.images))
            self.calls += 1
            if self.killed_at is not None and self.calls > self.killed_at:
                raise KeyboardInterrupt
            slope = 2.0 if self.calls <= self.noise_from else -50.0
        return {"line": (self.net(x) - slope * x).square().mean()}


def config_for(**settings: object) -> TrainingConfig:
    return TrainingConfig.model_validate(
        {"steps": 40, "batch_size": 8, "learning_rate": 0.1, "ema": 0.5, "warmup": 0, **settings}
    )


def context_for(folder: Path) -> Context:
    return make_context(make_denoiser(CLASS_CONFIG), folder)


def run(folder: Path, objective: Line, **settings: object) -> dict:
    context = context_for(folder)
    return training.train(objective, objective.net, config_for(**settings), context, context.training_data())


def test_a_batch_in_parts_is_as_many_images_and_one_step(tmp_path: Path) -> None:
    objective = Line()
    notes = run(tmp_path, objective, accumulate=4, steps=5)
    assert objective.sizes == [2] * 20 and notes["steps"] == 5


def test_gradients_of_parts_are_averaged(tmp_path: Path) -> None:
    """One step of gradient descent by hand: AdamW's first step is the sign, so look at the gradient itself."""
    objective, context = Line(), context_for(tmp_path)
    found = []
    objective.net.weight.register_post_accumulate_grad_hook(lambda weight: found.append(weight.grad.clone()))
    training.train(
        objective, objective.net, config_for(accumulate=2, steps=1), context, dataset_for(make_denoiser(CLASS_CONFIG))
    )
    first, both = found
    alone = Line()
    grads = []
    alone.net.weight.register_post_accumulate_grad_hook(lambda weight: grads.append(weight.grad.clone()))
    data = dataset_for(make_denoiser(CLASS_CONFIG))
    for part in range(2):
        key = (context.seed, Draw.STEP, part, 0)
        random = generator(*key)
        batch = data.batch(4, *key)
        alone.net.zero_grad()
        alone(batch, random)["line"].backward()
    torch.testing.assert_close(first, grads[0] / 2)
    torch.testing.assert_close(both, (grads[0] + grads[1]) / 2)


def test_parts_must_divide_the_batch() -> None:
    with pytest.raises(ValueError, match="accumulate: 3 does not divide batch_size: 8"):
        config_for(accumulate=3)


STOP = {"every": 5, "patience": 2, "images": 16}


def test_training_ends_when_held_out_images_get_no_better_and_the_best_weights_are_kept(tmp_path: Path) -> None:
    objective = Line(noise_from=20)
    notes = run(tmp_path, objective, early_stop=STOP)
    values = dict(notes["probes"])
    assert notes["steps"] < 40
    best = min(values, key=values.get)
    assert 15 <= best < 30 and notes["steps"] == best + 10
    probed = Line()
    probed.net.load_state_dict(objective.net.state_dict())
    context = context_for(tmp_path / "again")
    held_out = context.dataset().split()[1]
    probed.eval()
    batch = held_out.take(torch.arange(16) % len(held_out))
    with torch.no_grad():
        loss = probed(batch, generator(context.seed, Draw.HELD_OUT))["line"]
    assert float(loss) == pytest.approx(values[best])


def test_without_a_better_end_the_last_weights_are_the_best(tmp_path: Path) -> None:
    notes = run(tmp_path, Line(), early_stop=STOP, steps=12)
    assert [step for step, _ in notes["probes"]] == [5, 10, 12]
    assert notes["steps"] == 12


@pytest.mark.parametrize("killed_at", [3, 17, 28])
@pytest.mark.parametrize("stop", [None, STOP])
def test_killed_and_run_again_it_ends_with_the_same_weights(
    tmp_path: Path, killed_at: int, stop: dict | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    whole = Line()
    notes = run(tmp_path / "whole", whole, early_stop=stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", Line(killed_at=killed_at), early_stop=stop)
    again = Line()
    resumed = run(tmp_path / "killed", again, early_stop=stop)
    assert resumed["resumed_at"] >= killed_at - 1
    assert torch.equal(again.net.weight, whole.net.weight)
    assert resumed.get("probes") == notes.get("probes")


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\0" * 100])
def test_damaged_state_is_named(tmp_path: Path, content: bytes) -> None:
    context = context_for(tmp_path)
    (context.workdir / "training.safetensors").write_bytes(content)
    with pytest.raises(PassError, match="is damaged"):
        run(tmp_path, Line())


def test_an_average_that_an_objective_asks_for_is_kept(tmp_path: Path) -> None:
    class Averaged(Line):
        def __init__(self) -> None:
            super().__init__()
            self.average = nn.Linear(1, 1, bias=False).requires_grad_(False)
            self.seen: list[float] = []

        def forward(self, batch: Batch, random: torch.Generator) -> Mapping[str, torch.Tensor]:
            self.seen.append(float(self.average.weight))
            return super().forward(batch, random)

    objective = Averaged()
    context = context_for(tmp_path)
    training.train(objective, objective.net, config_for(steps=6), context, context.training_data())
    assert objective.seen[0] == 0 and sorted(objective.seen) == objective.seen and objective.seen[-1] > 0
    assert objective.seen[-1] < float(objective.net.weight)


@pytest.mark.parametrize(
    ("flags", "slow"),
    [
        ({"avx2", "fma"}, True),
        ({"avx512f"}, True),
        ({"avx512_bf16"}, False),
        ({"asimd", "bf16"}, False),
        (set(), False),
    ],
)
def test_bf16_on_a_processor_without_it_is_said_before_training(
    flags: set[str], slow: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_config, "_processor_flags", lambda: flags)
    said: list[str] = []
    context = dataclasses.replace(context_for(tmp_path), log=said.append)
    objective = Line()
    training.train(objective, objective.net, config_for(precision="bf16", steps=1), context, context.training_data())
    assert len(said) == slow and all("precision: bf16 is tens of times slower than fp32" in line for line in said)
    said.clear()
    training.say_slow(config_for(), context)
    assert not said


def test_a_processor_reads_where_it_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second thread that computes makes every product half as slow again there."""
    monkeypatch.setattr(parallel, "ahead", lambda *_: pytest.fail("read in a thread"))
    model = make_denoiser(CLASS_CONFIG)
    context = make_context(model, tmp_path)
    config = TrainingConfig(steps=3, batch_size=4)
    found = [batch for _, batch in parallel.batches_from(1, config, context, context.dataset())]
    assert len(found) == 2 and not torch.equal(found[0].images, found[1].images)

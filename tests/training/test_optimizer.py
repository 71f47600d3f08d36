"""What turns gradients into steps: what it remembers survives a kill, and steps that are not finite are left out."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from compress import devices, training
from compress.contract import Context
from compress.data import Batch
from compress.devices import Arriving, send
from compress.errors import PassError
from compress.passes import distill
from compress.training import TrainingConfig, loop
from compress.training.config import learning_rate
from compress.training.optimizer import optimizer_for, set_rate
from tests.conftest import CLASS_CONFIG, make_context, make_denoiser


class Map(nn.Module):
    """Learns W·x = 2x; its losses are multiplied by `factors`, one a step."""

    def __init__(self, factors: Mapping[int, float] | None = None, killed_at: int | None = None) -> None:
        super().__init__()
        self.net = nn.Linear(64, 64, bias=False)  # enough weights for averages in 8 bits
        nn.init.zeros_(self.net.weight)
        self.factors, self.killed_at, self.calls = factors or {}, killed_at, 0
        self.seen: list[torch.Tensor] = []

    def forward(self, batch: Batch, random: torch.Generator) -> Mapping[str, torch.Tensor]:
        x = batch.images.flatten(1)
        if self.calls == self.killed_at:
            raise KeyboardInterrupt
        self.seen.append(self.net.weight.detach().clone())
        loss = (self.net(x).float() - 2 * x).square().mean() * self.factors.get(self.calls, 1.0)
        self.calls += 1
        return {"map": loss}


def context_for(folder: Path) -> Context:
    return make_context(make_denoiser(CLASS_CONFIG), folder)


def run(folder: Path, objective: Map, **settings: object) -> dict:
    context = context_for(folder)
    given = {"steps": 8, "batch_size": 4, "learning_rate": 0.01, "warmup": 0, **settings}
    with torch.compiler.set_stance("force_eager"):  # AdamW of 8 bits compiles its step
        return training.train(
            objective, objective.net, TrainingConfig.model_validate(given), context, context.training_data()
        )


@pytest.mark.parametrize("optimizer", ["adamw", "adamw_8bit"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_killed_and_run_again_it_ends_with_the_same_weights(
    optimizer: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    settings = {"optimizer": optimizer, "precision": precision}
    overflow = {1: 1e6} if precision == "fp16" else {}
    whole, again = Map(overflow), Map()
    run(tmp_path / "whole", whole, **settings)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed", Map(overflow, killed_at=5), **settings)
    resumed = run(tmp_path / "killed", again, **settings)
    assert resumed["resumed_at"] == 5
    assert torch.equal(again.net.weight, whole.net.weight)


def test_averages_of_eight_bits_learn_what_those_of_floats_learn(tmp_path: Path) -> None:
    plain, small = Map(), Map()
    run(tmp_path / "plain", plain)
    run(tmp_path / "small", small, optimizer="adamw_8bit")
    assert not torch.equal(plain.net.weight, small.net.weight)
    torch.testing.assert_close(small.net.weight, plain.net.weight, rtol=0.1, atol=2e-3)
    kept = optimizer_for(TrainingConfig(optimizer="adamw_8bit"), small.parameters())
    set_rate(kept, learning_rate(TrainingConfig(), 0))
    assert isinstance(kept.param_groups[0]["lr"], torch.Tensor)


def test_a_step_of_half_precision_that_overflows_is_left_out(tmp_path: Path) -> None:
    objective = Map({1: 1e5, 2: 1e5})  # times the first scale of 65,536 it is infinite in the backward pass
    notes = run(tmp_path, objective, precision="fp16")
    first, second, third, fourth = objective.seen[:4]
    assert notes["steps"] == 8 and objective.net.weight.isfinite().all()
    assert not torch.equal(first, second) and torch.equal(second, third) and torch.equal(third, fourth)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_that_stays_not_finite_ends_training_with_the_state_before_it(precision: str, tmp_path: Path) -> None:
    objective = Map(dict.fromkeys(range(3, 100), float("inf")))
    with pytest.raises(PassError, match=r"the loss became (inf|nan) .* at step \d+; the last good state"):
        run(tmp_path, objective, precision=precision, steps=60)
    saved = load_file(tmp_path / "work" / "training.safetensors")
    assert torch.equal(saved["objective.net.weight"], objective.seen[3]) and objective.seen[3].isfinite().all()
    assert objective.calls == (4 if precision != "fp16" else 19)  # from 65,536 down to 1, halved each time


def test_a_large_state_is_saved_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([100.0, 100.1, 200.0, 208.0])
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(times))
    state = type("Idle", (), {"save": lambda self: None})()
    assert loop._saved(state) == pytest.approx(100.1 + loop.CHECKPOINT_SECONDS)
    assert loop._saved(state) == pytest.approx(208 + 20 * loop.CHECKPOINT_SECONDS)


def test_without_memory_the_message_says_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Large(Map):
        def forward(self, batch: Batch, random: torch.Generator) -> Mapping[str, torch.Tensor]:
            if self.calls == 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(batch, random)

    wanted = r"out of memory at step 2; set optimizer: adamw_8bit or accumulate: 2 or precision: bf16$"
    with pytest.raises(PassError, match=wanted):
        run(tmp_path, Large())
    assert (tmp_path / "work" / "training.safetensors").is_file()
    least = {"recompute": True, "optimizer": "adamw_8bit", "precision": "bf16", "batch_size": 1}
    assert TrainingConfig.model_validate(least).lighter(True) == "take a smaller batch_size"


def test_plan_says_what_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    model = make_denoiser(CLASS_CONFIG)
    context = training.loop.dataclasses.replace(make_context(model, tmp_path), log=said.append)
    config = distill.Config(steps=2, batch_size=4)
    distill.forecast(model, config, context)
    monkeypatch.setattr(devices, "memory", lambda _device: (10**9, 10**12))
    plain = distill.forecast(model, config, context)
    assert not said
    monkeypatch.setattr(devices, "memory", lambda _device: (10**9, 10**9))
    lean = distill.forecast(
        model, distill.Config(steps=2, batch_size=4, recompute=True, optimizer="adamw_8bit"), context
    )
    assert lean.memory_bytes < plain.memory_bytes
    assert said == ["pass: needs about 1.0 GB, and the device has 1.0 GB; set accumulate: 2 or precision: bf16"]


def test_on_one_machine_nothing_is_copied() -> None:
    tensor = torch.arange(3.0)
    assert send(tensor, torch.device("cpu")) is tensor
    assert Arriving(tensor).read() == [0.0, 1.0, 2.0]


def test_bf16_on_a_card_without_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    card = loop.dataclasses.replace(context_for(tmp_path), device=torch.device("cuda"), log=said.append)
    for capability in ((8, 0), (7, 5)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device, found=capability: found)
        training.say_slow(TrainingConfig(precision="bf16"), card)
    assert said == ["pass: precision: bf16 is slow on this card, which has no bf16 arithmetic; use fp16"]

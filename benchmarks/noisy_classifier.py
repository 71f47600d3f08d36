"""`python -m benchmarks.noisy_classifier`: trains what recipes/digits-classifier.yaml is guided by.

A classifier of noisy digits, as TorchScript, on the levels of noise of the digits teacher. Label 10 is the teacher's
'no class': a tenth of the digits bear it, so its logit tells nothing of the image.
"""

from pathlib import Path

import torch
from torch import nn

from compress import data
from compress.model.denoiser import Denoiser
from compress.model.noising import noised
from compress.pipeline import checkpoint
from compress.recipe.recipe import read
from compress.terminal import progress

ROOT = Path(__file__).parents[1]
FILE = ROOT / "benchmarks" / "teachers" / "noisy-digits.pt"
STEPS, BATCH, NO_CLASS = 2000, 128, 10


class NoisyClassifier(nn.Module):
    """Logits [b,11] of noisy digits [b,1,16,16] at timesteps [b]."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Linear(16, 32)
        self.first = nn.Conv2d(1, 32, 3, stride=2, padding=1)
        self.second = nn.Conv2d(32, 32, 3, stride=2, padding=1)
        self.out = nn.Linear(512, NO_CLASS + 1)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """sample [b,1,16,16], timestep int64 [b] → logits."""
        angle = timestep[:, None] / 1000 * torch.arange(1, 9, device=sample.device)[None]
        time = self.time(torch.cat([angle.sin(), angle.cos()], dim=1))[:, :, None, None]
        hidden = nn.functional.silu(self.second(nn.functional.silu(self.first(sample) + time)))
        return self.out(hidden.flatten(1))


def main() -> None:
    """Train, save, and print how often held-out digits are named at three levels of noise."""
    recipe = read(ROOT / "recipes" / "digits-teacher.yaml")
    teacher = checkpoint.load(str(ROOT / "benchmarks" / "teachers" / "digits"), options=recipe.head.sampling)
    assert isinstance(teacher, Denoiser)
    digits, held_out = data.load(data.Digits(source="digits"), (1, 16, 16), 10).split()
    random = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net = NoisyClassifier()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3)
    with progress("classifier of noisy digits", STEPS) as task:
        for step in range(STEPS):
            question = noised(teacher, digits.batch(BATCH, 0, step), random, teacher.sampling.training)
            labels = question.conditions["class_labels"]
            labels = torch.where(torch.rand(BATCH, generator=random) < 0.1, NO_CLASS, labels)
            loss = nn.functional.cross_entropy(net(question.sample, question.timestep), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            task.advance()
    net.eval().requires_grad_(False)
    torch.jit.script(net).save(str(FILE))
    for timestep in (200, 500, 800):
        batch = held_out.take(torch.arange(len(held_out)))
        question = noised(teacher, batch, random, torch.tensor([timestep]))
        named = net(question.sample, question.timestep)[:, :NO_CLASS].argmax(dim=1)
        right = named == question.conditions["class_labels"]
        print(f"timestep {timestep}: {float(right.float().mean()):.1%} named")


if __name__ == "__main__":
    main()

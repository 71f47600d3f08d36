"""The gap between the first two moments of a student's samples and of its teacher's, as a loss.

The squared error alone makes a student vary too little, most where the teacher's samples vary least: what it cannot
predict it averages away. The Fréchet distance of two Gaussians sees exactly that. To second order its square is

    ‖Δμ‖² + Σ_ij Δ_ij² / (2·(λ_i + λ_j)),

where Δμ and Δ are the gaps of mean and covariance in the eigenbasis of the teacher's covariance and λ its eigenvalues:
the Bures metric (Bhatia, Jain & Lim 2019, "On the Bures–Wasserstein distance between positive definite matrices"). λ is
here the mean of both models' variances, so that a student far off is not punished beyond measure.

A batch is far too small for a covariance, and the square of an estimate counts its noise too. So the gaps of two halves
of the batch are multiplied: they err independently, and the product is right on average, as is its gradient. Student
and teacher begin with the same noise, which leaves little to err.
"""

import torch
from torch import nn

LARGEST = 1024  # numbers in a crop: beyond, the covariance costs more than the net
REFERENCE = 10_000  # samples that the teacher's own moments are taken from
FLOOR = 1e-4  # of the largest eigenvalue: directions that vary less count as if they varied so much


class MomentGap(nn.Module):
    """reference [n,c,…]: samples of the teacher. Those of more than 1,024 numbers are seen through random crops."""

    mean: torch.Tensor
    basis: torch.Tensor
    variance: torch.Tensor

    def __init__(self, reference: torch.Tensor) -> None:
        super().__init__()
        channels, *sizes = reference.shape[1:]
        side = max(1, int((LARGEST / channels) ** (1 / len(sizes))))
        self.size = tuple(min(size, side) for size in sizes)
        random = torch.Generator().manual_seed(0)
        parts = reference[:REFERENCE].split(64)
        rows = torch.cat([self._crops(part, self._place(part, random)) for part in parts]).double()
        variance, basis = torch.linalg.eigh(torch.cov(rows.T))
        variance = variance.clamp_min(float(variance.max()) * FLOOR)
        self.register_buffer("mean", rows.mean(0).float(), persistent=False)
        self.register_buffer("basis", basis.float(), persistent=False)
        self.register_buffer("variance", variance.float(), persistent=False)

    def forward(self, student: torch.Tensor, teacher: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        """The gap ÷ the teacher's total variance, of samples [b,c,…] of the same noise, b ≥ 4; may be negative."""
        place = self._place(student, random)
        ours, theirs = ((self._crops(images, place) - self.mean) @ self.basis for images in (student, teacher))
        both = self.variance + ours.detach().var(0)
        weight = 1 / (both[:, None] + both[None, :])
        gaps = [_gap(*half) for half in zip(ours.chunk(2), theirs.chunk(2), strict=True)]
        (shift, spread), (other_shift, other_spread) = gaps
        product = (shift * other_shift).sum() + (weight * spread * other_spread).sum()
        return product / self.variance.sum()

    def _place(self, images: torch.Tensor, random: torch.Generator) -> tuple[slice, ...]:
        """Where to crop a batch: one place, so that student and teacher show the same."""
        sizes = zip(images.shape[2:], self.size, strict=True)
        starts = [int(torch.randint(whole - part + 1, (), generator=random)) for whole, part in sizes]
        return tuple(slice(start, start + part) for start, part in zip(starts, self.size, strict=True))

    def _crops(self, images: torch.Tensor, place: tuple[slice, ...]) -> torch.Tensor:
        """One crop an image, flat [b,d]."""
        return images[:, :, *place].flatten(1).float()


def _gap(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(of the means [d], of the covariances [d,d]) of rows [b,d]. A pair's own scatter about the mean cancels."""
    shift = ours.mean(0) - theirs.mean(0)
    ours, theirs = ours - ours.mean(0), theirs - theirs.mean(0)
    return shift, (ours.T @ ours - theirs.T @ theirs) / (len(ours) - 1)

"""Choose few of the model's timesteps, without training.

One step of DDIM from place i to place j of a sampling errs by how far it lands from where the model's own fine steps
lead. The few steps whose errors add up to least are found by dynamic programming (Chen et al. 2024, "On the Trajectory
Regularity of ODE-based Diffusion Sampling"). A baseline in its own right, and a grid for `distill_steps`.
"""

import dataclasses

import numpy as np
import torch
from pydantic import Field

from compress.contract import Context, PassConfig, PassResult
from compress.diffusion.schedules import cheapest_path
from compress.diffusion.solvers import SolverName
from compress.diffusion.targets import arrival
from compress.errors import PassError
from compress.model.denoiser import Denoiser, walk
from compress.model.noising import clean_estimate
from compress.model.reference import conditions_for, noise_like
from compress.randomness import Draw


class Config(PassConfig):
    """Settings of `choose_timesteps`."""

    sampling_steps: int = Field(ge=1, description="how many of the model's timesteps to keep")
    solver: SolverName | None = Field(None, description="default: the model's own")
    samples: int = Field(100, ge=1, description="trajectories over which errors are averaged")


def run(model: Denoiser, config: Config, context: Context) -> PassResult[Denoiser]:
    """The same net with fewer timesteps."""
    own = model.sampling.timesteps
    if model.sampling.distilled:
        raise PassError(f"{context.name}: the model's steps are distilled; choose timesteps before that")
    if config.sampling_steps > len(own):
        raise PassError(
            f"{context.name}: sampling_steps: {config.sampling_steps} of a model with {len(own)}; it chooses among "
            "those: raise sampling: {steps: …}"
        )
    solver = config.solver or model.sampling.solver
    if config.sampling_steps == len(own) and solver == model.sampling.solver:
        return PassResult(model, changed=False, notes={"reason": "these are the steps that the model has"})
    cost = errors(model, config.samples, context)
    places = cheapest_path(cost, config.sampling_steps)
    chosen = tuple(own[place] for place in places)
    sampling = model.sampling.model_copy(update={"timesteps": chosen, "solver": solver})
    notes = {"timesteps": list(chosen), "places": places}
    return PassResult(dataclasses.replace(model, sampling=sampling), changed=True, notes=notes)


@torch.no_grad()
def errors(model: Denoiser, samples: int, context: Context) -> np.ndarray:
    """Root mean squared error [n + 1,n + 1] of one DDIM step from place i to j of the model's sampling; 0 for j ≤ i."""
    sampling = model.sampling
    noise = noise_like(model, samples, context.seed, Draw.TIMESTEPS).to(model.device)
    conditions = conditions_for(model, samples, context.dataset, context.seed)
    conditions = {name: value.to(model.device) for name, value in conditions.items()}
    states = walk(model, noise, conditions)
    count = len(sampling.timesteps)
    alpha, sigma = (torch.tensor(level).to(noise) for level in sampling.levels())
    found = np.zeros((count + 1, count + 1))
    with context.progress(f"{context.name}: errors of steps", count) as task:
        for i, timestep in enumerate(sampling.timesteps):
            times = torch.full((samples,), timestep, device=model.device)
            clean = clean_estimate(model, states[i], times, conditions, (alpha[i], sigma[i]))
            for j in range(i + 1, count + 1):
                landed = arrival(clean, states[i], alpha[i], sigma[i], alpha[j], sigma[j])
                found[i, j] = float((landed - states[j]).square().mean().sqrt())
            task.advance()
    return found

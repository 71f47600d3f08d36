"""`python -m benchmarks.distill_cost`: what a step of `distill` costs beside the arithmetic that it cannot do without.

The floor is a loop with nothing but the teacher's forward pass and the student's forward and backward pass on a batch
that is there already: no data, no noise, no features, no optimizer, no average. Both take turns in one run.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.bars import finish
from compress import terminal
from compress.files import write_json, write_text
from compress.measure.latency import default_threads, processor, speedup
from compress.model.denoiser import Denoiser, example_inputs
from compress.model.reference import silent
from compress.passes import distill, prune_channels
from compress.recipe.inputs import Inputs, Options
from compress.recipe.recipe import read
from compress.training import train

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RECIPES = ("digits-structure", "digits-edge")
STEPS = 10  # of either side in a round
ROUNDS = 10


def floor(teacher: Denoiser, student: Denoiser, batch_size: int) -> Callable[[], None]:
    """The step that nothing can be left out of."""
    inputs = example_inputs(teacher, batch_size)

    def step() -> None:
        with torch.no_grad():
            wanted = teacher.module(*inputs)
        student.net.zero_grad(set_to_none=True)
        nn.functional.mse_loss(student.module(*inputs), wanted).backward()

    return step


def measure(name: str) -> dict[str, Any]:
    """Milliseconds a step of both sides, and their ratio, for the `distill` of a recipe."""
    recipe = read(ROOT / "recipes" / f"{name}.yaml")
    configs = {step.kind: step.config for step in recipe.steps}
    config = configs["distill"]
    assert isinstance(config, distill.Config)
    with tempfile.TemporaryDirectory() as folder:
        inputs = Inputs(recipe, Options(torch.device("cpu"), silent, lambda _: None))
        context = inputs.context(recipe.steps[0], Path(folder), Path(folder))
        teacher = inputs.teacher()
        pruned = prune_channels.run(teacher, prune_channels.Config.model_validate(configs["prune_channels"]), context)
        objective = distill.imitation(pruned.model, config, context)
        student = objective.student
        few, data = config.model_copy(update={"steps": STEPS}), context.training_data()
        plain = floor(teacher, student, config.batch_size * (2 if config.losses.guided else 1))
        taken: dict[str, list[float]] = {"distill": [], "floor": []}
        with terminal.progress(name, ROUNDS) as task:
            for i in range(1 + ROUNDS):
                work = Path(folder) / str(i)  # its own, so that no round goes on with the saved state of another
                work.mkdir()
                began = time.perf_counter()
                train(objective, student.net, few, dataclasses.replace(context, workdir=work), data)
                between = time.perf_counter()
                for _ in range(STEPS):
                    plain()
                ended = time.perf_counter()
                if i:  # the first round warms up
                    taken["distill"].append(1000 * (between - began) / STEPS)
                    taken["floor"].append(1000 * (ended - between) / STEPS)
                    task.advance()
    times = {side: np.array(values) for side, values in taken.items()}
    ratio, between_ = speedup(times["distill"], times["floor"])
    return {"ms": {side: float(np.median(values)) for side, values in times.items()}, "ratio": [ratio, *between_]}


def main() -> None:
    """Measure, write the table, and hold the bars."""
    found = {name: measure(name) for name in RECIPES}
    head = f"A step of `distill` on {processor()}, {default_threads()} threads; medians of {ROUNDS} rounds.\n\n"
    head += "| recipe | distill, ms | floor, ms | ratio |\n|---|---:|---:|---|\n"
    lines = [
        f"| {name} | {row['ms']['distill']:.1f} | {row['ms']['floor']:.1f} "
        f"| {row['ratio'][0]:.3f} ({row['ratio'][1]:.3f} … {row['ratio'][2]:.3f}) |"
        for name, row in found.items()
    ]
    write_json(RESULTS / "distill_cost.json", found)
    write_text(RESULTS / "distill_cost.md", head + "\n".join(lines) + "\n")
    print(head + "\n".join(lines))
    finish({f"{name.replace('-', '_')}_distill_cost": row["ratio"][0] for name, row in found.items()})


if __name__ == "__main__":
    main()

"""`python -m benchmarks.teacher`: are the digits teacher's guided samples named by their label?

The judge never saw a generated image: it is trained on the training part of the real digits and tested
on the held-out part, which the teacher never saw either.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bars import finish
from compress import data, terminal
from compress.diffusion.schedulers import SamplingOptions
from compress.files import write_json, write_text
from compress.judge.classifier import train_classifier
from compress.model.denoiser import Denoiser
from compress.model.reference import cycled_labels, draw_many, noise_like
from compress.pipeline import checkpoint
from compress.report.statistics import wilson

HERE = Path(__file__).parent
COUNT = 1000
SEED = 20260101  # used for nothing else
SAMPLINGS = {"ddim": 50, "dpmpp_2m": 20}


def table(result: Mapping[str, Any]) -> str:
    """Markdown."""
    rows = [
        f"| {name} | {row['class_accuracy']:.1%} | {row['interval'][0]:.1%} … {row['interval'][1]:.1%} | "
        f"{min(row['by_class']):.1%} |"
        for name, row in result["samplers"].items()
    ]
    head = "| solver and steps | named as asked | 95% interval | worst class |\n|---|---:|---|---:|\n"
    foot = (
        f"\n\n{result['count']:,} images at guidance scale {result['scale']:g}, named by a classifier that is right "
        f"about {result['classifier_accuracy']:.1%} of held-out real digits.\n"
    )
    return head + "\n".join(rows) + foot


def main() -> None:
    """Draw, judge, write results/teacher.json and teacher.md, and print the bars."""
    judge = train_classifier(data.load(data.Digits(source="digits"), (1, 16, 16), 10))
    labels = cycled_labels(10, COUNT)
    rows = {}
    for solver, steps in SAMPLINGS.items():
        options = SamplingOptions.model_validate({"solver": solver, "steps": steps})
        teacher = checkpoint.load(HERE / "teachers" / "digits", options=options)
        assert isinstance(teacher, Denoiser)
        noise = noise_like(teacher, COUNT, SEED)
        images = draw_many(teacher, noise, {"class_labels": labels}, terminal.progress, f"{solver}, {steps} steps")
        hits = judge.classify(images.numpy()) == labels.numpy()
        rows[f"{solver}-{steps}"] = {
            "class_accuracy": float(np.mean(hits)),
            "interval": wilson(int(hits.sum()), COUNT),
            "by_class": [float(hits[labels.numpy() == label].mean()) for label in range(10)],
        }
    result = {"count": COUNT, "seed": SEED, "scale": 2.0, "classifier_accuracy": judge.accuracy, "samplers": rows}
    write_json(HERE / "results" / "teacher.json", result)
    write_text(HERE / "results" / "teacher.md", table(result))
    print(table(result))
    finish({"teacher_class_accuracy": rows["ddim-50"]["class_accuracy"], "classifier_accuracy": judge.accuracy})  # type: ignore[dict-item]


if __name__ == "__main__":
    main()

"""The judges of one verification: classifiers and feature spaces, made when first needed, and what they find."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from compress.data import DataConfig, Dataset, FromTeacher
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.evaluation import comparison, paired, response
from compress.evaluation.classifier import Judge, train_judge
from compress.evaluation.cost import ONNX, Costs
from compress.evaluation.distribution import frechet_infinity
from compress.evaluation.features import (
    ITEMS_PER_DIMENSION,
    FeatureSpace,
    classifier_space,
    load_extractor,
    pixel_space,
    random_space,
)
from compress.evaluation.figure import Figure
from compress.models.denoiser import Denoiser
from compress.models.reference import PYTORCH, Drawn, Engine, Progress, draw_kept
from compress.runtime import Bundle

SMALLEST = 32  # dimensions of the smallest feature space
LEAST = ITEMS_PER_DIMENSION * SMALLEST
RESPONSE = 200  # images at each guidance scale
FEW = 600  # images of each few-step baseline
UNPAIRED = "the student does not map noise to images as the teacher does"
DISTILLED = "one evaluation of the student does the work of several of the teacher's"


@dataclass(frozen=True)
class Spaces:
    """Figures by feature space; spaces: their dimension and whether there are samples enough.

    halves: the Fréchet distance of one half of the real images to the other, to infinity: what 0 looks like.
    """

    figures: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)
    spaces: Mapping[str, tuple[int, bool]] = field(default_factory=dict)
    halves: Mapping[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """For `report.json`."""
        return {
            name: {
                "dimension": dimension,
                "enough": enough,
                "real_halves": self.halves.get(name),
                "metrics": {key: figure.as_json() for key, figure in self.figures.get(name, {}).items()},
            }
            for name, (dimension, enough) in self.spaces.items()
        }

    def agreement(self) -> dict[str, bool]:
        """Whether the spaces agree on each figure."""
        return comparison.agreement(self.figures)

    def resolved(self) -> list[str]:
        """Figures by which some space tells the student from the teacher."""
        return sorted({name for found in self.figures.values() for name, figure in found.items() if figure.resolved})


@dataclass(frozen=True)
class Judging:
    """data: where the data set comes from. accuracy: that a classifier needs, on held-out images, to be believed.

    allow_pickle: whether extractors may be programs (TorchScript).
    engine: what draws the teacher's samples.
    """

    load: Callable[[], Dataset]
    data: DataConfig | None
    extractors: Sequence[Path]
    accuracy: float
    progress: Progress
    allow_pickle: bool = False
    engine: Engine = PYTORCH

    @cached_property
    def dataset(self) -> Dataset | None:
        """The data set, if the recipe has one."""
        return None if self.data is None else self.load()

    @cached_property
    def judge(self) -> Judge | None:
        """The classifier that names images; None without labels."""
        labelled = self.dataset is not None and "class_labels" in self.dataset.conditions
        return train_judge(self.dataset) if labelled and self.dataset is not None else None

    @property
    def believed(self) -> Judge | None:
        """The classifier, if it is good enough."""
        return self.judge if self.judge is not None and self.judge.accuracy >= self.accuracy else None

    def reasons(self) -> dict[str, dict[str, Any]]:
        """The classifier's own accuracy, and why figures that need it are missing."""
        if self.judge is None:
            return {}
        own: dict[str, dict[str, Any]] = {
            "classifier_accuracy": Figure(self.judge.accuracy, "more").as_json(),
        }
        if self.believed is None:
            own |= {name: {"reason": self.why_not(name)} for name in ("class_agreement", "class_accuracy")}
        return own

    def why_not(self, metric: str) -> str:
        """Why a metric could not be measured."""
        if metric.startswith("class_") and self.judge is None:
            return "the data have no labels"
        if metric.startswith("class_a") and self.judge is not None:
            return f"the classifier names only {self.judge.accuracy:.1%} of the held-out images correctly"
        if metric == "guidance_ratio":
            return "the teacher is not guided"
        if metric in ("frechet_real", "frechet_ratio", "memorised"):
            nothing = "; or the teacher's own distance to them is not told from 0" if metric == "frechet_ratio" else ""
            return f"there are no real images, or too few of them{nothing}"
        return f"there are too few samples; at least {LEAST} are needed"

    def pairs(self, pairs: Drawn, ours: np.ndarray, again: np.ndarray) -> dict[str, Figure]:
        """Figures from images of the same noise. again: the teacher's first ones, by another runtime."""
        theirs = pairs.samples.numpy()
        figures = paired.same_noise(theirs, ours, again)
        if self.believed is not None and "class_labels" in pairs.conditions:
            figures |= paired.named(self.believed, theirs, ours, pairs.conditions["class_labels"].numpy())
        return figures

    def by_class(self, pairs: Drawn, ours: np.ndarray) -> Mapping[str, list] | None:
        """Accuracy for every label."""
        if self.believed is None or "class_labels" not in pairs.conditions:
            return None
        return paired.by_class(self.believed, pairs.samples.numpy(), ours, pairs.conditions["class_labels"].numpy())

    @cached_property
    def real(self) -> tuple[np.ndarray | None, np.ndarray | None]:
        """(training images, held-out images) where the data are real ones."""
        if self.dataset is None or isinstance(self.data, FromTeacher):
            return None, None
        train, held_out = self.dataset.split()
        return train.images.numpy(), (held_out.images.numpy() if len(held_out) < len(self.dataset) else None)

    def feature_spaces(self, others: np.ndarray) -> list[FeatureSpace]:
        """The trained classifier where there are labels and it can be believed, random networks, pixels, one's own."""
        reference = others if self.real[0] is None else self.real[0]
        spaces: list[FeatureSpace] = [
            load_extractor(path, others.shape[1:], self.allow_pickle) for path in self.extractors
        ]
        if self.dataset is not None and "class_labels" in self.dataset.conditions:
            trained = classifier_space(self.dataset)
            spaces += [trained] if trained.accuracy >= self.accuracy else []
        return [*spaces, random_space(reference), pixel_space(reference, SMALLEST)]

    def sets(self, pairs: Drawn, others: Drawn, ours: np.ndarray) -> comparison.Sets:
        """What is held against what."""
        training, held_out = self.real
        labels = pairs.conditions.get("class_labels")
        return comparison.Sets(
            student=ours,
            twin=pairs.samples.numpy(),
            others=others.samples.numpy(),
            training=training,
            held_out=held_out,
            labels=None if labels is None else labels.numpy(),
            other_labels=None if labels is None else others.conditions["class_labels"].numpy(),
        )

    def spaces(self, pairs: Drawn, others: Drawn, ours: np.ndarray) -> Spaces:
        """Distances between distributions in every space that there are samples enough for."""
        count = min(len(ours), len(others.samples))
        if count < LEAST and not self.extractors:
            return Spaces()
        spaces = self.feature_spaces(others.samples.numpy())
        sets = self.sets(pairs, others, ours)
        figures, halves = {}, {}
        training = sets.training
        with self.progress("comparing distributions", len(spaces)) as task:
            for space in spaces:
                if space.enough(count):
                    figures[space.name] = comparison.compare(sets, space)
                if training is not None and len(training) >= 16 * space.dimension:
                    features = space(training)
                    halves[space.name] = frechet_infinity(features[::2], features[1::2])
                task.advance()
        return Spaces(figures, {space.name: (space.dimension, space.enough(count)) for space in spaces}, halves)

    def guidance_response(
        self, teacher: Denoiser, bundle: Bundle, scales: Sequence[float], name: str, seed: int
    ) -> dict[str, Any] | None:
        """Accuracy and variance at several guidance scales. name: of the pass, for the progress shown."""
        if self.believed is None:
            return None
        found = []
        for scale in scales:
            title = f"{name}: guidance {scale:g}"
            drawn = draw_kept(
                response.at_scale(teacher, scale),
                RESPONSE,
                seed,
                self.load,
                self.progress,
                f"{title}, teacher",
                self.engine,
            )
            ours = response.sample(bundle.at_scale(scale), drawn, self.progress, f"{title}, student")
            theirs, labels = drawn.samples.numpy()[: len(ours)], drawn.conditions["class_labels"].numpy()[: len(ours)]
            found.append({"teacher": theirs, "student": ours, "labels": labels})
        return response.curves(scales, found, self.believed)

    def few_steps(
        self, teacher: Denoiser, others: Drawn, steps: Sequence[int], costs: Costs, name: str, seed: int
    ) -> list[dict[str, Any]]:
        """The teacher itself at fewer steps, by every solver, in onnxruntime: a baseline that needs no training."""
        rows = []
        call = next(row["ms"] for row in costs.rows if row["name"] == f"guided {ONNX}")
        space = pixel_space(others.samples.numpy(), SMALLEST) if steps else None
        for count in steps:
            for solver in ("ddim", "dpmpp_2m"):
                options = SamplingOptions(solver=solver, steps=count)
                sampling = from_scheduler_config(teacher.scheduler, options)
                sampling = sampling.model_copy(update={"guidance": teacher.sampling.guidance})
                drawn = draw_kept(
                    dataclasses.replace(teacher, sampling=sampling),
                    FEW,
                    seed,
                    self.load,
                    self.progress,
                    f"{name}: teacher, {solver}, {count} steps",
                    self.engine,
                )
                row: dict[str, Any] = {
                    "name": f"teacher in onnxruntime, {solver}",
                    "evaluations": count,
                    "ms_per_image": call * count,
                }
                if space is not None:
                    row["space"] = space.name
                    row["frechet"] = frechet_infinity(space(drawn.samples.numpy()), space(others.samples.numpy()))
                if self.believed is not None and "class_labels" in drawn.conditions:
                    hits = self.believed.classify(drawn.samples.numpy()) == drawn.conditions["class_labels"].numpy()
                    row["class_accuracy"] = float(hits.mean())
                rows.append(row)
        return rows

"""The judges of one verification: classifiers and feature spaces, made when first needed, and what they find."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from compress.data import DataConfig, Dataset, FromTeacher
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.judge import comparison, cost, paired
from compress.judge.classifier import Judge, train_judge
from compress.judge.cost import ONNX, Costs
from compress.judge.distribution import frechet_infinity
from compress.judge.features import (
    ITEMS_PER_DIMENSION,
    FeatureSpace,
    classifier_space,
    load_extractor,
    pixel_space,
    random_space,
)
from compress.model.denoiser import Denoiser
from compress.model.reference import PYTORCH, Drawer, Drawn, Progress, draw_kept
from compress.report.parts import ClassAccuracy, FewSteps, Figure, Space

SMALLEST = 32  # dimensions of the smallest feature space
LEAST = ITEMS_PER_DIMENSION * SMALLEST
FEW = 600  # images of each few-step baseline


@dataclass(frozen=True)
class Judging:
    """data: where the data set comes from. accuracy: that a classifier needs, on held-out images, to be believed.

    allow_pickle: whether extractors may be programs (TorchScript).
    drawer: what draws the teacher's samples; seed: of those that are drawn here.
    """

    load: Callable[[], Dataset]
    data: DataConfig | None
    extractors: Sequence[Path]
    accuracy: float
    progress: Progress
    allow_pickle: bool = False
    drawer: Drawer = PYTORCH
    seed: int = 0

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

    def reasons(self) -> dict[str, str]:
        """Why figures that need the classifier are missing."""
        missing = () if self.judge is None or self.believed is not None else ("class_agreement", "class_accuracy")
        return {name: self.why_not(name) for name in missing}

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

    def by_class(self, pairs: Drawn, ours: np.ndarray) -> tuple[ClassAccuracy, ...]:
        """Accuracy for every label."""
        if self.believed is None or "class_labels" not in pairs.conditions:
            return ()
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

    def spaces(self, pairs: Drawn, others: Drawn, ours: np.ndarray) -> dict[str, Space]:
        """Distances between distributions in every space that there are samples enough for."""
        count = min(len(ours), len(others.samples))
        if count < LEAST and not self.extractors:
            return {}
        spaces = self.feature_spaces(others.samples.numpy())
        sets, found = self.sets(pairs, others, ours), {}
        with self.progress("comparing distributions", len(spaces)) as task:
            for space in spaces:
                halves = None
                if sets.training is not None and len(sets.training) >= 16 * space.dimension:
                    features = space(sets.training)
                    halves = frechet_infinity(features[::2], features[1::2])
                enough = space.enough(count)
                found[space.name] = Space(
                    dimension=space.dimension,
                    enough=enough,
                    real_halves=halves,
                    metrics=comparison.compare(sets, space) if enough else {},
                )
                task.advance()
        return found

    def few_steps(self, teacher: Denoiser, others: Drawn, steps: Sequence[int], costs: Costs) -> tuple[FewSteps, ...]:
        """The teacher itself at fewer steps, by every solver, in onnxruntime: a baseline that needs no training."""
        if not steps:
            return ()
        call = next(row.ms for row in costs.latency if row.name == cost.guided_row(ONNX).name)
        reference = others.samples.numpy()
        space, rows = pixel_space(reference, SMALLEST), []
        for count, solver in itertools.product(steps, ("ddim", "dpmpp_2m")):
            sampling = from_scheduler_config(
                teacher.scheduler, SamplingOptions.model_validate({"solver": solver, "steps": count})
            )
            sampling = sampling.model_copy(update={"guidance": teacher.sampling.guidance})
            few = dataclasses.replace(teacher, sampling=sampling)
            drawn = self.drawn(few, FEW, f"teacher, {solver}, {count} steps")
            samples, accuracy = drawn.samples.numpy(), None
            if self.believed is not None and "class_labels" in drawn.conditions:
                hits = self.believed.classify(samples) == drawn.conditions["class_labels"].numpy()
                accuracy = float(hits.mean())
            rows.append(
                FewSteps(
                    **dict(ONNX),
                    solver=solver,
                    evaluations=count,
                    ms_per_image=call * count,
                    space=space.name,
                    frechet=frechet_infinity(space(samples), space(reference)),
                    class_accuracy=accuracy,
                )
            )
        return tuple(rows)

    def drawn(self, teacher: Denoiser, count: int, title: str) -> Drawn:
        """Samples of a teacher, kept."""
        return draw_kept(teacher, count, self.seed, self.load, self.progress, title, self.drawer)

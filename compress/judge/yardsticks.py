"""What samples are measured with: data, classifiers and feature spaces, made when first needed."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compress.data import DataConfig, Dataset, FromTeacher, fitting
from compress.diffusion.schedulers import SamplingOptions, from_scheduler_config
from compress.judge import cost
from compress.judge.alignment import Aligned, Aligner
from compress.judge.attributes import AttributeClassifier
from compress.judge.classifier import Classifier, train_classifier
from compress.judge.cost import ONNX
from compress.judge.distribution import QUANTILE, frechet_infinity
from compress.judge.features import LEAST, FeatureSpace, classifier_space, load_extractor, pixel_space, random_space
from compress.judge.metrics import METRICS, REASONS, Sets, figures, lacking
from compress.measure.workers import decoded_on_all_cores
from compress.model.denoiser import Denoiser
from compress.model.reference import PYTORCH, Drawer, Drawn, Progress, draw_kept
from compress.pipeline.text import CONDITION
from compress.report.parts import FewSteps, Space
from compress.report.report import Costs
from compress.report.text_to_image import Attribute
from compress.runtime import Bundle

FEW = 600  # images of each few-step baseline
SHARE = 50  # pictures that a core decodes at once
LEAST_OF_A_CLASS = 8  # fewer, and a resample may hold none of a class


@dataclass(frozen=True)
class Yardsticks:
    """data: where the data set comes from. accuracy: that a classifier needs, on held-out images, to be believed.

    allow_pickle: whether extractors may be programs (TorchScript).
    drawer: what draws the teacher's samples; seed: of those that are drawn here. decoder: the bundle that makes pixels
    of the teacher's latents. prompted: what to draw for; None: what the data say. named: what names attributes;
    aligner: what says how well a picture fits its text.
    """

    load: Callable[[], Dataset]
    data: DataConfig | None
    extractors: Sequence[Path]
    accuracy: float
    progress: Progress
    allow_pickle: bool = False
    drawer: Drawer = PYTORCH
    seed: int = 0
    decoder: Bundle | None = None
    prompted: Callable[[], Dataset] | None = None
    named: AttributeClassifier | None = None
    aligner: Aligner | None = None

    @cached_property
    def dataset(self) -> Dataset | None:
        """The data set, if the recipe has one, as it is seen."""
        loaded = None if self.data is None else self.load()
        if loaded is None or self.decoder is None or loaded.images.shape[1:] != self.decoder.sample_shape:
            return loaded
        about = self.decoder.manifest.get("decoder") or {"pixels": self.decoder.sample_shape}
        shown = loaded.spread(fitting(about["pixels"]))
        return dataclasses.replace(shown, images=torch.from_numpy(self.decoded(shown.images[:].numpy())))

    @property
    def labelled(self) -> Dataset | None:
        """The data set, if it has labels."""
        return self.dataset if self.dataset is not None and "class_labels" in self.dataset.conditions else None

    @cached_property
    def classifier(self) -> Classifier | None:
        """What names images; None without labels."""
        return None if self.labelled is None else train_classifier(self.labelled)

    @property
    def believed(self) -> Classifier | None:
        """The classifier, if it is good enough."""
        return self.classifier if self.classifier is not None and self.classifier.accuracy >= self.accuracy else None

    def reasons(self) -> dict[str, str]:
        """Why figures that need the classifier are missing."""
        if self.classifier is None or self.believed is not None:
            return {}
        said = f"the classifier names only {self.classifier.accuracy:.1%} of the held-out images correctly"
        return dict.fromkeys(lacking("classes"), said)

    def why_not(self, metric: str) -> str:
        """Why a metric could not be measured: for want of the last of its needs, as others are left out or refused."""
        return self.reasons().get(metric, REASONS[METRICS[metric].needs[-1]])

    @cached_property
    def real(self) -> dict[str, np.ndarray]:
        """Training and held-out images where the data are real ones; the latter only if there are enough of them.

        Of more than can be held in memory, as many of them from all over the data.
        """
        if self.dataset is None or isinstance(self.data, FromTeacher):
            return {}
        train, held_out = self.dataset.split()
        enough = len(held_out) < len(self.dataset) and QUANTILE * len(held_out) >= 1
        parts = {"training": train} | ({"held_out": held_out} if enough else {})
        return {name: part.held().images.numpy() for name, part in parts.items()}

    def sets(self, pairs: Drawn, ours: np.ndarray, again: np.ndarray | None) -> Sets:
        """Images from the same noise. again: the teacher's first ones, by another runtime; None: they are no pairs."""
        twin, labels, classes = pairs.samples.numpy(), _labels(pairs), None
        if self.believed is not None and labels is not None and np.isfinite(ours).all():
            classes = self.believed.classify(ours), self.believed.classify(twin)
        return Sets(ours, twin, again, labels=labels, classes=classes)

    def attributes(self, sets: Sets, texts: Sequence[str]) -> dict[str, Attribute]:
        """What the student's pictures show, beside the teacher's; nothing where no classifier is named."""
        return {} if self.named is None else self.named.compare(*sets.sides, texts, sets.again is not None)

    def aligned(self, sets: Sets, texts: Sequence[str]) -> Aligned | None:
        """How well pictures fit their texts; None where no model is named that says it."""
        return None if self.aligner is None else self.aligner.compare(*sets.sides, texts)

    def spaces(self, pairs: Drawn, others: Drawn, ours: np.ndarray) -> dict[str, Space]:
        """Distances between distributions in every space that there are samples enough for."""
        count = min(len(ours), len(others.samples))
        if count < LEAST and not self.extractors:
            return {}
        images = {"student": ours, "twin": pairs.samples.numpy(), "others": others.samples.numpy()}
        labels, other_labels = (_labels(one, LEAST_OF_A_CLASS) for one in (pairs, others))
        spaces, found = self.feature_spaces(images["others"]), {}
        with self.progress("comparing distributions", len(spaces)) as task:
            for space in spaces:
                measured, enough = {}, space.enough(count)
                if enough:
                    real = self.real if len(self.real.get("training", ())) >= 8 * space.dimension else {}
                    features: dict[str, Any] = {name: space(one) for name, one in (images | real).items()}
                    measured = figures(Sets(**features, labels=labels, other_labels=other_labels))
                found[space.name] = Space(dimension=space.dimension, enough=enough, metrics=measured)
                task.advance()
        return found

    def feature_spaces(self, others: np.ndarray) -> list[FeatureSpace]:
        """One's own, the trained classifier where there are labels and it can be believed, random networks, pixels."""
        reference = self.real.get("training", others)
        spaces = [load_extractor(path, others.shape[1:], self.allow_pickle) for path in self.extractors]
        if self.labelled is not None:
            trained, accuracy = classifier_space(self.labelled)
            spaces += [trained] if accuracy >= self.accuracy else []
        return [*spaces, random_space(reference), pixel_space(reference)]

    def few_steps(self, teacher: Denoiser, others: Drawn, steps: Sequence[int], costs: Costs) -> tuple[FewSteps, ...]:
        """The teacher itself at fewer steps, by every solver, in onnxruntime: a baseline that needs no training."""
        if not steps:
            return ()
        call = next(row.ms for row in costs.latency if row.name == cost.of_unit("guided call", ONNX).name)
        reference = self.seen(others).samples.numpy()
        space, rows = pixel_space(reference), []
        for count, solver in itertools.product(steps, ("ddim", "dpmpp_2m")):
            options = SamplingOptions.model_validate({"solver": solver, "steps": count})
            sampling = from_scheduler_config(teacher.scheduler, options)
            sampling = sampling.model_copy(update={"guidance": teacher.sampling.guidance})
            few = dataclasses.replace(teacher, sampling=sampling)
            drawn = self.seen(self.drawn(few, FEW, f"teacher, {solver}, {count} steps"))
            samples, accuracy = drawn.samples.numpy(), None
            if self.believed is not None and (labels := _labels(drawn)) is not None:
                accuracy = float((self.believed.classify(samples) == labels).mean())
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

    def seen(self, drawn: Drawn) -> Drawn:
        """The teacher's samples as pictures."""
        return dataclasses.replace(drawn, samples=torch.from_numpy(self.decoded(drawn.samples.numpy())))

    def decoded(self, samples: np.ndarray) -> np.ndarray:
        """Pictures of the teacher's samples."""
        if self.decoder is None:
            return samples
        return pictures(self.decoder, samples, self.progress, "decoding the teacher's samples")

    def drawn(self, teacher: Denoiser, count: int, title: str) -> Drawn:
        """Samples of a teacher, kept."""
        asked = self.prompted or self.load
        return draw_kept(teacher, count, self.seed, asked, self.progress, title, self.drawer)

    def texts(self, drawn: Drawn) -> list[str]:
        """What each of the teacher's samples was drawn for; nothing where no texts are known."""
        if CONDITION not in drawn.conditions or not (asked := (self.prompted or self.load)()).texts:
            return []
        wanted = [row.tobytes() for row in drawn.conditions[CONDITION].numpy()]
        some = set(wanted)
        known: dict[bytes, str] = {}
        for start in range(0, len(asked), SHARE):
            rows = asked.conditions[CONDITION][start : start + SHARE].numpy()
            found = zip((row.tobytes() for row in rows), asked.texts[start : start + SHARE], strict=True)
            known |= {row: text for row, text in found if row in some}
        return [known[row] for row in wanted]

    def as_told(self, bundle: Bundle, drawn: Drawn) -> Drawn:
        """The same with the conditions that a bundle's own text encoder makes of the texts, where these are known."""
        texts = [] if bundle.text is None else self.texts(drawn)
        if bundle.text is None or not texts:
            return drawn
        once = list(dict.fromkeys(texts))
        index = [once.index(text) for text in texts]
        own = {name: torch.from_numpy(value[index]) for name, value in bundle.text.encode(once).items()}
        return dataclasses.replace(drawn, conditions={**drawn.conditions, **own})


def _labels(drawn: Drawn, least: int = 1) -> np.ndarray | None:
    """None: there are none, or one of them is rarer than `least`."""
    labels = drawn.conditions.get("class_labels")
    return None if labels is None or labels.unique(return_counts=True)[1].min() < least else labels.numpy()


def pictures(bundle: Bundle, samples: np.ndarray, progress: Progress, title: str) -> np.ndarray:
    """What is seen of samples [n,…]: pixels [n,c,h,w], decoded where they are latents."""
    with progress(title, len(samples)) as task:
        return decoded_on_all_cores(bundle, samples, SHARE, task.advance)

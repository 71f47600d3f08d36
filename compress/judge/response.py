"""How quality answers to the guidance scale, student beside teacher from the same noise."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from compress.judge.classifier import Classifier
from compress.judge.distribution import class_variance
from compress.measure.workers import decoded_on_all_cores, draw_on_all_cores
from compress.model.denoiser import Denoiser
from compress.model.reference import Drawn, Progress
from compress.report.parts import Figure, Response
from compress.report.statistics import bootstrap, interval, recentred, wilson
from compress.runtime import Bundle

ROUNDS = 500
SHARE = 50  # images that a core draws at once, of any batch size


def at_scale(teacher: Denoiser, scale: float) -> Denoiser:
    """The model with another guidance scale (diffusers' convention)."""
    guidance = teacher.sampling.guidance.model_copy(update={"scale": scale})
    return dataclasses.replace(teacher, sampling=teacher.sampling.model_copy(update={"guidance": guidance}))


def sample(bundle: Bundle, drawn: Drawn, progress: Progress, title: str) -> np.ndarray:
    """The bundle's samples [n,…] from the same noise and conditions; n is cut to its fixed batch size."""
    conditions = {name: value.numpy() for name, value in drawn.conditions.items()}
    with progress(title, len(drawn.noise)) as task:
        return draw_on_all_cores(bundle, drawn.noise.numpy(), conditions, bundle.batch or SHARE, task.advance)


def pictures(bundle: Bundle, samples: np.ndarray, progress: Progress, title: str) -> np.ndarray:
    """What is seen of samples [n,…]: pixels [n,c,h,w], decoded where they are latents."""
    with progress(title, len(samples)) as task:
        return decoded_on_all_cores(bundle, samples, SHARE, task.advance)


def curves(pairs: Mapping[float, Mapping[str, np.ndarray]], classifier: Classifier) -> dict[str, tuple[Response, ...]]:
    """Accuracy, and variance within a class, of the pixels at every scale, with intervals.

    pairs: for each scale `teacher` and `student` [n,c,h,w] and `labels` int64 [n].
    """
    sides = {
        scale: [_figures(pair[side], pair["labels"], classifier) for side in ("teacher", "student")]
        for scale, pair in pairs.items()
    }
    return {
        name: tuple(Response(scale=scale, teacher=a[name], student=b[name]) for scale, (a, b) in sides.items())
        for name in ("class_accuracy", "variance")
    }


def _figures(images: np.ndarray, labels: np.ndarray, classifier: Classifier) -> dict[str, Figure]:
    hits, flat = classifier.classify(images) == labels, images.reshape(len(images), -1)
    spread = _spread(flat, labels)
    # a resample of a small class holds copies, and so varies less than the class: hence recentred
    replicates = bootstrap(lambda i: _spread(flat[i], labels[i]), len(flat), rounds=ROUNDS)
    found = {
        "class_accuracy": (float(hits.mean()), wilson(int(hits.sum()), len(hits))),
        "variance": (spread, interval(recentred(replicates, spread))),
    }
    return {name: Figure(value=value, better="more", interval=ends) for name, (value, ends) in found.items()}


def _spread(flat: np.ndarray, labels: np.ndarray) -> float:
    common = [label for label in np.unique(labels) if (labels == label).sum() > 1]
    chosen = np.isin(labels, common)
    return class_variance(flat[chosen], labels[chosen])

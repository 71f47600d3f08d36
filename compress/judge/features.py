"""Spaces to compare images in: float32 [n,c,h,w] in [-1, 1] → features float64 [n,d].

No single space is to be believed; figures in several that know nothing of one another should agree. The three that
are fitted here are centred and scaled by one number, such that the images they were fitted on have a mean variance
of 1 a dimension: distances in different spaces are then of one size, and the cubic kernel meets what it expects.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import nn
from torch.nn import functional

from compress.data import Dataset
from compress.errors import CompressError, VerifyError
from compress.model import torchscript
from compress.randomness import Draw
from compress.runtime.engines import ONNXRUNTIME

BATCH = 256
ITEMS_PER_DIMENSION = 20  # fewer, and a covariance is mostly noise
STEPS = 300  # of training the classifier, batches of 64
Embed = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class FeatureSpace:
    """embed: a batch of images float32 [b,c,h,w] → [b, dimension]; each image's features depend on it alone."""

    name: str
    dimension: int
    embed: Embed

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Features float64 [n,d] of images [n,c,h,w]. Raises VerifyError if they are not [n,d] or not finite."""
        features = _batched(self.embed, images)
        if features.shape != (len(images), self.dimension):
            raise VerifyError(
                f"{self.name}: {len(images)} images should give features [{len(images)}, {self.dimension}]; "
                f"got {list(features.shape)}"
            )
        if not np.isfinite(features).all():
            raise VerifyError(f"{self.name}: the features hold NaN or infinity")
        return features

    def enough(self, count: int) -> bool:
        """Whether `count` images suffice for a covariance in this space: 20 a dimension."""
        return count >= ITEMS_PER_DIMENSION * self.dimension


@dataclass(frozen=True)
class ClassifierSpace(FeatureSpace):
    """The last hidden layer of a classifier. accuracy: on real images that it was not trained on."""

    logits: Embed
    accuracy: float

    def classify(self, images: np.ndarray) -> np.ndarray:
        """Class of each image [n,c,h,w], int64 [n]."""
        return _batched(self.logits, images).argmax(axis=1)


def pixel_space(reference: np.ndarray, dimension: int = 32) -> FeatureSpace:
    """The first principal components of the reference images [n,c,h,w]: real ones, or else the teacher's.

    At most n − 1 and c·h·w of them. Not whitened: components count as much as they vary.
    """
    flat = reference.reshape(len(reference), -1)
    if len(flat) < 2:
        raise VerifyError("pixels: principal components need at least 2 images")
    components = PCA(min(dimension, len(flat) - 1, flat.shape[1]), svd_solver="full").fit(flat)
    return _scaled("pixels", lambda images: components.transform(images.reshape(len(images), -1)), reference)


def random_space(reference: np.ndarray, seed: int = 0, networks: int = 3) -> FeatureSpace:
    """20 features from each of several convolutional networks that were never trained; d = 60.

    Random embeddings as in Naeem et al. 2020: they prefer no kind of image. The weights are
    orthogonal (Saxe et al. 2014), the last layer is a random projection. Scaled by the reference images [n,c,h,w].
    """
    nets = [_seeded(lambda: _orthogonal(_convolutions(reference.shape[1], 20)), seed + i) for i in range(networks)]
    embeds = [_numpy(net) for net in nets]
    return _scaled("random", lambda images: np.concatenate([embed(images) for embed in embeds], axis=1), reference)


def classifier_space(dataset: Dataset, seed: int = 0, dimension: int = 32) -> ClassifierSpace:
    """The last hidden layer of a small convolutional network, trained on the training part of the data set.

    Adam with cosine decay, seeded; it shares nothing but the data with the support vector machine of
    `classifier.py`. Where the data set is too small to hold anything back its accuracy counts as 0.
    Raises VerifyError for a data set without labels.
    """
    if "class_labels" not in dataset.conditions:
        raise VerifyError("classifier: the data set has no labels to train on")
    train, held_out = dataset.split()
    labels = dataset.conditions["class_labels"]
    channels = dataset.images.shape[1]
    body = _seeded(lambda: nn.Sequential(_convolutions(channels, dimension), nn.SiLU()), seed)
    head = _seeded(lambda: nn.Linear(dimension, int(labels.max()) + 1), seed + 1)
    net = nn.Sequential(body, head)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    with torch.enable_grad():
        for step in range(STEPS):
            batch = train.batch(64, seed, Draw.CLASSIFIER, step)
            loss = functional.cross_entropy(net(batch.images), batch.conditions["class_labels"], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    space = _scaled("classifier", _numpy(body), train.images.numpy())
    trained = ClassifierSpace(space.name, space.dimension, space.embed, _numpy(net), 0.0)
    if len(held_out) == len(dataset):
        return trained  # nothing was held back, so nothing is known of its accuracy
    right = trained.classify(held_out.images.numpy()) == held_out.conditions["class_labels"].numpy()
    return ClassifierSpace(space.name, space.dimension, space.embed, trained.logits, float(right.mean()))


def load_extractor(path: Path, shape: Sequence[int], allow_pickle: bool) -> FeatureSpace:
    """A network of one's own, as TorchScript (.pt, .ts) or ONNX (.onnx), for images of `shape` (c,h,w).

    It takes float32 [n,c,h,w] in [-1, 1], n being free, and gives [n,d], left as it is: with an Inception network
    the figures are those of the literature. Tried on two images at once. allow_pickle: whether programs, which
    TorchScript files are, may be run; raises CompressError where not.
    Raises VerifyError for a file that is missing, cannot be read, does not run or gives something else than [n,d].
    """
    path = Path(path)
    if not path.is_file():
        raise VerifyError(f"{path}: no such file")
    kind = path.suffix.lower()
    if kind not in (*torchscript.SUFFIXES, ".onnx"):
        raise VerifyError(f"{path}: a feature extractor is a TorchScript file (.pt, .ts) or an ONNX file (.onnx)")
    try:
        read = _onnx(path) if kind == ".onnx" else _numpy(torchscript.load(path, allow_pickle))
    except Exception as error:  # of many kinds, by file and library
        if type(error) is CompressError:  # of a program that may not be run
            raise
        raise VerifyError(f"{path}: cannot be read as a feature extractor: {_first_line(error)}") from None

    def embed(images: np.ndarray) -> np.ndarray:
        try:
            return read(images)
        except Exception as error:
            raise VerifyError(f"{path}: fails on images {list(images.shape)}: {_first_line(error)}") from None

    trial = embed(np.random.default_rng(0).uniform(-1, 1, (2, *shape)).astype(np.float32))
    if trial.ndim != 2 or len(trial) != 2 or not trial.shape[1]:
        raise VerifyError(f"{path}: 2 images should give features [2, d]; got {list(trial.shape)}")
    space = FeatureSpace(path.name, trial.shape[1], embed)
    space(np.zeros((2, *shape), np.float32))  # NaN shows now rather than after an hour of drawing samples
    return space


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _onnx(path: Path) -> Embed:
    graph = ONNXRUNTIME.open(path)
    name = next(iter(graph.inputs))
    return lambda images: np.asarray(graph.run({name: images})[0])


def _batched(embed: Embed, images: np.ndarray) -> np.ndarray:
    """Float64 features of images [n,c,h,w], a few at a time. Raises ValueError for another rank, or none."""
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images should be [n,c,h,w]; got {list(images.shape)}")
    images = np.ascontiguousarray(images, dtype=np.float32)  # torch takes no flipped views
    batches = [embed(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    return np.concatenate(batches).astype(np.float64)


def _scaled(name: str, embed: Embed, reference: np.ndarray) -> FeatureSpace:
    """A space in which the reference images have mean 0 and a mean variance of 1."""
    features = _batched(embed, reference)
    centre, scale = features.mean(axis=0), float(np.sqrt(features.var(axis=0).mean()))
    if not np.isfinite(scale) or scale < 1e-9:
        raise VerifyError(f"{name}: all reference images give the same features, or none that are finite")
    return FeatureSpace(name, features.shape[1], lambda images: (embed(images) - centre) / scale)


def _convolutions(channels: int, dimension: int) -> nn.Sequential:
    """Images of any size → [n, dimension]; 4×4 places are kept apart, for where a stroke is matters."""
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.Conv2d(32, 32, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(32 * 16, dimension),
    )


def _orthogonal(net: nn.Sequential) -> nn.Sequential:
    for parameter in net.parameters():
        if parameter.ndim > 1:
            nn.init.orthogonal_(parameter, gain=2**0.5)
        else:
            nn.init.zeros_(parameter)
    return net


def _seeded(build: Callable[[], nn.Module], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def _numpy(net: nn.Module) -> Embed:
    """`net` as a function of arrays, for inference."""
    net.eval()

    def embed(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net(torch.from_numpy(images)).numpy()

    return embed

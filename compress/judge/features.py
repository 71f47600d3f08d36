"""Spaces to compare images in: float32 [n,c,h,w] in [-1, 1] → features float64 [n,d].

No single space is to be believed; figures in several that know nothing of one another should agree. The three that
are fitted here are centred and scaled by one number, such that the images they were fitted on have a mean variance
of 1 a dimension: distances in different spaces are then of one size, and the cubic kernel meets what it expects.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.decomposition import PCA
from torch import nn
from torch.nn import functional

from compress.data import Dataset
from compress.errors import VerifyError
from compress.model import torchscript
from compress.randomness import Draw
from compress.runtime.engines import ONNXRUNTIME

BATCH = 256
SMALLEST = 32  # dimensions of the smallest space that is fitted here
ITEMS_PER_DIMENSION = 20  # fewer, and a covariance is mostly noise
LEAST = ITEMS_PER_DIMENSION * SMALLEST
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
        features, wanted = _batched(self.embed, images), [len(images), self.dimension]
        if list(features.shape) != wanted:
            raise VerifyError(f"{self.name}: images should give features {wanted}; got {list(features.shape)}")
        if not np.isfinite(features).all():
            raise VerifyError(f"{self.name}: the features hold NaN or infinity")
        return features

    def enough(self, count: int) -> bool:
        """Whether `count` images suffice for a covariance in this space: 20 a dimension."""
        return count >= ITEMS_PER_DIMENSION * self.dimension


def pixel_space(reference: np.ndarray, dimension: int = SMALLEST) -> FeatureSpace:
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


def classifier_space(dataset: Dataset, seed: int = 0, dimension: int = SMALLEST) -> tuple[FeatureSpace, float]:
    """(the last hidden layer of a small convolutional network, how often the net names held-out images rightly).

    Trained on the training part of the data set, which has labels, by Adam with cosine decay; it shares nothing but the
    data with the support vector machine of `classifier.py`. Accuracy 0: nothing could be held back.
    """
    train, held_out = dataset.split()
    channels, classes = dataset.images.shape[1], int(dataset.conditions["class_labels"][:].max()) + 1
    body = _seeded(lambda: nn.Sequential(_convolutions(channels, dimension), nn.SiLU()), seed)
    head = _seeded(lambda: nn.Linear(dimension, classes), seed + 1)
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
    space = _scaled("classifier", _numpy(body), train.held().images.numpy())
    if len(held_out) == len(dataset):
        return space, 0.0
    unseen = held_out.held()
    named = _batched(_numpy(net), unseen.images.numpy()).argmax(axis=1)
    return space, float((named == unseen.conditions["class_labels"].numpy()).mean())


def load_extractor(path: Path, shape: Sequence[int], allow_pickle: bool) -> FeatureSpace:
    """A network of one's own, as TorchScript (.pt, .ts) or ONNX (.onnx), for images of `shape` (c,h,w).

    It takes float32 [n,c,h,w] in [-1, 1], n being free, and gives [n,d], left as it is: with an Inception network
    the figures are those of the literature. allow_pickle: whether TorchScript, which is a program, may be run; raises
    CompressError where not. Raises VerifyError for a file that is missing, cannot be read, does not run on two images
    or gives something else than [n,d].
    """
    kind = path.suffix.lower()
    if not path.is_file():
        raise VerifyError(f"{path}: no such file")
    if kind not in (*torchscript.SUFFIXES, ".onnx"):
        raise VerifyError(f"{path}: a feature extractor is a TorchScript file (.pt, .ts) or an ONNX file (.onnx)")
    if kind != ".onnx":
        torchscript.check_trust(path, allow_pickle)
    with explained(f"{path}: cannot be read as a feature extractor"):
        read = _onnx(path) if kind == ".onnx" else _numpy(torchscript.load(path, allow_pickle))

    def embed(images: np.ndarray) -> np.ndarray:
        with explained(f"{path}: fails on images {list(images.shape)}"):
            return read(images)

    trial = embed(np.random.default_rng(0).uniform(-1, 1, (2, *shape)).astype(np.float32))
    if trial.ndim != 2 or len(trial) != 2 or not trial.shape[1]:
        raise VerifyError(f"{path}: 2 images should give features [2, d]; got {list(trial.shape)}")
    space = FeatureSpace(path.name, trial.shape[1], embed)
    space(np.zeros((2, *shape), np.float32))  # NaN shows now rather than after an hour of drawing samples
    return space


@contextmanager
def explained(what: str) -> Iterator[None]:
    """What a library raises, whatever it is, as a VerifyError in one line."""
    try:
        yield
    except Exception as error:  # of many kinds, by file and library
        raise VerifyError(f"{what}: {(str(error).strip().splitlines() or [type(error).__name__])[0]}") from None


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
    return torch.no_grad()(lambda images: net(torch.from_numpy(images)).numpy())

"""How far apart two distributions are, and how wide one is. Features float [n,d] in, float64 out.

Every estimate supposes that its items are independent draws: a student's samples are held against samples that
the teacher drew from *other* noise. n ≥ 20·d is a fair rule for all that estimates a covariance.
Raises ValueError for features that are not [n,d], not finite, too few or of two widths.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances_argmin_min, pairwise_distances_chunked
from sklearn.metrics.pairwise import polynomial_kernel
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import PolynomialFeatures, StandardScaler
from sklearn.utils import check_array, check_X_y

from compress.report.statistics import Interval, wilson

PARTS = (1, 2, 4)  # into how many parts the Fréchet distance's extrapolation cuts the samples
SQUARED = 32  # principal components whose products the two-sample classifier sees; more cost much and add little
MEMORY = 128  # MiB for a block of distances
QUANTILE = 0.01  # of distances of held-out items, below which a sample counts as memorised


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """‖μx − μy‖² + tr(Σx + Σy − 2(ΣxΣy)^½) of the moments of x [n,d] and y [m,d], at least 2 items each.

    Heusel et al. 2017, eq. 6; Dowson & Landau 1982. The last trace is the sum of the singular values of AᵀB where
    Σx = AAᵀ and Σy = BBᵀ, which stays real and exact where a covariance is singular (n ≤ d, constant features).
    Biased upwards, in proportion to 1/n and 1/m: compare at equal n alone, or use `frechet_infinity`.
    """
    x, y = _checked(2, x, y)
    (mean_x, a), (mean_y, b) = _moments(x), _moments(y)
    spread = np.square(a).sum() + np.square(b).sum() - 2 * np.linalg.svd(a.T @ b, compute_uv=False).sum()
    return max(0.0, float(np.square(mean_x - mean_y).sum() + spread))


def frechet_infinity(x: np.ndarray, y: np.ndarray, seed: int = 0) -> float:
    """The Fréchet distance extrapolated to infinitely many items of x [n,d] and of y [m,d]; may be negative.

    Chong & Forsyth 2020: the bias is linear in 1/n, so a line through distances at several n meets 1/n = 0 at the
    unbiased value. Here both are cut into 1, 2 and 4 parts, at random by `seed`, and the distances between parts are
    averaged, so that every item counts and the bias of *both* sides grows with the number of parts. Raises ValueError
    if n or m is under 8·d: smaller parts leave the line.
    """
    x, y = _checked(8 * np.shape(x)[-1], x, y)
    random = np.random.default_rng(seed)
    # own permutations: a part must not hold the pairs of one noise, should x and y be paired after all
    x, y = x[random.permutation(len(x))], y[random.permutation(len(y))]
    distances = [np.mean([*map(frechet_distance, np.array_split(x, n), np.array_split(y, n))]) for n in PARTS]
    return float(np.polynomial.polynomial.polyfit(PARTS, distances, 1)[0])


def kernel_distances(xs: Sequence[np.ndarray], y: np.ndarray, index: np.ndarray, index_y: np.ndarray) -> np.ndarray:
    """Squared maximum mean discrepancies of each of xs [n,d] and y [m,d], first of all items, [1+rounds, xs].

    The unbiased estimate of Gretton et al. 2012, eq. 3, with the kernel (a·b/d + 1)³ of Bińkowski et al. 2018, section
    4; may be negative. index [rounds, n], index_y [rounds, m]: the items of each resample. Pairs of an item with its
    own copy are left out, so that the replicates scatter about the estimate. Where x and y have one distribution they
    scatter about √3 times too widely (the estimate is degenerate there): the interval is cautious.
    Holds 8·(n² + m² + n·m) bytes: 600 MB for 5,000 items each. At least 2 items each.
    """
    *xs, y = _checked(2, *xs, y)
    weights, weights_y = (
        np.stack([np.bincount(row, minlength=len(items)) for row in (np.arange(len(items)), *drawn)]).astype(float)
        for items, drawn in ((xs[0], index), (y, index_y))
    )
    within_y, found = _within(y, weights_y), []
    for x in xs:
        between = (weights @ polynomial_kernel(x, y) * weights_y).sum(-1) / (weights.sum(-1) * weights_y.sum(-1))
        found.append(_within(x, weights) + within_y - 2 * between)
    return np.stack(found, axis=-1)


def density_coverage(generated: np.ndarray, real: np.ndarray, k: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """(density of each generated item, float64 [n]; whether each real item is covered, bool [m]).

    The means are the two figures of Naeem et al. 2020, section 3. A real item's ball reaches to its k-th nearest other
    real item; an item's density is the number of balls it lies in, ÷ k (1 on average where the distributions agree); a
    real item is covered if a generated one lies in its ball (1 − 2⁻ᵏ where they agree and n = m). 1 ≤ k < m.
    """
    generated, real = _checked(1, generated, real)
    if not 1 <= k < len(real):
        raise ValueError(f"k must be from 1 to {len(real) - 1}, one less than the number of real items; got {k}")
    middle = real.mean(axis=0)  # distances are exact to rounding errors of the norm, so keep the norms small
    generated, real = generated - middle, real - middle
    radii = NearestNeighbors(n_neighbors=k).fit(real).kneighbors()[0][:, -1]
    held, covered = [], np.zeros(len(real), dtype=bool)
    for distances in pairwise_distances_chunked(generated, real, working_memory=MEMORY):
        inside = distances <= radii
        held.append(inside.sum(axis=1))
        covered |= inside.any(axis=0)
    return np.concatenate(held) / k, covered


def two_sample_accuracy(x: np.ndarray, y: np.ndarray, folds: int = 5, seed: int = 0) -> np.ndarray:
    """Whether a classifier of "x or y?" is right about each item it was not trained on, bool [2n], x first.

    The classifier two-sample test of Lopez-Paz & Oquab 2017: a mean of 0.5 says that x [n,d] and y [n,d] cannot be
    told apart. A logistic regression on the features, and on the squares and products of their first 32 principal
    components, sees shifts of the mean, of the spread and of the correlations. Items that are paired across x and y
    hide the difference. Raises ValueError if the counts differ (0.5 would not be chance) or are below `folds`.
    """
    x, y = _checked(max(folds, 2), x, y)
    if len(x) != len(y):
        raise ValueError(f"the two-sample test needs equally many items; got {len(x)} and {len(y)}")
    components = min(SQUARED, x.shape[1], 2 * len(x) * (folds - 1) // folds)
    squares = make_pipeline(PCA(components, random_state=seed), PolynomialFeatures(2, include_bias=False))
    classifier = make_pipeline(
        StandardScaler(), make_union("passthrough", squares), StandardScaler(), LogisticRegression(C=40 / len(x))
    )
    truth = np.repeat([0, 1], len(x))
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return cross_val_predict(classifier, np.concatenate([x, y]), truth, cv=split) == truth


def two_sample_interval(right: np.ndarray) -> Interval:
    """95% interval of the accuracy, from what `two_sample_accuracy` found, bool [2n].

    Wilson's, as if half the items counted: the folds' classifiers share their training items, and where x and y
    have one distribution the accuracy was measured to scatter 1.2 to 1.35 times as widely as coin tosses would.
    """
    return wilson(int(right.sum()) / 2, len(right) / 2)


def vendi(x: np.ndarray) -> float:
    """The effective number of different items in x [n,d], from 1 to min(n, d). Friedman & Dieng 2023, def. 3.1.

    exp of the entropy of the eigenvalues of K/n, K the cosine similarities [n,n]; X̂ᵀX̂/n [d,d] has the same ones.
    """
    (x,) = _checked(1, x)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    if not norms.all():
        raise ValueError("the cosine similarity of an item of zeros is not defined")
    x = x / norms
    eigenvalues = np.linalg.eigvalsh(x.T @ x / len(x))
    eigenvalues = eigenvalues[eigenvalues > 0]
    return float(np.exp(-(eigenvalues * np.log(eigenvalues)).sum()))


def class_variance(x: np.ndarray, labels: np.ndarray) -> float:
    """Total variance within a class (trace of its covariance) of x [n,d], averaged over the classes in labels [n].

    Falls where guidance or distillation costs diversity.
    """
    x, labels = check_X_y(x, labels, dtype=np.float64, ensure_min_samples=2)
    classes, counts = np.unique(labels, return_counts=True)
    if counts.min() < 2:
        raise ValueError(f"class {classes[counts.argmin()]} has a single item, which has no variance")
    return float(np.mean([x[labels == label].var(axis=0, ddof=1).sum() for label in classes]))


def nearest_distances(x: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Euclidean distance of each item of x [n,d] to the nearest of training [m,d], float64 [n]; 0 for a copy."""
    x, training = _checked(1, x, training)
    nearest, _ = pairwise_distances_argmin_min(x, training)
    return np.linalg.norm(x - training[nearest], axis=1)  # the search rounds; a copy should be at 0


def memorised(
    generated: np.ndarray, training: np.ndarray, held_out: np.ndarray, quantile: float = QUANTILE
) -> tuple[np.ndarray, float]:
    """(whether each generated item is closer to training than new real items are, bool [n]; the threshold).

    The threshold is the `quantile` of the held-out items' distances to their nearest training items: a model that
    draws new items as reality does is below it with that share. More says that it copies, or that it keeps to the
    dense parts of the data; so hold a student's share against its teacher's. After Meehan et al. 2020, who compare
    the same two sets of distances by their ranks. Raises ValueError unless quantile · count of held-out items ≥ 1.
    """
    (held_out,) = _checked(1, held_out)
    if not 0 < quantile < 1 or quantile * len(held_out) < 1:
        raise ValueError(f"{len(held_out)} held-out items are too few for their {quantile} quantile")
    threshold = float(np.quantile(nearest_distances(held_out, training), quantile))
    return nearest_distances(generated, training) < threshold, threshold


def _checked(least: int, *features: np.ndarray) -> list[np.ndarray]:
    """The features as float64 [n,d], n ≥ least, all of one d. Raises ValueError."""
    arrays: list[np.ndarray] = [check_array(one, dtype=np.float64, ensure_min_samples=least) for one in features]
    if len({array.shape[1] for array in arrays}) > 1:
        raise ValueError(f"features differ in width: {', '.join(str(array.shape[1]) for array in arrays)}")
    return arrays


def _moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean [d] of x, and a root A [d,d] of its covariance AAᵀ."""
    mean = x.mean(axis=0)
    centred = x - mean
    values, vectors = np.linalg.eigh(centred.T @ centred / (len(x) - 1))
    return mean, vectors * np.sqrt(np.maximum(values, 0))  # zeros come out slightly negative


def _within(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean of the kernel over pairs of *different* items: that is what makes it unbiased."""
    kernel = polynomial_kernel(x)
    np.fill_diagonal(kernel, 0)
    return (weights @ kernel * weights).sum(-1) / (weights.sum(-1) ** 2 - np.square(weights).sum(-1))

"""Frechet distance between the Gaussian fits of two feature sets; statistics stream in float64 on the host."""

from typing import NamedTuple

import numpy as np

from jaxdiv import checks
from jaxdiv.typing import ArrayLike


def host_features(function: str, argument: str, value: ArrayLike) -> np.ndarray:
    """The features as a finite float64 matrix ``[N, D]`` on the host, or ``ValueError``."""
    features = np.asarray(value, dtype=np.float64)
    if features.ndim != 2 or features.shape[1] == 0:
        raise checks.fail(function, argument, f"has shape {features.shape}", "shape (any, any >= 1)")
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        bad = int(np.argmin(finite))
        raise checks.fail(
            function,
            argument,
            f"holds NaN or infinity in {int((~finite).sum())} rows, first row {bad}",
            "finite features",
        )
    return features


class FeatureStatistics(NamedTuple):
    r"""Count, mean and scatter of feature vectors, accumulated without losing digits.

    The scatter is :math:`\sum_i (x_i - m)(x_i - m)^T` about the mean of what was seen so far, so a large common offset
    costs no precision (a running sum of :math:`x x^T` would lose it). Blocks are combined as in Chan, Golub and
    LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances" (1979): the mean moves by
    ``delta * n_b / n`` and the scatter gains ``delta delta^T n_a n_b / n``.

    >>> stats = FeatureStatistics.empty(1).update(np.array([[1.0], [2.0]])).update(np.array([[6.0]]))
    >>> stats.count, stats.mean.tolist(), stats.covariance().tolist()
    (3, [3.0], [[7.0]])
    """

    count: int
    """How many vectors were seen."""
    mean: np.ndarray
    """Their mean, ``[D]`` float64."""
    scatter: np.ndarray
    """Sum of outer products about the mean, ``[D, D]`` float64."""

    @classmethod
    def empty(cls, num_features: int) -> "FeatureStatistics":
        """Statistics of no vectors of ``num_features`` entries."""
        checks.check_range("FeatureStatistics.empty", "num_features", num_features, 1)
        return cls(0, np.zeros(num_features), np.zeros((num_features, num_features)))

    def update(self, features: ArrayLike) -> "FeatureStatistics":
        """New statistics that include a block of features.

        Args:
            features: ``[N, D]``, any real dtype; N may be 0.

        Raises:
            ValueError: The shape does not fit, or an entry is NaN or infinite.
        """
        block = host_features("FeatureStatistics.update", "features", features)
        checks.check_shape("FeatureStatistics.update", "features", block, (None, self.mean.size))
        if block.shape[0] == 0:
            return self
        mean = block.mean(axis=0)
        centered = block - mean
        return self.merge(FeatureStatistics(block.shape[0], mean, centered.T @ centered))

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Statistics of both sets together; associative up to rounding, so that processes can reduce in any order."""
        checks.check_shape("FeatureStatistics.merge", "other.mean", other.mean, self.mean.shape)
        if self.count == 0 or other.count == 0:
            return other if self.count == 0 else self
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        scatter = self.scatter + other.scatter + np.outer(delta, delta) * (self.count * (other.count / count))
        return FeatureStatistics(count, mean, scatter)

    def covariance(self) -> np.ndarray:
        """Unbiased covariance ``scatter / (count - 1)``, ``[D, D]`` float64; needs two vectors."""
        if self.count < 2:
            raise checks.fail("FeatureStatistics.covariance", "count", f"is {self.count}", "at least 2 vectors")
        return self.scatter / (self.count - 1)


def _square_root_factor(covariance: np.ndarray) -> np.ndarray:
    """A factor ``F`` with ``F F^T = covariance``; eigenvalues that are rounding noise (negative ones too) become 0."""
    values, vectors = np.linalg.eigh(covariance)
    floor = values[-1] * values.size * np.finfo(np.float64).eps
    return vectors * np.sqrt(np.where(values > floor, values, 0.0))


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    r"""Squared Frechet (2-Wasserstein) distance between the Gaussians fitted to two feature sets.

    :math:`|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a^{1/2} S_b S_a^{1/2})^{1/2})`, symmetric in its arguments. This is what
    FID reports, for whatever features came in.

    The last trace is the sum of singular values of :math:`F_a^T F_b` for any factors :math:`S = F F^T`, which symmetric
    eigendecompositions give. So there is no square root of a nonsymmetric matrix, no complex part to drop, singular
    covariances are fine, and equal sets give 0 to rounding instead of to its square root.

    Small samples: the estimate is biased upwards, by about ``tr(S) (1/n_a + 1/n_b)`` from the means plus a term of the
    same order in ``D/n`` from the covariances, even when both sets have one law. Compare numbers only at equal counts;
    a set of 400 held-out examples is no floor for 5000 generated ones.

    Args:
        a: Statistics of at least two vectors.
        b: Statistics of at least two vectors of the same length.

    Returns:
        A Python float, at least 0.

    Raises:
        ValueError: Lengths differ or a set has fewer than two vectors.

    >>> x = np.array([[-1.0], [1.0]])
    >>> round(frechet_distance_from_features(x, 3.0 * x + 1.0), 12)  # 1^2 + (3 sqrt 2 - sqrt 2)^2
    9.0

    Source: Dowson and Landau, "The Frechet distance between multivariate normal distributions" (1982), eq. 4;
    Heusel et al., "GANs trained by a two time-scale update rule", arXiv 1706.08500, eq. 6.
    """
    checks.check_shape("frechet_distance", "b.mean", b.mean, a.mean.shape)
    for name, stats in (("a", a), ("b", b)):
        if stats.count < 2:
            raise checks.fail("frechet_distance", f"{name}.count", f"is {stats.count}", "at least 2 vectors")
    cov_a, cov_b = a.covariance(), b.covariance()
    overlap = np.linalg.svd(_square_root_factor(cov_a).T @ _square_root_factor(cov_b), compute_uv=False).sum()
    shift = a.mean - b.mean
    return max(0.0, float(shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2.0 * overlap))


def frechet_distance_from_features(x: ArrayLike, y: ArrayLike) -> float:
    """Squared Frechet distance between the Gaussian fits of two feature arrays; see :func:`frechet_distance`.

    Args:
        x: ``[N, D]`` features, N >= 2.
        y: ``[M, D]`` features, M >= 2; M need not equal N.

    Returns:
        A Python float, at least 0.

    Raises:
        ValueError: Wrong shapes, NaN or infinite entries (the argument is named), or fewer than two rows.

    >>> frechet_distance_from_features(np.eye(3), np.eye(3) + 2.0)  # a shift by 2 in three coordinates
    12.0
    """
    function = "frechet_distance_from_features"
    x, y = host_features(function, "x", x), host_features(function, "y", y)
    checks.check_shape(function, "y", y, (None, x.shape[1]))
    for name, value in (("x", x), ("y", y)):
        if value.shape[0] < 2:
            raise checks.fail(function, name, f"has {value.shape[0]} rows", "at least 2")
    empty = FeatureStatistics.empty(x.shape[1])
    return frechet_distance(empty.update(x), empty.update(y))

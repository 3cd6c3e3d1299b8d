"""Nearest-neighbour metrics: precision, recall, density, coverage, and the distance to the nearest reference.

Distances are sums of squared differences in float32, never ``|x|^2 + |y|^2 - 2 x.y``: the latter cancels for close
pairs (exactly the pairs that these metrics look at) and for features far from the origin, and can even turn negative.
Blocks of rows bound the memory at ``64 * M`` floats; the differences are fused into the sum and never stored.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import checks
from jaxdiv.typing import Array, ArrayLike

_ROWS_PER_BLOCK = 64
_REFERENCE_BLOCK_NUMBERS = 2**18


class PrecisionRecall(NamedTuple):
    """Four fractions; all are 1 (density: about 1) when both sets have one law and are well sampled."""

    precision: float
    """Fraction of samples inside the reference's manifold estimate: fidelity."""
    recall: float
    """Fraction of the reference inside the samples' manifold estimate: variety."""
    density: float
    """Mean count of reference balls that hold a sample, over k; may exceed 1. Outliers weigh less than in precision."""
    coverage: float
    """Fraction of reference balls that hold at least one sample."""


def _squared_distances(row: Array, others: Array) -> Array:
    """Squared distance from one vector ``[D]`` to each of ``[M, D]``."""
    return jnp.sum(jnp.square(row - others), axis=-1)


@jax.jit
def _nearest_squared(x: Array, reference: Array) -> Array:
    """Squared distance from each vector to its nearest in the reference, which is taken in blocks: images are long."""
    count, width = reference.shape
    size = min(count, max(1, _REFERENCE_BLOCK_NUMBERS // width))
    # The last block is filled up with vectors at infinite distance.
    filled = jnp.pad(reference, ((0, -count % size), (0, 0)), constant_values=jnp.inf)
    blocks = filled.reshape(-1, size, width)

    def nearest(row: Array) -> Array:
        return jax.lax.map(lambda block: _squared_distances(row, block).min(), blocks).min()

    return jax.lax.map(nearest, x, batch_size=_ROWS_PER_BLOCK)


@partial(jax.jit, static_argnames="num_neighbors")
def _ball_squared_radii(x: Array, num_neighbors: int) -> Array:
    """Squared distance from each vector to its k-th nearest other one (itself, at distance 0, comes first)."""

    def radius(row: Array) -> Array:
        distances = _squared_distances(row, x)
        for _ in range(num_neighbors):  # takes out the nearest k, itself among them; 10 times faster than top_k on CPUs
            distances = distances.at[jnp.argmin(distances)].set(jnp.inf)
        return distances.min()

    return jax.lax.map(radius, x, batch_size=_ROWS_PER_BLOCK)


@jax.jit
def _balls_holding(points: Array, centers: Array, squared_radii: Array) -> Array:
    """For each point the number of balls around the centers that it lies in, boundary included."""

    def count(row: Array) -> Array:
        return jnp.sum(_squared_distances(row, centers) <= squared_radii)

    return jax.lax.map(count, points, batch_size=_ROWS_PER_BLOCK)


def _matrix(function: str, argument: str, value: ArrayLike, min_rows: int) -> Array:
    """A finite float32 matrix ``[N, D]``; trailing dimensions are flattened."""
    array = jnp.asarray(value)
    if array.ndim < 2 or array.shape[0] < min_rows:
        raise checks.fail(function, argument, f"has shape {array.shape}", f"shape (any >= {min_rows}, ...)")
    checks.check_floating(function, **{argument: array})
    array = array.reshape(array.shape[0], -1).astype(jnp.float32)
    if not bool(jnp.isfinite(array).all()):
        raise checks.fail(function, argument, "holds NaN or infinity", "finite entries")
    return array


def precision_recall(samples: ArrayLike, reference: ArrayLike, *, num_neighbors: int = 3) -> PrecisionRecall:
    r"""Improved precision and recall, density and coverage of samples against a reference.

    A set's manifold estimate is the union of closed balls around its members, each reaching to its k-th nearest
    other member: :math:`precision = \frac1N \sum_i 1[\exists j: |s_i - r_j| \le \rho_j]`, recall with roles swapped,
    :math:`density = \frac1{kN} \sum_{ij} 1[|s_i - r_j| \le \rho_j]`,
    :math:`coverage = \frac1M \sum_j 1[\min_i |s_i - r_j| \le \rho_j]`.

    Balls shrink as a set grows, so compare numbers only at equal N and M (the papers take N = M). Density and coverage
    were proposed with k = 5 and open balls; here all four share k and the boundary counts, which differs only at ties.
    Runs on the host's values: not for use inside ``jit``.

    Args:
        samples: ``[N, ...]`` floating features, N > num_neighbors; trailing dimensions are flattened.
        reference: ``[M, ...]`` floating features of the same trailing size, M > num_neighbors.
        num_neighbors: k, at least 1.

    Returns:
        A :class:`PrecisionRecall` of Python floats.

    Raises:
        ValueError: Wrong shapes, too few rows, NaN or infinite entries.

    >>> reference = np.array([[0.0], [1.0], [10.0], [11.0]], np.float32)
    >>> result = precision_recall(reference[:2] + 0.1, reference, num_neighbors=1)  # one of two clusters is dropped
    >>> result.precision, result.recall
    (1.0, 0.5)

    Source: Kynkaanniemi et al., "Improved precision and recall metric for assessing generative models",
    arXiv 1904.06991, eqs. 1-2; Naeem et al., "Reliable fidelity and diversity metrics for generative models",
    arXiv 2002.09797, eqs. 3-4.
    """
    function = "precision_recall"
    checks.check_range(function, "num_neighbors", num_neighbors, 1)
    samples = _matrix(function, "samples", samples, num_neighbors + 1)
    reference = _matrix(function, "reference", reference, num_neighbors + 1)
    checks.check_shape(function, "samples", samples, (None, reference.shape[1]))
    sample_radii = _ball_squared_radii(samples, num_neighbors)
    reference_radii = _ball_squared_radii(reference, num_neighbors)
    around_samples = np.asarray(_balls_holding(samples, reference, reference_radii))
    around_reference = np.asarray(_balls_holding(reference, samples, sample_radii))
    covered = np.asarray(_nearest_squared(reference, samples) <= reference_radii)
    return PrecisionRecall(
        precision=float((around_samples > 0).mean()),
        recall=float((around_reference > 0).mean()),
        density=float(around_samples.mean() / num_neighbors),
        coverage=float(covered.mean()),
    )


def nearest_neighbor_distance(x: ArrayLike, reference: ArrayLike) -> Array:
    r"""Distance from each example to its nearest reference, :math:`\min_j |x_i - r_j|`, Euclidean.

    Against memorisation: when the median over samples is clearly below that of held-out data against the same
    reference, the generator copies. An exact copy gives exactly 0.

    Args:
        x: ``[N, ...]`` floating examples (images or features), N >= 1; trailing dimensions are flattened.
        reference: ``[M, ...]`` floating, the same trailing size, M >= 1.

    Returns:
        ``[N]`` float32 distances.

    Raises:
        ValueError: Wrong shapes, no rows, NaN or infinite entries.

    >>> nearest_neighbor_distance(np.array([[0.0, 3.0]]), np.array([[4.0, 0.0], [0.0, 9.0]])).tolist()
    [5.0]
    """
    function = "nearest_neighbor_distance"
    x, reference = _matrix(function, "x", x, 1), _matrix(function, "reference", reference, 1)
    checks.check_shape(function, "x", x, (None, reference.shape[1]))
    return jnp.sqrt(_nearest_squared(x, reference))

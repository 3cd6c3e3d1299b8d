"""The local nonuniformity correction of the nearest-neighbour estimate, for strongly dependent variables."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_integer, check_key, check_real, check_scalar, fail
from jaxdiv.information.arguments import paired_samples
from jaxdiv.information.balls import check_neighbors, nan_unless_finite
from jaxdiv.information.estimate import Estimate, make_estimate
from jaxdiv.information.kraskov import ksg
from jaxdiv.information.neighbors import find_neighbors
from jaxdiv.typing import Array, ArrayLike, PRNGKey


def _log_volume_ratio(x: Array, y: Array, varies: Array) -> Array:
    """Log of the tilted box's volume over the cubes', for offsets ``[k, d_x]`` and ``[k, d_y]`` of neighbours."""
    d_x = x.shape[1]
    both = jnp.concatenate([x, y], axis=1)
    d = both.shape[1]
    cubes = jnp.sum(varies[:d_x]) * jnp.log(jnp.max(jnp.abs(x)))
    cubes += jnp.sum(varies[d_x:]) * jnp.log(jnp.max(jnp.abs(y)))
    size = jnp.max(jnp.abs(both))
    unit = both / jnp.where(size > 0, size, 1.0)
    scatter = jnp.matmul(unit.T, unit, precision="highest")
    # Columns that never vary become the last axes, alone, and leave the box.
    scatter += jnp.diag(jnp.where(varies, 0.0, 1.0 + 2.0 * jnp.trace(scatter)))
    axes = jnp.linalg.eigh(scatter)[1]
    extents = jnp.max(jnp.abs(jnp.matmul(both, axes, precision="highest")), axis=0)
    tilted = jnp.sum(jnp.where(jnp.arange(d) < jnp.sum(varies), jnp.log(extents), 0.0))
    return jnp.where(jnp.isfinite(cubes), tilted - cubes, 0.0)


def nonuniformity_threshold(
    key: PRNGKey, *, k: int, dims: Sequence[int] = (1, 1), level: float = 5e-3, num_samples: int = 100_000
) -> Array:
    r"""The ratio of volumes that `lnc` falls below with probability ``level`` where the density is locally uniform.

    Simulated: the k neighbours of a point are uniform in a cube around it, and their distribution's scale does not
    matter. Its own randomness is about 1 / sqrt(level num_samples), relative, in the level.

    Args:
        key: a typed key.
        k: neighbours, at least d_x + d_y.
        dims: d_x and d_y.
        level: the probability, in (0, 1); 5e-3 in the paper.
        num_samples: balls drawn.

    Returns:
        A float32 scalar in (0, 1].

    Raises:
        ValueError: a wrong key, k, dims, level or num_samples.

    Source: Gao, Ver Steeg, Galstyan, "Efficient estimation of mutual information for strongly dependent variables"
    (arXiv:1411.2003), section 4.2 and its table of alpha_{k,d}.

    >>> threshold = nonuniformity_threshold(jax.random.key(0), k=5, num_samples=2000)
    >>> 0.15 < float(threshold) < 0.45
    True
    """
    function = "nonuniformity_threshold"
    check_key(function, key)
    if not isinstance(dims, Sequence) or isinstance(dims, str) or len(dims) != 2:
        raise fail(function, "dims", f"is {dims!r}", "two integers, d_x and d_y")
    for dim in dims:
        check_integer(function, "dims", dim, 1)
    d_x, d = int(dims[0]), int(sum(dims))
    check_integer(function, "k", k, d)
    check_real(function, "level", level, 0.0, 1.0, open_low=True, open_high=True)
    check_integer(function, "num_samples", num_samples, 1)

    def log_ratio(key):
        ball = jax.random.uniform(key, (int(k), d), jnp.float32, -1.0, 1.0)
        return _log_volume_ratio(ball[:, :d_x], ball[:, d_x:], jnp.ones(d, bool))

    # At most 1: the cubes have more volume, but a box tilted by a diagonal may stick out of them.
    found = jax.lax.map(log_ratio, jax.random.split(key, int(num_samples)), batch_size=4096)
    return jnp.minimum(jnp.exp(jnp.quantile(found, level)), 1.0)


def lnc(
    x: ArrayLike, y: ArrayLike, *, k: int = 5, threshold: float | ArrayLike = 0.25, tile: int | None = None
) -> Estimate:
    r"""The second form of `ksg` less <log(W_i / V_i) where W_i / V_i < threshold>: joint densities corrected.

    V_i is the volume of the cubes that hold the k neighbours of a point, one cube in x times one in y; W_i that of the
    smallest box around the point along the neighbours' principal axes (eigenvectors of their scatter about the point).
    Near a curve or a surface V_i is mostly empty, and `ksg` cannot see more than about log N nats; W_i can. It trades
    that for noise: below the threshold the box of few points is too small also by chance, which adds up to some tenths
    of a nat. Estimates of weakly dependent data are left as they are.

    The correction takes the marginals as filling their spaces: use it where x and y are each a scalar or have a density
    that is smooth at the scale of the k neighbours. Exactly dependent columns within x alone would count as dependence.

    Args:
        x: ``[N, d_x]`` or ``[N]`` floating, N > k.
        y: ``[N, d_y]`` or ``[N]`` floating.
        k: neighbours, at least d_x + d_y so that the box has volume; more make the axes certain and the box coarse.
        threshold: a number in [0, 1] or a scalar array; 0 corrects nothing. `nonuniformity_threshold` computes it for k
            and the dimensions: 0.33 for k = 5 and two scalars, which the default is well below.
        tile: rows of distances that exist at once, as in `find_neighbors`.

    Returns:
        A plug-in `Estimate`, float32 (float64 where an input is), NaN if a sample is not finite; 0 if a variable is
        constant. Its ``info``: ``local [N]`` terms of the mean and ``num_corrected``, the points with a correction. Not
        differentiated: inputs are stopped.

    Raises:
        ValueError: wrong shapes, dtypes, k or threshold.

    Source: Gao, Ver Steeg, Galstyan, "Efficient estimation of mutual information for strongly dependent variables"
    (arXiv:1411.2003), equation 10 and algorithm 1.

    >>> x = jnp.arange(6.0)
    >>> estimate = lnc(x, x**2, k=2, threshold=0.0)
    >>> bool(estimate.value == ksg(x, x**2, k=2, form=2).value), int(estimate.info["num_corrected"])
    (True, 0)
    """
    function = "lnc"
    x, y = (jax.lax.stop_gradient(samples) for samples in paired_samples(function, x=x, y=y))
    count, d_x = x.shape
    check_neighbors(function, count, k, tile)
    check_integer(function, "k", k, d_x + y.shape[1])
    check_scalar(function, "threshold", threshold, 0.0, 1.0)
    base = ksg(x, y, k=k, form=2, tile=tile).info["local"]
    nearest = find_neighbors([x, y], k=int(k), tile=tile).indices
    varies: Any = [jnp.any(samples != samples[:1], axis=0) for samples in (x, y)]
    offsets = [samples[nearest] - samples[:, None] for samples in (x, y)]
    ratio = jax.vmap(_log_volume_ratio, in_axes=(0, 0, None))(offsets[0], offsets[1], jnp.concatenate(varies))
    below = ratio < jnp.log(jnp.asarray(threshold, x.dtype))
    local = base - jnp.where(below, ratio, 0.0)
    dependent = jnp.any(varies[0]) & jnp.any(varies[1])
    local = jnp.where(dependent, local, 0.0)
    value = jnp.mean(local) + nan_unless_finite(x, y)
    corrected = jnp.sum(below & dependent, dtype=jnp.int32)
    return make_estimate(value, kind="plug-in", local=local, num_corrected=corrected)

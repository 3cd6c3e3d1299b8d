"""Sliced and k-sliced mutual information: the mean over random projections, which does not grow with the dimension."""

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_choice, check_integer, check_key
from jaxdiv.information.arguments import paired_samples
from jaxdiv.information.balls import check_neighbors, nan_unless_finite
from jaxdiv.information.estimate import Estimate, make_estimate
from jaxdiv.information.kraskov import ksg
from jaxdiv.typing import Array, ArrayLike, PRNGKey


def _frames(key: PRNGKey, num: int, size: int, dim: int, dtype: jnp.dtype) -> Array:
    """Uniform orthonormal frames ``[num, size, dim]`` up to the signs of columns, which no base depends on."""
    return jnp.linalg.qr(jax.random.normal(key, (num, size, dim), dtype))[0]


def _whitener(covariance: Array) -> Array:
    """The pseudo-inverse square root: directions without variance, up to rounding, become 0."""
    variances, axes = jnp.linalg.eigh(covariance)
    used = variances > 10.0 * variances.shape[0] * jnp.finfo(variances.dtype).eps * variances[-1]
    return axes * jnp.where(used, jnp.where(used, variances, 1.0) ** -0.5, 0.0)


def _gaussian(within_x: Array, between: Array, within_y: Array) -> Array:
    """-1/2 sum log(1 - rho^2) over the canonical correlations."""
    left = jnp.matmul(_whitener(within_x).T, between, precision="highest")
    correlations = jnp.linalg.svd(jnp.matmul(left, _whitener(within_y), precision="highest"), compute_uv=False)
    return -0.5 * jnp.sum(jnp.log1p(-jnp.square(jnp.minimum(correlations, 1.0))))


def sliced_mutual_information(
    x: ArrayLike,
    y: ArrayLike,
    *,
    key: PRNGKey,
    num_projections: int = 128,
    dim: int = 1,
    base: str = "ksg",
    k: int = 5,
    tile: int | None = None,
) -> Estimate:
    r"""SI_dim(X; Y) = E I(A^T X; B^T Y) over independent uniform orthonormal frames A ``[d_x, dim]``, B ``[d_y, dim]``.

    It is 0 exactly for independent variables and never above I(X; Y), but it is no estimate of it: it falls like
    dim^2 / (d_x d_y) for weak dependence in many dimensions. It changes under bijections and scales of columns; not
    under rotations. With dim = d_x = d_y it is I(X; Y).

    Args:
        x: ``[N, d_x]`` or ``[N]`` floating.
        y: ``[N, d_y]`` or ``[N]`` floating.
        key: a typed key, for the frames.
        num_projections: frames averaged; one pair after the other for "ksg", at once for "gaussian".
        dim: the frames' columns, from 1 (sliced) to min(d_x, d_y) (k-sliced).
        base: "ksg", the first form of `ksg` between projections; "gaussian", -1/2 log(1 - rho^2) summed over their
            sample canonical correlations, which is infinite where one of them is 1.
        k: neighbours of "ksg"; N > k.
        tile: as in `ksg`.

    Returns:
        A "not MI" `Estimate`, float32 (float64 where an input is), NaN if a sample is not finite. ``stderr`` is that of
        the mean over projections and leaves out the samples' randomness; ``info["local"]`` are the values,
        ``[num_projections]``. With "gaussian" differentiable at dim = 1, and where covariances have distinct
        eigenvalues; with "ksg" the derivative is 0.

    Raises:
        ValueError: wrong shapes, dtypes, key, counts or base.

    Source: Goldfeld and Greenewald, "Sliced mutual information: a scalable measure of statistical dependence"
    (arXiv:2110.05279), definition 1; Goldfeld, Greenewald, Nuradha, Reeves, "k-Sliced mutual information"
    (arXiv:2206.08526).

    >>> x = jnp.array([1.0, 1.0, -1.0, -1.0])
    >>> y = jnp.array([1.0, 1.0, 1.0, -1.0])  # correlation 1 / sqrt(3); scalars have one projection, up to its sign
    >>> estimate = sliced_mutual_information(x, y, key=jax.random.key(0), num_projections=2, base="gaussian")
    >>> round(float(estimate), 6)  # -1/2 log(2/3)
    0.202733
    """
    function = "sliced_mutual_information"
    x, y = paired_samples(function, x=x, y=y)
    check_key(function, key)
    check_integer(function, "num_projections", num_projections, 1)
    check_integer(function, "dim", dim, 1, min(x.shape[1], y.shape[1]))
    check_choice(function, "base", base, ("ksg", "gaussian"))
    if base == "ksg":
        check_neighbors(function, x.shape[0], k, tile)
    # From the first row: columns that are constant become exactly 0, whatever their mean rounds to.
    x, y = x - x[:1], y - y[:1]
    x, y = x - jnp.mean(x, axis=0), y - jnp.mean(y, axis=0)
    key_x, key_y = jax.random.split(key)
    frames_x = _frames(key_x, int(num_projections), x.shape[1], int(dim), x.dtype)
    frames_y = _frames(key_y, int(num_projections), y.shape[1], int(dim), x.dtype)
    if base == "ksg":

        def project(frames):
            a, b = (jnp.matmul(s, f, precision="highest") for s, f in zip((x, y), frames, strict=True))
            return ksg(a, b, k=k, tile=tile).value

        local = jax.lax.map(project, jax.lax.stop_gradient((frames_x, frames_y)))
    else:
        moments = [jnp.matmul(a.T, b, precision="highest") for a, b in ((x, x), (x, y), (y, y))]

        def project_moments(a, b):
            sides = ((a, a), (a, b), (b, b))
            projected = [
                jnp.matmul(jnp.matmul(left.T, moment, precision="highest"), right, precision="highest")
                for moment, (left, right) in zip(moments, sides, strict=True)
            ]
            return _gaussian(*projected)

        local = jax.vmap(project_moments)(frames_x, frames_y)
    value = jnp.mean(local) + nan_unless_finite(x, y)
    return make_estimate(value, kind="not MI", local=local)

"""Mutual information of many-dimensional variables by way of few: compress, whiten, estimate from neighbours."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma

from jaxdiv.checks import check_choice, check_flag, check_integer, fail, floating_array
from jaxdiv.information.arguments import paired_samples
from jaxdiv.information.balls import check_neighbors, nan_unless_finite
from jaxdiv.information.estimate import Estimate, make_estimate
from jaxdiv.information.kozachenko import neighbor_weights
from jaxdiv.information.kraskov import ksg
from jaxdiv.information.neighbors import find_neighbors
from jaxdiv.numerics import promote
from jaxdiv.typing import Array, ArrayLike

Encoder = int | Callable[[Array], Array] | None


class PrincipalComponents(NamedTuple):
    """An affine map onto the directions of largest variance."""

    mean: Array
    """``[d]``, subtracted first."""
    directions: Array
    """``[d, num_components]``, orthonormal, of falling variance; each is determined up to its sign."""
    variances: Array
    """``[num_components]``, of the components, with N - 1."""
    explained: Array
    """The components' share of the total variance, in [0, 1]; 1 where there is none."""

    def __call__(self, x: Array) -> Array:
        """Components ``[..., num_components]`` of rows ``[..., d]``."""
        return jnp.matmul(x - self.mean, self.directions, precision="highest")


def principal_components(x: ArrayLike, *, num_components: int) -> PrincipalComponents:
    """The directions of largest variance of a sample, from the smaller of its two scatter matrices.

    Args:
        x: ``[N, d]`` or ``[N]`` floating, N >= 2.
        num_components: from 1 to min(N - 1, d).

    Returns:
        `PrincipalComponents`, float32 (float64 where x is); call it on rows to compress them. Directions whose standard
        deviation is below about 2e-3 of the largest (1e-7 in float64) are lost to rounding, and have variance 0.

    Raises:
        ValueError: wrong shapes, dtypes or num_components.

    >>> pca = principal_components(jnp.array([[3.0, 4.0], [-3.0, -4.0], [0.0, 0.0]]), num_components=1)
    >>> float(pca.variances[0]), round(abs(float(pca(jnp.array([3.0, 4.0]))[0])), 5)  # (25 + 25) / 2
    (25.0, 5.0)
    """
    function = "principal_components"
    (x,) = paired_samples(function, x=x)
    count, d = x.shape
    check_integer(function, "num_components", num_components, 1, min(count - 1, d))
    # From the first row: columns that are constant become exactly 0, whatever their mean rounds to.
    shift = jnp.mean(x - x[:1], axis=0)
    mean, centered = x[0] + shift, x - x[:1] - shift
    wide = d > count
    scatter = jnp.matmul(*((centered, centered.T) if wide else (centered.T, centered)), precision="highest")
    values, axes = jnp.linalg.eigh(scatter)
    values = values[::-1][:num_components]
    values = jnp.where(values <= 30.0 * jnp.finfo(x.dtype).eps * values[0], 0.0, values)  # NaN stays NaN
    directions = axes[:, ::-1][:, :num_components]
    if wide:  # the rows' combinations; QR gives directions without variance a unit vector too
        directions = jnp.linalg.qr(jnp.matmul(centered.T, directions, precision="highest"))[0]
    total = jnp.trace(scatter)
    explained = jnp.where(total == 0, 1.0, jnp.sum(values) / jnp.where(total == 0, 1.0, total))
    return PrincipalComponents(mean, directions, values / (count - 1), explained)


def _whiten(x: Array) -> tuple[Array, Array]:
    """Uncorrelated columns of variance 1, then columns of 0 for the dimensions that x has not; and its rank."""
    x = x - x[:1]
    x = x - jnp.mean(x, axis=0)
    size = jnp.max(jnp.abs(x), axis=0)
    x = x / jnp.where(size > 0, size, 1.0)
    _, scales, axes = jnp.linalg.svd(jnp.linalg.qr(x, mode="r"), full_matrices=False)
    used = scales > 10.0 * x.shape[1] * jnp.finfo(x.dtype).eps * scales[0]
    factors = jnp.where(used, x.shape[0] ** 0.5 / jnp.where(used, scales, 1.0), 0.0)
    # Sums and no product of matrices, which may round equal rows differently: duplicates stay duplicates.
    return jnp.sum(x[:, :, None] * (axes.T * factors), axis=1), jnp.sum(used)


def _entropy_terms(x: Array, rank: Array, k: int, weighted: bool) -> Array:
    """The terms ``[N]`` of `kozachenko_leonenko` in ``rank`` dimensions: the other columns are 0, in no distance."""
    weights = neighbor_weights(k, x.shape[1]) if weighted else np.eye(k)[-1]
    used = np.flatnonzero(weights)
    distances = find_neighbors([x], k=k).distances[:, used]
    orders = digamma(jnp.asarray(x.shape[0], x.dtype)) - digamma(jnp.asarray(used + 1, x.dtype))
    local = jnp.sum(jnp.asarray(weights[used], x.dtype) * (orders + rank * jnp.log(2.0 * distances)), axis=1)
    return jnp.where(rank > 0, local, 0.0)


def _encode(function: str, name: str, samples: ArrayLike, encoder: Encoder) -> tuple[Array, Array, Array]:
    """Codes, the samples they stand for, and the share of variance kept (NaN where no components were taken)."""
    array = promote(floating_array(function, name, samples))
    unknown = jnp.full((), jnp.nan, array.dtype)
    if array.ndim == 0 or array.size == 0:
        raise fail(function, name, f"has shape {array.shape}", "a row with entries per sample")
    if callable(encoder):
        return encoder(array), array, unknown
    flat = array.reshape(array.shape[0], -1)
    if encoder is None:
        return flat, array, unknown
    check_integer(function, f"encode_{name}", encoder, 1, min(flat.shape[0] - 1, flat.shape[-1]))
    pca = principal_components(flat, num_components=int(encoder))
    return jnp.where(pca.variances > 0, pca(flat), 0.0), array, pca.explained


def latent_mutual_information(
    x: ArrayLike,
    y: ArrayLike,
    *,
    encode_x: Encoder = None,
    encode_y: Encoder = None,
    estimator: str = "ksg",
    k: int = 5,
    weighted: bool = False,
    tile: int | None = None,
) -> Estimate:
    r"""I(f(X); g(Y)) by neighbours, with f and g encoders to few dimensions, whose codes are whitened first.

    By the data processing inequality I(f(X); g(Y)) <= I(X; Y), so what compression loses makes the value smaller; the
    estimate of it has its own bias, of either sign, and is no bound. Encoders fitted on the samples measured may also
    find dependence that is not there: fit them on others, or without looking at the pairing, as components are.

    Between deterministic functions of continuous data I is infinite or undefined: a layer L of a network that is no
    noisy channel should be measured as L + sigma noise, with the sigma told.

    Args:
        x: floating ``[N, ...]``, as its encoder takes it; without one, or with an integer, flattened to ``[N, d]``.
        y: floating ``[N, ...]``, likewise.
        encode_x: an integer, so many `principal_components` of these samples; a function of all samples to
            ``[N, d']``, such as a trained encoder; None, the samples as they are.
        encode_y: likewise.
        estimator: "ksg", its first form; "entropies", h(f(X)) + h(g(Y)) - h(f(X), g(Y)) by `kozachenko_leonenko`, whose
            biases do not cancel, and which is NaN where samples have k duplicates.
        k: neighbours; N > k, and at least the joint dimension where weighted.
        weighted: the entropies' weighted form, which removes bias where the codes have together 4 dimensions or more.
        tile: as in `ksg`, for it alone.

    Returns:
        A plug-in `Estimate`, float32 (float64 where an input is), NaN if a sample or code is not finite. Dimensions
        that the codes do not fill (constant or redundant columns) are dropped: 0 where one code is constant. ``info``:
        ``local [N]`` terms of the mean; ``explained_x``, ``explained_y``, the share of variance in the components, NaN
        without; ``rank_x``, ``rank_y``, dimensions filled. The derivative is 0: codes are stopped.

    Raises:
        ValueError: wrong shapes, dtypes, encoders, estimator or k.

    Source: Butakov et al., "Information bottleneck analysis of deep neural networks via lossy compression"
    (arXiv:2305.08013), section 4; Gowri et al., "Approximating mutual information of high-dimensional variables using
    learned representations" (arXiv:2409.02732).

    >>> x = jnp.array([0.0, 1.0, 3.0, 7.0])
    >>> wide = jnp.stack([x, 2.0 * x, -x], axis=1)  # one dimension in three columns
    >>> estimate = latent_mutual_information(wide, x**2, encode_x=2, k=1)
    >>> round(float(estimate.info["explained_x"]), 5), int(estimate.info["rank_x"])
    (1.0, 1)
    """
    function = "latent_mutual_information"
    check_choice(function, "estimator", estimator, ("ksg", "entropies"))
    check_flag(function, "weighted", weighted)
    for name, encoder in (("encode_x", encode_x), ("encode_y", encode_y)):
        if encoder is not None and not callable(encoder):
            check_integer(function, name, encoder, 1)
    codes, samples, explained = zip(
        _encode(function, "x", x, encode_x), _encode(function, "y", y, encode_y), strict=True
    )
    names = ["encode_x(x)" if callable(encode_x) else "x", "encode_y(y)" if callable(encode_y) else "y"]
    latents: Any = jax.lax.stop_gradient(paired_samples(function, **dict(zip(names, codes, strict=True))))
    check_neighbors(function, latents[0].shape[0], k, tile)
    (a, rank_a), (b, rank_b) = (_whiten(z) for z in latents)
    if estimator == "ksg":
        local = ksg(a, b, k=k, tile=tile).info["local"]
    else:
        if weighted:
            check_integer(function, "k", k, a.shape[1] + b.shape[1])
        both = jnp.concatenate([a, b], axis=1)
        parts = ((a, rank_a), (b, rank_b), (both, rank_a + rank_b))
        h_a, h_b, h_ab = (_entropy_terms(z, rank, int(k), bool(weighted)) for z, rank in parts)
        local = h_a + h_b - h_ab
    value = jnp.mean(local) + nan_unless_finite(*jax.lax.stop_gradient(samples), *latents).astype(local.dtype)
    return make_estimate(
        value,
        kind="plug-in",
        local=local,
        explained_x=explained[0],
        explained_y=explained[1],
        rank_x=rank_a,
        rank_y=rank_b,
    )

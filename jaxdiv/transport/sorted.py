"""Exact optimal transport on the line, by sorting."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import check_real, fail, floating_array
from jaxdiv.numerics import promote, vary_alike
from jaxdiv.transport.cost import magnitude
from jaxdiv.transport.solver import given_log_weights
from jaxdiv.typing import Array, ArrayLike


def transport_cost_1d(
    *,
    p_samples: ArrayLike,
    q_samples: ArrayLike,
    p_log_weights: ArrayLike | None = None,
    q_log_weights: ArrayLike | None = None,
    order: float = 2.0,
) -> Array:
    r"""``W_k^k(p, q) = int_0^1 |F_p^{-1}(u) - F_q^{-1}(u)|^k du`` for order k, exact, between weighted samples.

    The quantile functions are steps; the integral is a sum over the n + m - 1 intervals between their jumps.

    Derivatives: exact in samples and weights wherever no two points of one sample coincide; for order 1 the derivative
    of ``|0|`` is 0.

    Args:
        p_samples: numbers ``[..., n]``, floating, in any order.
        q_samples: numbers ``[..., m]``, same batch axes.
        p_log_weights: logarithms of p's weights ``[..., n]``, total mass 1; -inf leaves a point out. None is uniform.
        q_log_weights: the same for q ``[..., m]``.
        order: the power k of the distance, a Python number, at least 1.

    Returns:
        ``[...]``, one value per pair of samples, float32 (float64 if a sample is): the distance to the power k.

    Raises:
        ValueError: wrong dtype, rank or shape, an empty axis, an order below 1, log-weights of a mass above 1.

    >>> float(transport_cost_1d(p_samples=[3.0, 1.0], q_samples=[2.0, 5.0]))  # (1 - 2)^2 and (3 - 5)^2
    2.5

    Source: Peyre and Cuturi, "Computational optimal transport", arXiv 1803.00567, remark 2.30.
    """
    function = "transport_cost_1d"
    check_real(function, "order", order, 1.0, np.inf, open_high=True)
    x, y = (promote(floating_array(function, n, v)) for n, v in (("p_samples", p_samples), ("q_samples", q_samples)))
    for name, value in (("p_samples", x), ("q_samples", y)):
        if value.ndim < 1 or 0 in value.shape:
            raise fail(function, name, f"has shape {value.shape}", "shape (..., points), no size 0")
    if y.shape[:-1] != x.shape[:-1]:
        raise fail(function, "q_samples", f"has shape {y.shape}", f"p_samples' batch axes {x.shape[:-1]}")
    dtype, batch = jnp.result_type(x, y), x.shape[:-1]
    parts = [x.astype(dtype), y.astype(dtype)]
    for name, value, cloud in (("p_log_weights", p_log_weights, x), ("q_log_weights", q_log_weights, y)):
        if value is None:
            parts.append(jnp.full(cloud.shape, 1.0 / cloud.shape[-1], dtype))
        else:
            parts.append(jnp.exp(given_log_weights(function, name, value, cloud.shape).astype(dtype)))
    # The transpose of a gather from a replicated array by sharded places would forget the sum over the devices.
    flat = [part.reshape(-1, part.shape[-1]) for part in vary_alike(parts)]
    return jax.vmap(lambda *one: _one_pair(*one, order=float(order)))(*flat).reshape(batch)


def _one_pair(x: Array, y: Array, a: Array, b: Array, *, order: float) -> Array:
    by_x, by_y = jnp.argsort(x), jnp.argsort(y)
    ends_x, ends_y = jnp.cumsum(a[by_x])[:-1], jnp.cumsum(b[by_y])[:-1]  # the last is 1 in both
    inner = jnp.sort(jnp.concatenate([ends_x, ends_y]))
    levels = jnp.concatenate([jnp.zeros(1, x.dtype), inner, jnp.ones(1, x.dtype)])
    middle = (levels[1:] + levels[:-1]) / 2.0  # inside an interval, where rounding cannot pick the wrong step

    def quantiles(values: Array, weights: Array, ends: Array) -> Array:
        # The last end may fall short of 1, and no point of weight 0 is to have what is left.
        last = jnp.max(jnp.where(weights > 0.0, jnp.arange(len(weights)), 0))
        return values[jnp.minimum(jnp.searchsorted(ends, middle), last)]

    gap = quantiles(x[by_x], a[by_x], ends_x) - quantiles(y[by_y], b[by_y], ends_y)
    return jnp.sum((levels[1:] - levels[:-1]) * magnitude(gap) ** order)

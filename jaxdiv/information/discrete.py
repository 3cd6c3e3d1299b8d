"""Mutual information of a joint table, exactly."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiv.checks import fail, floating_array
from jaxdiv.information.estimate import Estimate, make_estimate
from jaxdiv.numerics import power_generator, promote


def discrete_mutual_information(p_xy: Any) -> Estimate:
    r"""I(X; Y) of a joint law on a finite set, exact to rounding.

    Summed as p(x) p(y) f(r) with r = p(x, y) / (p(x) p(y)) and f(r) = r log r - r + 1 >= 0, which equals the sum of
    p(x, y) log r and cancels nothing near independence. Cells of probability 0 count as their limit and get no
    gradient; elsewhere it is differentiable. A table of counts makes it the plug-in estimate, biased upward by about
    (|X| - 1)(|Y| - 1) / (2 N).

    Args:
        p_xy: [..., |X|, |Y|] floating, entries at least 0; divided by its sum over the last two axes.

    Returns:
        An `Estimate` [...] of kind "plug-in" with ceiling log min(|X|, |Y|), float32 (float64 where p_xy is). NaN where
        an entry is negative or NaN, or all are 0.

    Raises:
        ValueError: not floating, or no table with entries.

    Source: Cover and Thomas, "Elements of information theory" (2006), equation 2.28.

    >>> flip = jnp.array([[0.45, 0.05], [0.05, 0.45]])  # log 2 - H(0.1)
    >>> round(float(discrete_mutual_information(flip)), 6)
    0.368064
    """
    function = "discrete_mutual_information"
    table = promote(floating_array(function, "p_xy", p_xy))
    if table.ndim < 2 or 0 in table.shape[-2:]:
        raise fail(
            "discrete_mutual_information", "p_xy", f"has shape {table.shape}", "shape [..., |X|, |Y|] with entries"
        )
    table = table / jnp.sum(table, axis=(-2, -1), keepdims=True)
    p_x, p_y = jnp.sum(table, axis=-1, keepdims=True), jnp.sum(table, axis=-2, keepdims=True)
    product, empty = p_x * p_y, table == 0.0
    some, p_x, p_y = (jnp.where(empty, 1.0, x) for x in (table, p_x, p_y))
    log_ratio = jnp.log(some / p_x) - jnp.log(p_y)  # the product may be below every float where they are not
    near = product * power_generator(jnp.minimum(log_ratio, 1.0), 1.0)
    terms = jnp.where(log_ratio > 1.0, table * (log_ratio - 1.0) + product, near)
    terms = jnp.where(empty, product, terms)
    ceiling = np.log(min(table.shape[-2:]))
    return make_estimate(jnp.sum(terms, axis=(-2, -1)), kind="plug-in", ceiling=ceiling)

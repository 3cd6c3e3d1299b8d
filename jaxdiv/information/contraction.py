"""How much of a divergence a noisy layer lets through: coefficients of strong data-processing inequalities.

A channel with coefficient eta <= 1 has KL(K p || K q) <= eta KL(p || q) for all p and q, hence I(U; T) <= eta I(U; X)
for U - X - T. A deterministic map may follow: it adds a factor of at most 1. Layers in a row multiply.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_integer, check_scalar, fail, floating_array
from jaxdiv.numerics import promote
from jaxdiv.typing import Array


def _probability(function: str, value: Any) -> Array:
    check_scalar(function, "probability", value, 0.0, 1.0)
    return promote(jnp.asarray(value, None if hasattr(value, "dtype") else float))


def dropout_contraction(*, probability: Any, width: int) -> Array:
    r"""The coefficient of dropout, 1 - probability^width: something comes through unless every unit is dropped.

    A dropped unit tells at most that it was dropped, so the channel is no better than width independent erasures, and
    those let the divergence of the surviving set S through, KL(p_S || q_S) <= KL(p || q), or nothing. Equality where
    the units are copies of each other.

    Args:
        probability: a number in [0, 1] or a floating scalar array, with which a unit is set to 0.
        width: the number of units.

    Returns:
        A scalar, float32 (float64 for a float64 array, or a Python number under x64), differentiable in probability.

    Raises:
        ValueError: a probability outside [0, 1], no scalar, or a width below 1.

    Source: derived as above; the layer that He, Goldfeld, "Information-theoretic generalization bounds for deep neural
    networks" (arXiv:2404.03176) treat.

    >>> float(dropout_contraction(probability=0.5, width=3))
    0.875
    """
    check_integer("dropout_contraction", "width", width, 1)
    return 1.0 - _probability("dropout_contraction", probability) ** int(width)


def dropconnect_contraction(*, probability: Any, num_inputs: int, num_outputs: int) -> Array:
    r"""The coefficient of DropConnect, 1 - probability^(num_inputs num_outputs): every weight is dropped on its own.

    The outputs are a function of independent erasures, one per weight, of the input that the weight reads.

    Args:
        probability: a number in [0, 1] or a floating scalar array, with which a weight is set to 0.
        num_inputs: units that the layer reads.
        num_outputs: units that it makes.

    Returns:
        A scalar, float32 (float64 for a float64 array, or a Python number under x64), differentiable in probability.

    Raises:
        ValueError: a probability outside [0, 1], no scalar, or a count below 1.

    Source: derived as above; the layer that He, Goldfeld (arXiv:2404.03176) treat.

    >>> float(dropconnect_contraction(probability=0.5, num_inputs=2, num_outputs=1))
    0.75
    """
    check_integer("dropconnect_contraction", "num_inputs", num_inputs, 1)
    check_integer("dropconnect_contraction", "num_outputs", num_outputs, 1)
    return 1.0 - _probability("dropconnect_contraction", probability) ** int(num_inputs * num_outputs)


def gaussian_contraction(*, radius: Any, scale: Any) -> Array:
    r"""A coefficient of T = f(X) + scale N(0, I) with ||f|| <= radius: erf(radius / (sqrt(2) scale)).

    It is the largest total variation between two outputs, 2 Phi(radius / scale) - 1, at f = +-radius u: the channel's
    Dobrushin coefficient, which bounds that of every f-divergence. For KL it is not tight. An activation with
    |phi| <= A in each of d units has radius A sqrt(d).

    Args:
        radius: a number of at least 0, or a floating scalar array: the Euclidean bound on f.
        scale: a number of at least 0, or a floating scalar array: the noise's standard deviation per unit.

    Returns:
        A scalar, float32 (float64 for a float64 array, or Python numbers under x64), differentiable.

    Raises:
        ValueError: a radius or a scale below 0, or no scalar.

    Source: derived as above, with Cohen, Kempermann, Zbaganu, "Comparisons of stochastic matrices" (1998), for the
    bound by total variation; the layer that He, Goldfeld (arXiv:2404.03176) treat.

    >>> round(float(gaussian_contraction(radius=2.0, scale=2.0)), 6)  # four tanh units, noise 2
    0.682689
    """
    check_scalar("gaussian_contraction", "radius", radius, 0.0)
    check_scalar("gaussian_contraction", "scale", scale, 0.0)
    radius, scale = (promote(jnp.asarray(v, None if hasattr(v, "dtype") else float)) for v in (radius, scale))
    return jax.lax.erf(radius / (scale * 2.0**0.5))


def dobrushin_coefficient(channel: Any) -> Array:
    r"""The largest total variation between two rows of a finite channel p(y | x): it bounds every contraction.

    Args:
        channel: ``[X, Y]`` floating, rows that sum to 1.

    Returns:
        A scalar in [0, 1], float32 (float64 for float64): the coefficient of total variation itself, and an upper
        bound on that of every f-divergence.

    Raises:
        ValueError: channel is no floating matrix.

    Source: Dobrushin, "Central limit theorem for nonstationary Markov chains" (1956); Cohen, Kempermann, Zbaganu,
    "Comparisons of stochastic matrices" (1998).

    >>> round(float(dobrushin_coefficient([[0.9, 0.1], [0.2, 0.8]])), 6)
    0.7
    """
    rows = promote(floating_array("dobrushin_coefficient", "channel", channel))
    if rows.ndim != 2 or 0 in rows.shape:
        raise fail("dobrushin_coefficient", "channel", f"has shape {rows.shape}", "shape [X, Y] with entries")
    return jnp.max(jax.lax.map(lambda row: jnp.max(jnp.sum(jnp.abs(rows - row), axis=1)), rows)) / 2.0

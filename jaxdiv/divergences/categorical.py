r"""f-divergences between two categorical distributions given by logits, exact at -inf, and what goes with them.

Every function takes raw logits (log-probabilities will do), computes in float32 (float64 where an input is) and returns
one value per distribution. A class is absent where its logit is -inf, or where a mask says so; absent classes cost
exactly what the divergence says they cost, +inf included. The rules at the edges are the same everywhere:

- A class that neither side has adds nothing, and has gradient 0.
- Where the value is +inf both gradients of that row are 0: there is nothing to follow, and no NaN.
- A row without any class on both sides (a padded position) has value 0 and gradient 0.
- A row without any class on one side only, a logit of +inf or a NaN give NaN: there is no such distribution.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv import checks
from jaxdiv.divergences import logits
from jaxdiv.divergences.generators import (
    alpha,
    jeffreys,
    kl,
    le_cam,
    neyman_chi2,
    pearson_chi2,
    reverse_kl,
    squared_hellinger,
    total_variation,
)
from jaxdiv.divergences.mixtures import jensen_shannon, skew_kl
from jaxdiv.divergences.record import FDivergence
from jaxdiv.numerics import promote
from jaxdiv.typing import Array, ArrayLike


def _mask(function: str, where: ArrayLike, shape: tuple[int, ...]) -> Array:
    """The mask, broadcast to the logits' shape."""
    got = f"is {type(where).__name__} of uneven rows"
    try:
        got = f"has shape {np.shape(where)}"
        fits = np.broadcast_shapes(np.shape(where), shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise checks.fail(function, "where", got, f"what broadcasts to the logits' {shape}")
    return jnp.broadcast_to(checks.mask_array(function, "where", where, np.shape(where)), shape)


def logit_rows(function: str, axis: int, where: ArrayLike | None, **arrays: ArrayLike) -> list[Array]:
    """Checked logits of one dtype, float32 or float64, classes last, -inf where masked; for other modules too."""
    values = {name: checks.floating_array(function, name, value) for name, value in arrays.items()}
    checks.check_same_shape(function, **values)
    shape = next(iter(values.values())).shape
    axis = checks.check_axis(function, "axis", axis, shape)
    dtype = jnp.result_type(jnp.float32, *values.values())
    rows = [promote(value).astype(dtype) for value in values.values()]
    if where is not None:
        mask = _mask(function, where, shape)
        rows = [jnp.where(mask, row, -jnp.inf) for row in rows]
    return [jnp.moveaxis(row, axis, -1) for row in rows]


def f_divergence(
    divergence: FDivergence,
    *,
    p_logits: ArrayLike,
    q_logits: ArrayLike,
    axis: int = -1,
    where: ArrayLike | None = None,
    temperature: float = 1.0,
) -> Array:
    r"""D_f(p || q) = sum q f(p/q), with p = softmax(p_logits / temperature) and q = softmax(q_logits / temperature).

    Values and gradients hold about 1e-6 relative in float32 whether p and q nearly agree, are 100 nats apart or lack
    classes; values are never negative and exactly 0 for identical logits. Differentiable in both logits, forwards and
    backwards, twice; derivatives of the third order are those of the arithmetic, without a claim. Gradients come in the
    dtype of each input. Total variation has a kink at p = q: its derivative there counts sign(0) as 0.

    Args:
        divergence: which one, such as ``kl()``; ``.reversed()`` and ``.normalized()`` ones too.
        p_logits: unnormalised log-probabilities, floating, -inf for a class that p lacks.
        q_logits: the same for q, of p_logits' shape.
        axis: the axis of the classes.
        where: which classes take part, booleans that broadcast to the logits' shape as in numpy. What is left out is
            as if both logits were -inf; its gradient is 0.
        temperature: divides both logits; a Python number in [1e-6, 1e6]. Where it is large, gradients fall as
            1 / temperature^2, which distillation losses make good by a factor temperature^2 of their own.

    Returns:
        The divergence in nats, p_logits' shape without `axis`, float32 or float64; +inf where that is the truth. A row
        that neither side has a class in is 0; one that only one side has, or with NaN or +inf among its logits, NaN.
        Where the value is +inf the gradients are 0.

    Raises:
        ValueError: not an `FDivergence`; logits of no floating dtype or of different shapes; an axis out of range or
            without entries; a mask that is not boolean or does not broadcast; a temperature outside [1e-6, 1e6].

    Source: Csiszar 1967; the numerics are derived in `jaxdiv.divergences.logits`.

    >>> from jaxdiv.divergences import kl
    >>> p, q = jnp.log(jnp.array([0.5, 0.5, 0.0])), jnp.log(jnp.array([0.25, 0.5, 0.25]))
    >>> round(float(f_divergence(kl(), p_logits=p, q_logits=q)), 6)  # log(2) / 2
    0.346574
    >>> float(f_divergence(kl(), p_logits=q, q_logits=p))
    inf
    """
    return _divergence("f_divergence", divergence, p_logits, q_logits, axis, where, temperature)


def _divergence(function, divergence, p_logits, q_logits, axis, where, temperature):
    checks.check_instance(function, "divergence", divergence, FDivergence)
    temperature = check_temperature(function, temperature)
    return logits.value(
        divergence, temperature, *logit_rows(function, axis, where, p_logits=p_logits, q_logits=q_logits)
    )


def check_temperature(function: str, temperature: float) -> float:
    """The temperature as a float between 1e-6 and 1e6: its inverse has to be a normal number in float32 too."""
    checks.check_real(function, "temperature", temperature, 1e-6, 1e6)
    return float(temperature)


def value_and_logit_gradients(
    divergence: FDivergence,
    p_logits: ArrayLike,
    q_logits: ArrayLike,
    where: ArrayLike | None = None,
    *,
    temperature: float = 1.0,
) -> tuple[Array, Array, Array]:
    r"""D_f(p || q) over the last axis with both gradients, in one pass: what a fused loss builds on.

    dD/dp_logits = p (f'(r) - sum p f'(r)) and dD/dq_logits = q (k - sum q k) with k = f - r f'. The rules for -inf,
    infinite values and empty rows are those of `f_divergence`; both gradients differentiate once more.

    Args:
        divergence: which one.
        p_logits: unnormalised log-probabilities ``[..., V]``, floating.
        q_logits: the same for q.
        where: booleans that broadcast to ``[..., V]``: which classes take part.
        temperature: divides both logits; the gradients are for the logits as given.

    Returns:
        Value ``[...]``, gradient for p_logits ``[..., V]`` and for q_logits ``[..., V]``, each float32 or float64.

    Raises:
        ValueError: as `f_divergence`.

    >>> from jaxdiv.divergences import kl
    >>> p, q = jnp.log(jnp.array([0.75, 0.25])), jnp.log(jnp.array([0.5, 0.5]))
    >>> [round(float(g), 6) for g in value_and_logit_gradients(kl(), p, q)[2]]  # q - p
    [-0.25, 0.25]
    """
    function = "value_and_logit_gradients"
    checks.check_instance(function, "divergence", divergence, FDivergence)
    rows = logit_rows(function, -1, where, p_logits=p_logits, q_logits=q_logits)
    return logits.value_and_gradients(divergence, check_temperature(function, temperature), *rows)


def f_divergence_from_probs(
    divergence: FDivergence, *, p: ArrayLike, q: ArrayLike, axis: int = -1, where: ArrayLike | None = None
) -> Array:
    r"""D_f(p || q) of two arrays of non-negative weights, each normalised to sum 1 over the axis.

    Zeros are exact: they cost what the divergence says. Everything else goes through logarithms, whose rounding
    (eps |log p|) is what p and q agree within at best; from logits, `f_divergence` has no such floor. The derivative
    for a weight of 0 is 0.

    Args:
        divergence: which one.
        p: non-negative weights, floating.
        q: the same for q, of p's shape.
        axis: the axis of the classes.
        where: which classes take part.

    Returns:
        As `f_divergence`; under a trace, where no value can be looked at, a negative weight gives NaN.

    Raises:
        ValueError: as `f_divergence`, and for a negative weight.

    >>> from jaxdiv.divergences import total_variation
    >>> round(float(f_divergence_from_probs(total_variation(), p=jnp.array([1.0, 0.0]), q=jnp.array([0.25, 0.75]))), 6)
    0.75
    """
    function = "f_divergence_from_probs"
    checks.check_instance(function, "divergence", divergence, FDivergence)
    rows, given = [], logit_rows(function, axis, None, p=p, q=q)
    mask = True if where is None else jnp.moveaxis(_mask(function, where, np.shape(p)), axis, -1)
    for name, row in zip(("p", "q"), given, strict=True):
        row = jnp.where(mask, row, 0.0)
        if not isinstance(row, jax.core.Tracer) and bool(jnp.any(row < 0.0)):
            raise checks.fail(function, name, "has a negative entry", "non-negative weights")
        rows.append(jnp.where(row == 0.0, -jnp.inf, jnp.log(jnp.where(row == 0.0, 1.0, row))))
    return logits.value(divergence, 1.0, *rows)


def kl_divergence(
    *, p_logits: ArrayLike, q_logits: ArrayLike, axis: int = -1, where: ArrayLike | None = None,
    temperature: float = 1.0,
) -> Array:  # fmt: skip
    r"""KL(p || q) = sum p log(p / q): large where q misses mass of p.

    `f_divergence` with `kl`: arguments, rules at -inf, dtypes and errors are described there.

    >>> p, q = jnp.log(jnp.array([0.75, 0.25])), jnp.log(jnp.array([0.5, 0.5]))
    >>> round(float(kl_divergence(p_logits=p, q_logits=q)), 6)
    0.130812
    """
    return _divergence("kl_divergence", kl(), p_logits, q_logits, axis, where, temperature)


def reverse_kl_divergence(
    *, p_logits: ArrayLike, q_logits: ArrayLike, axis: int = -1, where: ArrayLike | None = None,
    temperature: float = 1.0,
) -> Array:  # fmt: skip
    r"""KL(q || p) = sum q log(q / p): large where q puts mass that p has not.

    `f_divergence` with `reverse_kl`: arguments, rules at -inf, dtypes and errors are described there.

    >>> p, q = jnp.log(jnp.array([0.75, 0.25])), jnp.log(jnp.array([0.5, 0.5]))
    >>> round(float(reverse_kl_divergence(p_logits=p, q_logits=q)), 6)
    0.143841
    """
    return _divergence("reverse_kl_divergence", reverse_kl(), p_logits, q_logits, axis, where, temperature)


def js_divergence(
    *, p_logits: ArrayLike, q_logits: ArrayLike, pi: float = 0.5, axis: int = -1, where: ArrayLike | None = None,
    temperature: float = 1.0,
) -> Array:  # fmt: skip
    r"""The Jensen-Shannon divergence pi KL(p || m) + (1 - pi) KL(q || m), m = pi p + (1 - pi) q.

    `f_divergence` with `jensen_shannon(pi)`: arguments, rules at -inf, dtypes and errors are described there.

    It vanishes as pi goes to 0 or 1; ``jensen_shannon(pi).normalized()`` runs from KL(p || q) to KL(q || p) instead.

    >>> p, q = jnp.log(jnp.array([0.75, 0.25])), jnp.log(jnp.array([0.5, 0.5]))
    >>> round(float(js_divergence(p_logits=p, q_logits=q)), 6)
    0.033822
    """
    checks.check_real("js_divergence", "pi", pi, 1e-12, 1.0 - 1e-12)
    return _divergence("js_divergence", jensen_shannon(pi), p_logits, q_logits, axis, where, temperature)


def jeffreys_divergence(
    *, p_logits: ArrayLike, q_logits: ArrayLike, axis: int = -1, where: ArrayLike | None = None,
    temperature: float = 1.0,
) -> Array:  # fmt: skip
    r"""Jeffreys' divergence KL(p || q) + KL(q || p).

    `f_divergence` with `jeffreys`: arguments, rules at -inf, dtypes and errors are described there.

    >>> p, q = jnp.log(jnp.array([0.75, 0.25])), jnp.log(jnp.array([0.5, 0.5]))
    >>> round(float(jeffreys_divergence(p_logits=p, q_logits=q)), 6)
    0.274653
    """
    return _divergence("jeffreys_divergence", jeffreys(), p_logits, q_logits, axis, where, temperature)


def squared_hellinger_distance(
    *, p_logits: ArrayLike, q_logits: ArrayLike, axis: int = -1, where: ArrayLike | None = None,
    temperature: float = 1.0,
) -> Array:  # fmt: skip
    r"""The squared Hellinger distance sum (sqrt p - sqrt q)^2, in [0, 2].

    `f_divergence` with `squared_hellinger`: arguments, rules at -inf, dtypes and errors are described there.

    >>> p, q = jnp.log(jnp.array([0.75, 0.25])), jnp.log(jnp.array([0.5, 0.5]))
    >>> round(float(squared_hellinger_distance(p_logits=p, q_logits=q)), 6)
    0.068148
    """
    return _divergence("squared_hellinger_distance", squared_hellinger(), p_logits, q_logits, axis, where, temperature)


def total_variation_distance(
    *, p_logits: ArrayLike, q_logits: ArrayLike, axis: int = -1, where: ArrayLike | None = None,
    temperature: float = 1.0,
) -> Array:  # fmt: skip
    r"""The total variation distance sum |p - q| / 2, in [0, 1].

    `f_divergence` with `total_variation`: arguments, rules at -inf, dtypes and errors are described there.

    Where p = q in a class, the derivative counts sign(0) as 0, which is a subgradient.

    >>> p, q = jnp.log(jnp.array([0.75, 0.25])), jnp.log(jnp.array([0.5, 0.5]))
    >>> round(float(total_variation_distance(p_logits=p, q_logits=q)), 6)
    0.25
    """
    return _divergence("total_variation_distance", total_variation(), p_logits, q_logits, axis, where, temperature)


def chi2_divergence(
    *, p_logits: ArrayLike, q_logits: ArrayLike, axis: int = -1, where: ArrayLike | None = None,
    temperature: float = 1.0,
) -> Array:  # fmt: skip
    r"""Pearson's chi-squared divergence sum (p - q)^2 / q.

    `f_divergence` with `pearson_chi2`: arguments, rules at -inf, dtypes and errors are described there.

    >>> p, q = jnp.log(jnp.array([0.75, 0.25])), jnp.log(jnp.array([0.5, 0.5]))
    >>> round(float(chi2_divergence(p_logits=p, q_logits=q)), 6)
    0.25
    """
    return _divergence("chi2_divergence", pearson_chi2(), p_logits, q_logits, axis, where, temperature)


def neyman_chi2_divergence(
    *, p_logits: ArrayLike, q_logits: ArrayLike, axis: int = -1, where: ArrayLike | None = None,
    temperature: float = 1.0,
) -> Array:  # fmt: skip
    r"""Neyman's chi-squared divergence sum (p - q)^2 / p.

    `f_divergence` with `neyman_chi2`: arguments, rules at -inf, dtypes and errors are described there.

    >>> p, q = jnp.log(jnp.array([0.75, 0.25])), jnp.log(jnp.array([0.5, 0.5]))
    >>> round(float(neyman_chi2_divergence(p_logits=p, q_logits=q)), 6)
    0.333333
    """
    return _divergence("neyman_chi2_divergence", neyman_chi2(), p_logits, q_logits, axis, where, temperature)


def le_cam_divergence(
    *, p_logits: ArrayLike, q_logits: ArrayLike, axis: int = -1, where: ArrayLike | None = None,
    temperature: float = 1.0,
) -> Array:  # fmt: skip
    r"""The Vincze-Le Cam (triangular) divergence sum (p - q)^2 / (p + q), in [0, 2].

    `f_divergence` with `le_cam`: arguments, rules at -inf, dtypes and errors are described there.

    >>> p, q = jnp.log(jnp.array([0.75, 0.25])), jnp.log(jnp.array([0.5, 0.5]))
    >>> round(float(le_cam_divergence(p_logits=p, q_logits=q)), 6)
    0.133333
    """
    return _divergence("le_cam_divergence", le_cam(), p_logits, q_logits, axis, where, temperature)


def skew_kl_divergence(
    *, p_logits: ArrayLike, q_logits: ArrayLike, pi: float, axis: int = -1, where: ArrayLike | None = None,
    temperature: float = 1.0,
) -> Array:  # fmt: skip
    r"""The skewed divergence KL(p || pi p + (1 - pi) q), never infinite.

    `f_divergence` with `skew_kl(pi)`: arguments, rules at -inf, dtypes and errors are described there.

    >>> p, q = jnp.log(jnp.array([0.75, 0.25])), jnp.log(jnp.array([0.5, 0.5]))
    >>> round(float(skew_kl_divergence(p_logits=p, q_logits=q, pi=0.5)), 6)
    0.035375
    """
    checks.check_real("skew_kl_divergence", "pi", pi, 1e-12, 1.0 - 1e-12)
    return _divergence("skew_kl_divergence", skew_kl(pi), p_logits, q_logits, axis, where, temperature)


def alpha_divergence(
    *, p_logits: ArrayLike, q_logits: ArrayLike, a: float, axis: int = -1, where: ArrayLike | None = None,
    temperature: float = 1.0,
) -> Array:  # fmt: skip
    r"""The power divergence (1 - sum p^a q^(1-a)) / (a (1 - a)): KL(p || q) at a = 1, KL(q || p) at a = 0.

    `f_divergence` with `alpha(a)`: arguments, rules at -inf, dtypes and errors are described there.

    >>> p, q = jnp.log(jnp.array([0.75, 0.25])), jnp.log(jnp.array([0.5, 0.5]))
    >>> round(float(alpha_divergence(p_logits=p, q_logits=q, a=2.0)), 6)  # chi-squared / 2
    0.125
    """
    checks.check_real("alpha_divergence", "a", a, -math.inf, math.inf, open_low=True, open_high=True)
    return _divergence("alpha_divergence", alpha(a), p_logits, q_logits, axis, where, temperature)

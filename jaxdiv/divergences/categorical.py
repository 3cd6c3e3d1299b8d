r"""f-divergences between two categorical distributions given by logits, exact at -inf, and what goes with them.

Every function takes raw logits (log-probabilities will do), computes in float32 (float64 where an input is) and returns
one value per distribution. A class is absent where its logit is -inf, or where a mask says so; absent classes cost
exactly what the divergence says they cost, +inf included. The rules at the edges are the same everywhere:

- A class that neither side has adds nothing, and has gradient 0.
- Where the value is +inf both gradients of that row are 0: there is nothing to follow, and no NaN.
- A row without any class on both sides (a padded position) has value 0 and gradient 0.
- A row without any class on one side only, a logit of +inf or a NaN give NaN: there is no such distribution.
"""

import jax.numpy as jnp
import numpy as np

from jaxdiv import checks
from jaxdiv.divergences import logits
from jaxdiv.divergences.record import FDivergence
from jaxdiv.numerics import promote
from jaxdiv.typing import Array, ArrayLike


def _mask(function: str, where: ArrayLike, shape: tuple[int, ...]) -> Array:
    """The mask, broadcast to the logits' shape."""
    try:
        fits = np.broadcast_shapes(np.shape(where), shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise checks.fail(
            function, "where", f"is {type(where).__name__} of another shape", f"what broadcasts to {shape}"
        )
    return jnp.broadcast_to(checks.mask_array(function, "where", where, np.shape(where)), shape)


def _rows(function: str, axis: int, where: ArrayLike | None, **arrays: ArrayLike) -> list[Array]:
    """Checked logits of one dtype, classes last, -inf where masked."""
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
) -> Array:
    r"""D_f(p || q) = sum q f(p/q), with p = softmax(p_logits) and q = softmax(q_logits), per row.

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

    Returns:
        The divergence in nats, p_logits' shape without `axis`, float32 or float64; +inf where that is the truth. A row
        that neither side has a class in is 0; one that only one side has, or with NaN or +inf among its logits, NaN.
        Where the value is +inf the gradients are 0.

    Raises:
        ValueError: not an `FDivergence`; logits of no floating dtype or of different shapes; an axis out of range or
            without entries; a mask that is not boolean or does not broadcast.

    Source: Csiszar 1967; the numerics are derived in `jaxdiv.divergences.logits`.

    >>> from jaxdiv.divergences import kl
    >>> p, q = jnp.log(jnp.array([0.5, 0.5, 0.0])), jnp.log(jnp.array([0.25, 0.5, 0.25]))
    >>> round(float(f_divergence(kl(), p_logits=p, q_logits=q)), 6)  # log(2) / 2
    0.346574
    >>> float(f_divergence(kl(), p_logits=q, q_logits=p))
    inf
    """
    return _divergence("f_divergence", divergence, axis, where, p_logits, q_logits)


def _divergence(function, divergence, axis, where, p_logits, q_logits):
    checks.check_instance(function, "divergence", divergence, FDivergence)
    return logits.value(divergence, *_rows(function, axis, where, p_logits=p_logits, q_logits=q_logits))


def value_and_logit_gradients(
    divergence: FDivergence, p_logits: ArrayLike, q_logits: ArrayLike, where: ArrayLike | None = None
) -> tuple[Array, Array, Array]:
    r"""D_f(p || q) over the last axis with both gradients, in one pass: what a fused loss builds on.

    dD/dp_logits = p (f'(r) - sum p f'(r)) and dD/dq_logits = q (k - sum q k) with k = f - r f'. The rules for -inf,
    infinite values and empty rows are those of `f_divergence`; both gradients differentiate once more.

    Args:
        divergence: which one.
        p_logits: unnormalised log-probabilities ``[..., V]``, floating.
        q_logits: the same for q.
        where: booleans that broadcast to ``[..., V]``: which classes take part.

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
    rows = _rows(function, -1, where, p_logits=p_logits, q_logits=q_logits)
    return logits.value_and_gradients(divergence, *rows)

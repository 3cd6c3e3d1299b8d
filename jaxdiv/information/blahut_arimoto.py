"""Alternating minimisation on finite alphabets: the information bottleneck, channel capacity, rate-distortion."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import entr

from jaxdiv.checks import check_choice, check_integer, check_shape, fail, floating_array
from jaxdiv.numerics import promote
from jaxdiv.typing import Array


class BottleneckCurve(NamedTuple):
    """One encoder per trade-off and what it keeps, in nats."""

    encoder: Array
    """``[B, X, K]``, q(t | x)."""
    information_x: Array
    """``[B]``, I(X; T)."""
    information_y: Array
    """``[B]``, I(T; Y)."""
    entropy: Array
    """``[B]``, H(T), the rate of the deterministic bottleneck."""
    change: Array
    """``[B]``, the largest change of an entry of the encoder in the last step: large where it has not converged."""


class CapacityBounds(NamedTuple):
    """A channel's capacity in nats, from both sides."""

    lower: Array
    """I(X; Y) at the input distribution found."""
    upper: Array
    """max_x KL(p(y | x) || p(y)) at that input: no input distribution does better."""
    inputs: Array
    """``[X]``, the input distribution."""


class RateDistortion(NamedTuple):
    """Points of a rate-distortion curve."""

    rate: Array
    """``[S]``, I(X; X') in nats."""
    distortion: Array
    """``[S]``, E[d(x, x')]."""
    decoder: Array
    """``[S, X, R]``, q(x' | x)."""


def _matrix(function: str, argument: str, value: Any) -> Array:
    array = promote(floating_array(function, argument, value))
    if array.ndim != 2 or 0 in array.shape:
        raise fail(function, argument, f"has shape {array.shape}", "a matrix with entries")
    return array


def _vector(function: str, argument: str, value: Any) -> Array:
    array = promote(floating_array(function, argument, value))
    if array.ndim != 1 or array.size == 0:
        raise fail(function, argument, f"has shape {array.shape}", "shape [n] with entries")
    return array


_MIXING = 0.01


def _relative(p: Array, *factors: Array) -> Array:
    """P log(p / q) with 0 log 0 = 0 and q a product, which may be below every float; jax's own makes NaN infinite."""
    some = p != 0.0
    first, *others = (jnp.where(some, q, 1.0) for q in factors)
    log_ratio = jnp.log(jnp.where(some, p, 1.0) / first)
    for q in others:  # not p / q / q', which XLA makes p / (q q')
        log_ratio -= jnp.log(q)
    return jnp.where(some, p * log_ratio, 0.0)


def _log_likelihoods(conditional: Array, decoder: Array) -> Array:
    """sum_y p(y | x) log p(y | t), ``[X, K]``: -inf where t excludes what x can lead to, and 0 log 0 = 0."""
    known = decoder > 0.0
    logs = jnp.where(known, jnp.log(jnp.where(known, decoder, 1.0)), 0.0)
    excluded = jnp.matmul((conditional > 0.0).astype(logs.dtype), (~known).T.astype(logs.dtype)) > 0.0
    return jnp.where(excluded, -jnp.inf, jnp.matmul(conditional, logs.T, precision="highest"))


def _merged(encoder: Array, p_t: Array, p_ty: Array, p_y: Array, beta: Array) -> Array:
    """The encoder with those two clusters made one that lower H(T) - beta I(T; Y) most, if any do."""

    def cost(p, p_with_y):
        return entr(p) - beta * jnp.sum(_relative(p_with_y, p[..., None], p_y), axis=-1)

    alone = cost(p_t, p_ty)
    change = cost(p_t[:, None] + p_t, p_ty[:, None] + p_ty) - alone[:, None] - alone
    used = p_t > 0.0
    change = jnp.where(jnp.triu(used[:, None] & used, 1), change, jnp.inf)
    kept, moved = jnp.unravel_index(jnp.argmin(change), change.shape)
    joined = encoder.at[:, kept].add(encoder[:, moved]).at[:, moved].set(0.0)
    return jnp.where(jnp.min(change) < 0.0, joined, encoder)


def information_bottleneck_curve(
    p_xy: Any, *, tishby_betas: Any, initial: Any = None, form: str = "soft", num_steps: int = 200
) -> BottleneckCurve:
    r"""Stationary points of I(X; T) - beta I(T; Y), one for each beta, each started from that of another beta.

    form="soft" iterates q(t | x) ~ q(t) exp(-beta KL(p(y | x) || p(y | t))), the information bottleneck. Hard zeros
    never leave this iteration, so each beta starts from 0.99 q(t | x) + 0.01 q(t). form="deterministic" puts all of
    q(t | x) on the largest of these (the first of equal ones) and then merges the two clusters whose union lowers
    H(T) - beta I(T; Y) most, if any does: moves of single points alone would stop too early.

    Either finds a stationary point, which need not be the minimum. The reliable way is down: leave ``initial`` out, so
    that T starts as a copy of X at the largest beta and clusters merge. An encoder that ignores x is stationary at
    every beta: annealing upwards needs an ``initial`` that breaks its symmetry.

    Tishby's beta weighs relevance: below 1 the best encoder ignores x. The objectives of
    `jaxdiv.information.bottleneck` weigh the rate, loss = prediction + beta rate: their beta is 1 / tishby_beta. Where
    Y is a function of X the curve is I(T; Y) = min(I(X; T), H(Y)), which is straight, so no beta singles out a point
    of its slope: all betas above 1 give its corner.

    Args:
        p_xy: ``[X, Y]`` floating, non-negative weights; divided by their sum. Rows of zeros are allowed.
        tishby_betas: ``[B]`` floating, positive. Without ``initial`` they are taken from the largest down, whatever
            their order, which the result has; with it in their order.
        initial: ``[X, K]`` floating, rows q(t | x) that sum to 1; None for K = X, a copy.
        form: "soft" or "deterministic".
        num_steps: iterations per beta. All run in one scan.

    Returns:
        `BottleneckCurve`, float32 (float64 where an input is). NaN in the weights gives NaN. Derivatives run through
        the iterations that were made.

    Raises:
        ValueError: wrong shapes, dtypes, form or number of steps.

    Source: Tishby, Pereira, Bialek, "The information bottleneck method" (arXiv:physics/0004057), section 3; Strouse,
    Schwab, "The deterministic information bottleneck" (arXiv:1604.00268), the merging as in Slonim, Tishby,
    "Agglomerative information bottleneck" (1999); Kolchinsky, Tracey, Van Kuyk, "Caveats for information bottleneck in
    deterministic scenarios" (arXiv:1808.07593), on straight curves.

    >>> curve = information_bottleneck_curve([[0.25, 0.0], [0.25, 0.0], [0.0, 0.5]], tishby_betas=[2.0, 0.5])
    >>> [round(float(v), 4) + 0.0 for v in curve.information_x]  # log 2: two of three merge; then nothing
    [0.6931, 0.0]
    """
    function = "information_bottleneck_curve"
    weights = _matrix(function, "p_xy", p_xy)
    betas = _vector(function, "tishby_betas", tishby_betas)
    check_choice(function, "form", form, ("soft", "deterministic"))
    check_integer(function, "num_steps", num_steps, 1)
    start = jnp.eye(weights.shape[0]) if initial is None else _matrix(function, "initial", initial)
    check_shape(function, "initial", start, (weights.shape[0], None))
    dtype = jnp.result_type(weights, betas, jnp.float32 if initial is None else start)
    joint, betas, start = (weights / jnp.sum(weights)).astype(dtype), betas.astype(dtype), start.astype(dtype)
    p_x, p_y = jnp.sum(joint, axis=1), jnp.sum(joint, axis=0)
    conditional = joint / jnp.where(p_x == 0.0, 1.0, p_x)[:, None]

    def marginals(encoder):
        return jnp.matmul(p_x, encoder, precision="highest"), jnp.matmul(encoder.T, joint, precision="highest")

    def step(encoder, beta):
        p_t, p_ty = marginals(encoder)
        decoder = p_ty / jnp.where(p_t == 0.0, 1.0, p_t)[:, None]
        logits = jnp.log(p_t) + beta * _log_likelihoods(conditional, decoder)
        if form == "soft":
            return jax.nn.softmax(logits, axis=1)
        chosen = jax.nn.one_hot(jnp.argmax(logits, axis=1), logits.shape[1], dtype=dtype)
        # A largest entry can be found among what is not a number, too.
        chosen = jnp.where(jnp.isnan(beta) | jnp.any(jnp.isnan(encoder)), jnp.nan, chosen)
        return _merged(chosen, *marginals(chosen), p_y, beta)

    def anneal(encoder, beta):
        if form == "soft":
            encoder = (1.0 - _MIXING) * encoder + _MIXING * marginals(encoder)[0]
        before = jax.lax.fori_loop(0, num_steps - 1, lambda _, e: step(e, beta), encoder)
        encoder = step(before, beta)
        p_t, p_ty = marginals(encoder)
        information_x = jnp.sum(p_x[:, None] * _relative(encoder, jnp.broadcast_to(p_t, encoder.shape)))
        information_y = jnp.sum(_relative(p_ty, p_t[:, None], p_y))
        change = jnp.max(jnp.abs(encoder - before))
        return encoder, BottleneckCurve(encoder, information_x, information_y, jnp.sum(entr(p_t)), change)

    if initial is not None:
        return jax.lax.scan(anneal, start, betas)[1]
    order = jnp.argsort(-betas)
    curve, back = jax.lax.scan(anneal, start, betas[order])[1], jnp.argsort(order)
    return jax.tree.map(lambda points: points[back], curve)


def channel_capacity(channel: Any, *, num_steps: int = 1000) -> CapacityBounds:
    r"""The largest I(X; Y) over all inputs of a channel p(y | x), with the bracket that shows how far it has converged.

    Each step multiplies the input by exp KL(p(y | x) || p(y)), from the uniform one.

    Args:
        channel: ``[X, Y]`` floating, rows that sum to 1.
        num_steps: iterations; the gap of the bracket shrinks at least as log X / num_steps.

    Returns:
        `CapacityBounds`, float32 (float64 for float64).

    Raises:
        ValueError: channel is no floating matrix, or num_steps is out of range.

    Source: Blahut, "Computation of channel capacity and rate-distortion functions" (1972).

    >>> bounds = channel_capacity([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])  # half the symbols erased: log(2) / 2
    >>> round(float(bounds.lower), 6), round(float(bounds.upper), 6)
    (0.346574, 0.346574)
    """
    rows = _matrix("channel_capacity", "channel", channel)
    check_integer("channel_capacity", "num_steps", num_steps, 1)

    def divergences(inputs):
        return jnp.sum(_relative(rows, jnp.broadcast_to(jnp.matmul(inputs, rows, precision="highest"), rows.shape)), 1)

    def step(_, log_inputs):
        return jax.nn.log_softmax(log_inputs + divergences(jnp.exp(log_inputs)))

    uniform = jnp.full(rows.shape[0], -jnp.log(rows.shape[0]), rows.dtype)
    inputs = jnp.exp(jax.lax.fori_loop(0, num_steps, step, uniform))
    found = divergences(inputs)
    return CapacityBounds(jnp.sum(inputs * found), jnp.max(found), inputs)


def rate_distortion_curve(p_x: Any, distortions: Any, *, slopes: Any, num_steps: int = 500) -> RateDistortion:
    r"""Minima of I(X; X') + slope E[d(x, x')] over q(x' | x): points of the rate-distortion curve with dR/dD = -slope.

    Args:
        p_x: ``[X]`` floating, non-negative weights; divided by their sum.
        distortions: ``[X, R]`` floating, d(x, x').
        slopes: ``[S]`` floating, non-negative.
        num_steps: iterations, from the uniform reproduction; each slope on its own, since the problem is convex.

    Returns:
        `RateDistortion`, float32 (float64 where an input is).

    Raises:
        ValueError: wrong shapes, dtypes or number of steps.

    Source: Blahut, "Computation of channel capacity and rate-distortion functions" (1972).

    >>> points = rate_distortion_curve([0.5, 0.5], [[0.0, 1.0], [1.0, 0.0]], slopes=[jnp.log(3.0)])
    >>> round(float(points.distortion[0]), 6), round(float(points.rate[0]), 6)  # 1/4, log 2 - h(1/4)
    (0.25, 0.130812)
    """
    function = "rate_distortion_curve"
    weights, slopes = _vector(function, "p_x", p_x), _vector(function, "slopes", slopes)
    costs = _matrix(function, "distortions", distortions)
    check_shape(function, "distortions", costs, (weights.shape[0], None))
    check_integer(function, "num_steps", num_steps, 1)
    dtype = jnp.result_type(weights, costs, slopes)
    p_x, costs, slopes = (weights / jnp.sum(weights)).astype(dtype), costs.astype(dtype), slopes.astype(dtype)

    def solve(slope):
        def decoder(output):
            return jax.nn.softmax(jnp.log(output) - slope * costs, axis=1)

        def step(_, output):
            return jnp.matmul(p_x, decoder(output), precision="highest")

        output = jax.lax.fori_loop(0, num_steps, step, jnp.full(costs.shape[1], 1.0 / costs.shape[1], dtype))
        chosen = decoder(output)
        reached = jnp.matmul(p_x, chosen, precision="highest")
        rate = jnp.sum(p_x[:, None] * _relative(chosen, jnp.broadcast_to(reached, chosen.shape)))
        return RateDistortion(rate, jnp.sum(p_x[:, None] * chosen * costs), chosen)

    return jax.vmap(solve)(slopes)

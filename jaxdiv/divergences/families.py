"""Divergences between two arrays of logits that are no f-divergences, or that only a function of one makes.

Renyi's divergence carries most of them: Tsallis', Bhattacharyya's, the gamma and the Cauchy-Schwarz divergence are
Renyi's of p and q or of their escort distributions p^c / sum p^c. All follow the rules of
`jaxdiv.divergences.categorical` at the edges: a class is absent where its logit is -inf or `where` is False, gradients
are 0 where the value is +inf, two empty rows have divergence 0, one empty row gives NaN. All take float16, bfloat16,
float32 and float64 logits, compute and return float32 (float64 where an input is), and never return a negative value.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from jaxdiv import checks
from jaxdiv.divergences.categorical import f_divergence, logit_rows
from jaxdiv.divergences.generators import alpha, kl
from jaxdiv.divergences.log_ratios import Rows, compare, is_largest, logit_gradient, normalised, total
from jaxdiv.divergences.record import FDivergence
from jaxdiv.numerics import expm1_scaled, log1p_scaled, promote
from jaxdiv.typing import Array, ArrayLike


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Renyi:
    r"""Renyi's divergence of one order a, 0 < a < inf, as a function of the f-divergence alpha(a).

    log(sum p^a q^{1-a}) / (a - 1) = log(1 + a (a - 1) D_alpha) / (a - 1); KL(p || q) at a = 1. A static pytree, as
    `FDivergence`. For what the formula loses far from p = q see `renyi_divergence`.

    >>> round(float(Renyi(2.0).from_generator(0.5)), 6), Renyi(1).generator.name  # log 2
    (0.693147, 'kl')
    """

    order: float

    def __post_init__(self) -> None:
        """Refuses an order that is no real number in (0, inf)."""
        checks.check_real("Renyi", "order", self.order, 0.0, math.inf, open_low=True, open_high=True)
        object.__setattr__(self, "order", float(self.order))

    @property
    def generator(self) -> FDivergence:
        """The f-divergence whose value `from_generator` takes."""
        return kl() if self.order == 1.0 else alpha(self.order)

    def from_generator(self, value: ArrayLike) -> Array:
        """Renyi's divergence from the generator's value, elementwise; its derivative for the value is autodiff's.

        Raises:
            ValueError: the value is no array of floating-point numbers or integers.
        """
        value = promote(checks.number_array("Renyi.from_generator", "value", value))
        return log1p_scaled(self.order * value, self.order - 1.0)


def _generic_order(order: float, rows: Rows) -> Array:
    """Renyi's divergence of order a, not 0, 1 or inf.

    Two forms: log(1 + a (a - 1) D_alpha) / (a - 1), whose relative error is that of D_alpha, unless D_alpha is near its
    bound or large, that is, unless the sum of p^a q^{1-a} is far from 1; there its logarithm itself has digits enough.
    """
    log_powers = jnp.where(rows.both, rows.log_p + (order - 1.0) * rows.rho, -jnp.inf)
    far = jax.nn.logsumexp(log_powers, axis=-1) / (order - 1.0)
    if order <= 1000.0:  # beyond, alpha's power series overflows in float32
        record = alpha(order)
        low = rows.rho <= 0.0
        below = rows.q * record.phi(jnp.where(low, rows.rho, 0.0))
        above = rows.p * record.phi_dual(jnp.where(low, 0.0, -rows.rho))
        terms = jnp.where(rows.only_q, rows.q * record.at_zero, jnp.where(low, below, above))
        lost = rows.p * record.dual_at_zero if order < 1.0 else jnp.zeros_like(rows.p)
        value = order * jnp.sum(jnp.where(rows.only_p, lost, terms), axis=-1)
        near = ((order - 1.0) * value > -0.5) & ((order - 1.0) * value <= 1.0)
        far = jnp.where(near, log1p_scaled(jnp.where(near, value, 0.0), order - 1.0), far)
    if order > 1.0:
        far = jnp.where(jnp.any(rows.only_p, axis=-1), jnp.inf, far)
    return far


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _renyi(order: float, scale: float, a: Array, b: Array) -> Array:
    """R_a of softmax(scale * a) and softmax(scale * b), over the last axis."""
    rows = compare(a, b, scale)
    if order == 0.0:
        outside = jnp.sum(jnp.where(rows.only_q, rows.q, 0.0), axis=-1)
        inside = -jax.nn.logsumexp(jnp.where(rows.both, rows.log_q, -jnp.inf), axis=-1)
        value = jnp.where(outside < 0.5, -jnp.log1p(-jnp.minimum(outside, 0.5)), inside)
    elif order == math.inf:
        value = jnp.max(jnp.where(rows.only_p, jnp.inf, jnp.where(rows.both, rows.rho, -jnp.inf)), axis=-1)
    else:
        value = _generic_order(order, rows)
    empty = ~jnp.any(rows.both | rows.only_p | rows.only_q, axis=-1)
    return jnp.where(empty, 0.0, jnp.maximum(value, 0.0)) + rows.nan


@_renyi.defjvp
def _renyi_jvp(order, scale, primals, tangents):
    # With w = p^a q^{1-a} normalised: dR = (a (w - p) da - (a - 1) (w - q) db) / (a - 1), from w / p and w / q.
    a, b = primals
    value = _renyi(order, scale, a, b)
    rows = compare(a, b, scale)
    finite = jnp.isfinite(value)
    level = jnp.where(finite, value, 0.0)[..., None]

    def excess(mass, log_mass, exponent):
        exponent = jnp.where(rows.both, exponent, 0.0)
        small = jnp.abs(exponent) < 1.0
        moved = mass * jnp.expm1(jnp.where(small, exponent, 0.0))
        moved = jnp.where(small, moved, jnp.exp(log_mass + jnp.where(small, 0.0, exponent)) - mass)
        moved = jnp.where(rows.both, moved, -mass)
        # They sum to 0. Where one class holds most of the mass, its entry is known best from the others.
        most = is_largest(mass) & (mass > 0.5)
        return jnp.where(most, -total(jnp.where(most, 0.0, moved)), moved)

    if order == math.inf:  # one of the largest ratios, or nothing at p = q, where the value is least
        largest = is_largest(jnp.where(rows.both, rows.rho, -jnp.inf)) & (level > 0.0)
        step = jnp.where(largest, 1.0, 0.0)
        present = jnp.where(level > 0.0, 1.0, 0.0)
        grad_p, grad_q = logit_gradient(step, rows.p * present), -logit_gradient(step, rows.q * present)
    else:
        grad_q = -excess(rows.q, rows.log_q, order * rows.rho - (order - 1.0) * level)
        grad_p = jnp.zeros_like(grad_q)
        if order > 0.0:
            grad_p = order / (order - 1.0) * excess(rows.p, rows.log_p, (order - 1.0) * (rows.rho - level))
    nan = rows.nan[..., None]
    grad_p, grad_q = (scale * jnp.where(finite[..., None], g, 0.0) + nan for g in (grad_p, grad_q))
    return value, jnp.sum(grad_p * tangents[0] + grad_q * tangents[1], axis=-1)


def renyi_divergence(
    order: float,
    *,
    p_logits: ArrayLike,
    q_logits: ArrayLike,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Renyi's divergence log(sum p^a q^{1-a}) / (a - 1) of order a, increasing in a, per row.

    Order 0 is -log of q's mass where p > 0, order 1 is KL(p || q), order 1/2 is twice the Bhattacharyya distance, order
    2 is log(1 + chi-squared), order inf is max log(p / q).

    Args:
        order: a Python number in [0, inf].
        p_logits: unnormalised log-probabilities, floating, -inf for a class that p lacks.
        q_logits: the same for q, of p_logits' shape.
        axis: the axis of the classes.
        where: which classes take part, booleans that broadcast to the logits' shape.

    Returns:
        p_logits' shape without `axis`. Differentiable in both logits, twice, but for order inf, whose gradient is that
        of the first class with the largest ratio, and 0 where the value is 0.

    Raises:
        ValueError: the order is out of range; logits of no floating dtype or of different shapes; an axis out of range
            or without entries; a mask that is not boolean or does not broadcast.

    >>> p, q = jnp.log(jnp.array([0.75, 0.25])), jnp.log(jnp.array([0.5, 0.5]))
    >>> round(float(renyi_divergence(2, p_logits=p, q_logits=q)), 6)  # log(5/4)
    0.223144
    >>> round(float(renyi_divergence(float("inf"), p_logits=p, q_logits=q)), 6)  # log(3/2)
    0.405465

    Source: van Erven and Harremoes, "Renyi divergence and Kullback-Leibler divergence" (arXiv:1206.2459), equation 1,
    theorems 4 to 6.
    """
    checks.check_real("renyi_divergence", "order", order, 0.0)
    rows = logit_rows("renyi_divergence", axis, where, p_logits=p_logits, q_logits=q_logits)
    if order == 1:
        return f_divergence(kl(), p_logits=rows[0], q_logits=rows[1])
    return _renyi(float(order), 1.0, *rows)


def tsallis_divergence(
    order: float,
    *,
    p_logits: ArrayLike,
    q_logits: ArrayLike,
    axis: int = -1,
    where: ArrayLike | None = None,
) -> Array:
    r"""Tsallis' divergence (sum p^a q^{1-a} - 1) / (a - 1) = a * alpha(a): KL(p || q) at a = 1, q(p = 0) at a = 0.

    Arguments, result and errors as `renyi_divergence`; the order is in [0, inf).

    >>> p, q = jnp.log(jnp.array([0.75, 0.25])), jnp.log(jnp.array([0.5, 0.5]))
    >>> round(float(tsallis_divergence(2, p_logits=p, q_logits=q)), 6)  # chi-squared
    0.25

    Source: Tsallis, "Generalized entropy-based criterion for consistent testing" (1998).
    """
    checks.check_real("tsallis_divergence", "order", order, 0.0, math.inf, open_high=True)
    rows = logit_rows("tsallis_divergence", axis, where, p_logits=p_logits, q_logits=q_logits)
    if order < 1e-30:  # 1 / order has a float32 above it
        return -jnp.expm1(-_renyi(0.0, 1.0, *rows))
    return float(order) * f_divergence(alpha(order), p_logits=rows[0], q_logits=rows[1])


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _renyi_entropy(order: float, a: Array) -> Array:
    log_p = normalised(a)[0]
    present = log_p > -jnp.inf
    p, log_p = jnp.exp(log_p), jnp.where(present, log_p, 0.0)
    if order == 0.0:
        value = jnp.log(jnp.maximum(jnp.sum(present, axis=-1), 1)).astype(a.dtype)
    elif order == math.inf:
        value = -jnp.max(jnp.where(present, log_p, -jnp.inf), axis=-1)
    elif order == 1.0:
        value = -jnp.sum(p * log_p, axis=-1)
    else:
        # sum p^a - 1 = sum p (p^{a-1} - 1), all of one sign; its logarithm, or that of the sum where it is far from 1.
        exponent = (order - 1.0) * log_p
        powers = p * jnp.expm1(jnp.minimum(exponent, 1.0))
        powers = jnp.where(exponent > 1.0, jnp.exp(order * log_p) - p, powers)
        change = jnp.sum(jnp.where(present, powers, 0.0), axis=-1)
        log_sum = jax.nn.logsumexp(jnp.where(present, order * log_p, -jnp.inf), axis=-1)
        near = (change > -0.5) & (change <= 1.0)
        value = jnp.where(near, jnp.log1p(jnp.where(near, change, 0.0)), log_sum) / (1.0 - order)
    some = jnp.any(present, axis=-1)
    nan = jnp.where(jnp.all(a < jnp.inf, axis=-1), 0.0, jnp.nan)
    return jnp.where(some, jnp.maximum(value, 0.0), 0.0) + nan.astype(a.dtype)


@_renyi_entropy.defjvp
def _renyi_entropy_jvp(order, primals, tangents):
    # H_a = log n - R_a(p || uniform), whose gradient is accurate near p = uniform, where the entropy's vanishes.
    (a,), (da,) = primals, tangents
    uniform = jnp.where(a == -jnp.inf, -jnp.inf, jnp.zeros_like(a))

    def below(a):
        if order == 1.0:
            return f_divergence(kl(), p_logits=a, q_logits=uniform)
        return _renyi(order, 1.0, a, uniform)

    return _renyi_entropy(order, a), -jax.jvp(below, (a,), (da,))[1]


def renyi_entropy(order: float, logits: ArrayLike, *, axis: int = -1, where: ArrayLike | None = None) -> Array:
    r"""Renyi's entropy log(sum p^a) / (1 - a) of order a, decreasing in a, per row.

    Order 0 is the log of the number of classes that p has, order 1 Shannon's entropy, order inf -log max p.

    Args:
        order: a Python number in [0, inf].
        logits: unnormalised log-probabilities, floating, -inf for an absent class.
        axis: the axis of the classes.
        where: which classes take part, booleans that broadcast to the logits' shape.

    Returns:
        The logits' shape without `axis`, >= 0; 0 for a row without classes. Differentiable twice (order inf: once).

    Raises:
        ValueError: as `renyi_divergence`.

    >>> round(float(renyi_entropy(2, jnp.log(jnp.array([0.5, 0.5])))), 6)
    0.693147

    Source: Renyi, "On measures of entropy and information" (1961).
    """
    checks.check_real("renyi_entropy", "order", order, 0.0)
    return _renyi_entropy(float(order), *logit_rows("renyi_entropy", axis, where, logits=logits))


def tsallis_entropy(order: float, logits: ArrayLike, *, axis: int = -1, where: ArrayLike | None = None) -> Array:
    r"""Tsallis' entropy (1 - sum p^a) / (a - 1): Shannon's at a = 1, Gini's impurity at a = 2.

    Arguments, result and errors as `renyi_entropy`; the order is in [0, inf).

    >>> round(float(tsallis_entropy(2, jnp.log(jnp.array([0.5, 0.25, 0.25])))), 6)
    0.625

    Source: Tsallis, "Possible generalization of Boltzmann-Gibbs statistics" (1988), equation 1.
    """
    checks.check_real("tsallis_entropy", "order", order, 0.0, math.inf, open_high=True)
    (rows,) = logit_rows("tsallis_entropy", axis, where, logits=logits)
    return expm1_scaled(_renyi_entropy(float(order), rows), 1.0 - float(order))


def bhattacharyya_distance(
    *, p_logits: ArrayLike, q_logits: ArrayLike, axis: int = -1, where: ArrayLike | None = None
) -> Array:
    r"""The Bhattacharyya distance -log(sum sqrt(p q)); arguments, result and errors as `renyi_divergence`.

    >>> p, q = jnp.log(jnp.array([0.5, 0.5, 0.0])), jnp.log(jnp.array([0.0, 0.5, 0.5]))
    >>> round(float(bhattacharyya_distance(p_logits=p, q_logits=q)), 6)
    0.693147

    Source: Bhattacharyya, "On a measure of divergence between two statistical populations" (1943).
    """
    return (
        _renyi(0.5, 1.0, *logit_rows("bhattacharyya_distance", axis, where, p_logits=p_logits, q_logits=q_logits)) / 2.0
    )


def cauchy_schwarz_divergence(
    *, p_logits: ArrayLike, q_logits: ArrayLike, axis: int = -1, where: ArrayLike | None = None
) -> Array:
    r"""The Cauchy-Schwarz divergence -log((sum p q)^2 / (sum p^2 sum q^2)), minus twice the log of a cosine.

    It is Renyi's of order 1/2 between p^2 / sum p^2 and q^2 / sum q^2. Arguments, result and errors as
    `renyi_divergence`.

    >>> p, q = jnp.log(jnp.array([1.0, 0.0])), jnp.log(jnp.array([0.5, 0.5]))
    >>> round(float(cauchy_schwarz_divergence(p_logits=p, q_logits=q)), 6)  # log 2
    0.693147

    Source: Jenssen, Principe, Erdogmus, Eltoft, "The Cauchy-Schwarz divergence and Parzen windowing" (2006).
    """
    rows = logit_rows("cauchy_schwarz_divergence", axis, where, p_logits=p_logits, q_logits=q_logits)
    return _renyi(0.5, 2.0, *rows)


def gamma_divergence(
    gamma: float, *, p_logits: ArrayLike, q_logits: ArrayLike, axis: int = -1, where: ArrayLike | None = None
) -> Array:
    r"""The gamma divergence, of order g: invariant to the scale of either side, KL(p || q) at g = 0.

    log(sum p^{1+g}) / (g (1+g)) - log(sum p q^g) / g + log(sum q^{1+g}) / (1+g). It is 1 / (1+g) times Renyi's of order
    1 / (1+g) between p^{1+g} / sum p^{1+g} and q^{1+g} / sum q^{1+g}, and half of the Cauchy-Schwarz divergence at g =
    1.

    Args:
        gamma: a Python number in [0, 100]; larger values look more at the common classes.
        p_logits: the data's side; see `renyi_divergence`, as for all else.
        q_logits: the model's side.
        axis: the axis of the classes.
        where: which classes take part.

    Returns:
        p_logits' shape without `axis`.

    Raises:
        ValueError: gamma is out of range, or as `renyi_divergence`.

    >>> p, q = jnp.log(jnp.array([1.0, 0.0])), jnp.log(jnp.array([0.5, 0.5]))
    >>> round(float(gamma_divergence(1, p_logits=p, q_logits=q)), 6)  # log(2) / 2
    0.346574

    Source: Fujisawa and Eguchi, "Robust parameter estimation with a small bias against heavy contamination" (2008).
    """
    checks.check_real("gamma_divergence", "gamma", gamma, 0.0, 100.0)
    rows = logit_rows("gamma_divergence", axis, where, p_logits=p_logits, q_logits=q_logits)
    if 1.0 + gamma == 1.0:
        return f_divergence(kl(), p_logits=rows[0], q_logits=rows[1])
    scale = 1.0 + float(gamma)
    return _renyi(1.0 / scale, scale, *rows) / scale

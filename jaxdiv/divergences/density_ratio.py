"""Log-ratios log p - log q from a classifier of samples: its losses, the class prior, and its calibration.

A classifier that minimises a proper loss on samples of p (share pi) and of q (share 1 - pi) has the logit
log p - log q + log(pi / (1 - pi)): taking the prior off gives the log-ratio that every divergence here is made of.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_choice, check_instance, check_integer, check_real, floating_array
from jaxdiv.divergences.variational import sample_pair
from jaxdiv.numerics import promote, vary_alike, vary_as
from jaxdiv.typing import Array, ArrayLike

# A GPU's tf32 would end Newton's steps at three digits, and the masses of bins.
_matmul = functools.partial(jnp.matmul, precision="highest")
_einsum = functools.partial(jnp.einsum, precision="highest")


def _classes(
    function: str, p_logits: ArrayLike, q_logits: ArrayLike, prior: float | None
) -> tuple[Array, Array, float]:
    """Both arrays of logits and the prior, by default the share of p among the samples."""
    p, q = sample_pair(function, p_logits=p_logits, q_logits=q_logits)
    if prior is None:
        return p, q, p.shape[-1] / (p.shape[-1] + q.shape[-1])
    check_real(function, "prior", prior, 0.0, 1.0, open_low=True, open_high=True)
    return p, q, float(prior)


def classifier_loss(
    *, p_logits: ArrayLike, q_logits: ArrayLike, prior: float | None = None, loss: str = "logistic"
) -> Array:
    r"""A proper loss of a classifier with logit l for "from p": prior E_p[loss(l)] + (1 - prior) E_q[loss(-l)].

    - "logistic": loss(l) = softplus(-l). It is the entropy of the prior less the Fenchel bound of
      `jensen_shannon(prior)` at v = l - log(prior / (1 - prior)), so minimising it is tightening that bound.
    - "brier": sigmoid(-l)^2, bounded, so gentler on mislabelled samples; at prior 1/2 it is 1/4 less an eighth of a
      bound on `le_cam`.
    - "exponential": e^{-l/2}, the loss of boosting; at prior 1/2 it is 1 less half a bound on `squared_hellinger`.

    Args:
        p_logits: floating ``[..., N]``, the logits at samples from p.
        q_logits: floating ``[..., M]``, at samples from q.
        prior: the share of p that the loss assumes, in (0, 1); None takes N / (N + M), the mean over all samples.
        loss: "logistic", "brier" or "exponential".

    Returns:
        One number per batch row ``[...]``, float32 (float64 where an input is), differentiable in both arrays.

    Raises:
        ValueError: empty or integer logits, different batch dimensions, a prior outside (0, 1), an unknown loss.

    Source: Reid and Williamson, "Information, divergence and risk for binary experiments" (arXiv:0901.0356), theorem 9;
    Sugiyama, Suzuki, Kanamori, "Density ratio estimation in machine learning" (2012).

    >>> round(float(classifier_loss(p_logits=jnp.zeros(3), q_logits=jnp.zeros(5))), 6)  # log 2
    0.693147
    """
    function = "classifier_loss"
    p, q, share = _classes(function, p_logits, q_logits, prior)
    check_choice(function, "loss", loss, ("logistic", "brier", "exponential"))
    if loss == "logistic":
        right, wrong = jax.nn.softplus(-p), jax.nn.softplus(q)
    elif loss == "brier":
        right, wrong = jnp.square(jax.nn.sigmoid(-p)), jnp.square(jax.nn.sigmoid(q))
    else:
        right, wrong = jnp.exp(-p / 2.0), jnp.exp(q / 2.0)
    return share * jnp.mean(right, axis=-1) + (1.0 - share) * jnp.mean(wrong, axis=-1)


def log_ratio_from_logits(logits: ArrayLike, *, prior: float) -> Array:
    r"""Log p - log q = logit - log(prior / (1 - prior)), from a classifier trained with that share of samples from p.

    Args:
        logits: floating, any shape: the classifier's logits for "from p".
        prior: the share of p that its loss assumed, in (0, 1): N / (N + M) for a plain mean over N and M samples.

    Returns:
        Log-ratios of the same shape, float32 (float64 for float64).

    Raises:
        ValueError: logits is no floating array or prior is no number in (0, 1).

    Source: Bickel, Brueckner, Scheffer, "Discriminative learning under covariate shift" (2009).

    >>> round(float(log_ratio_from_logits(jnp.log(3.0), prior=0.75)), 6)
    0.0
    """
    function = "log_ratio_from_logits"
    logits = promote(floating_array(function, "logits", logits))
    check_real(function, "prior", prior, 0.0, 1.0, open_low=True, open_high=True)
    return logits - (math.log(prior) - math.log1p(-prior))


class Calibration(NamedTuple):
    """The affine map of a classifier's logits that makes its probabilities right on held-out samples."""

    scale: Array
    """Factor of the logits, 1 / temperature, ``[...]``."""
    shift: Array
    """What is added to them, ``[...]``."""
    loss: Array
    """Logistic loss of the calibrated logits; near 0 the samples are separable and no finite scale is best."""
    converged: Array
    """Whether Newton's method met its tolerance, booleans ``[...]``."""

    def apply(self, logits: ArrayLike) -> Array:
        """Calibrated logits ``[..., N]``: scale * logits + shift, row by row; float32 (float64 for float64)."""
        logits = promote(floating_array("Calibration.apply", "logits", logits))
        return self.scale[..., None] * logits + self.shift[..., None]


def _fit(p: Array, q: Array, share: float, with_shift: bool, num_steps: int) -> Calibration:
    """Damped Newton for one row: logistic regression on one feature is convex and smooth, and starts from 0 safely."""
    eps = float(jnp.finfo(p.dtype).eps)
    x, sign = jnp.concatenate([p, q]), jnp.concatenate([jnp.ones_like(p), -jnp.ones_like(q)])
    largest = jnp.max(jnp.abs(x))
    unit = jnp.where(largest > 0.0, largest, 1.0)  # features of one size keep the 2 x 2 system solvable
    features = jnp.stack([x / unit, jnp.full_like(x, float(with_shift))], axis=-1)
    weights = jnp.where(sign > 0.0, share / p.size, (1.0 - share) / q.size)
    sizes = 0.5 ** jnp.arange(10, dtype=p.dtype)

    def loss(theta):
        return jnp.sum(weights * jax.nn.softplus(-sign * _matmul(features, theta)))

    def newton(state):
        theta, _, step = state
        z = _matmul(features, theta)
        slope = _matmul(features.T, -weights * sign * jax.nn.sigmoid(-sign * z))
        curvature = _matmul(features.T, (weights * jax.nn.sigmoid(z) * jax.nn.sigmoid(-z))[:, None] * features)
        ridge = 4.0 * eps * jnp.trace(curvature) + jnp.finfo(p.dtype).tiny
        move = -jnp.linalg.solve(curvature + ridge * jnp.eye(2, dtype=p.dtype), slope)
        trials = theta + sizes[:, None] * move
        now = loss(theta)
        allowed = jax.vmap(loss)(trials) <= now * (1.0 + 4.0 * eps)
        theta = jnp.where(jnp.any(allowed), trials[jnp.argmax(allowed)], theta)
        return theta, -_matmul(slope, move), step + 1  # twice the loss that a quadratic would still lose

    def unfinished(state):
        return (state[1] > 4.0 * eps) & (state[2] < num_steps)

    start = vary_as((jnp.zeros(2, p.dtype), jnp.asarray(jnp.inf, p.dtype), jnp.int32(0)), p)
    theta, decrement, _ = jax.lax.while_loop(unfinished, newton, start)
    return Calibration(theta[0] / unit, theta[1], loss(theta), decrement <= 4.0 * eps)


def fit_calibration(
    *,
    p_logits: ArrayLike,
    q_logits: ArrayLike,
    prior: float | None = None,
    with_shift: bool = True,
    num_steps: int = 50,
) -> Calibration:
    r"""Calibrate a classifier's logits on held-out samples: the scale and shift of least logistic loss.

    With the shift it is Platt's scaling, without it temperature scaling (temperature 1 / scale). A shift also takes up
    a wrong class prior. Newton's method with halved steps, under `jax.lax.while_loop`, row by row.

    Args:
        p_logits: floating ``[..., N]``, finite logits at held-out samples from p.
        q_logits: floating ``[..., M]``, at held-out samples from q.
        prior: the share of p to calibrate for, in (0, 1); None takes N / (N + M).
        with_shift: whether to fit the shift, or keep it 0.
        num_steps: the most steps of Newton's method, at least 1; it takes about 6.

    Returns:
        scale, shift, loss and convergence per batch row ``[...]``, float32 (float64 where an input is); no gradient
        passes. Separable samples have no best scale: it grows until the loss is below rounding.

    Raises:
        ValueError: empty or integer logits, different batch dimensions, a prior outside (0, 1), num_steps below 1.

    Source: Platt, "Probabilistic outputs for support vector machines" (1999), without his smoothed targets; Guo et al.,
    "On calibration of modern neural networks" (arXiv:1706.04599), section 4.

    >>> logits = 2.0 * jnp.log(jnp.array([3.0, 1.0 / 3.0]))  # twice what the counts below say
    >>> fit = fit_calibration(p_logits=logits[jnp.array([0, 0, 0, 1])], q_logits=logits[jnp.array([0, 1, 1, 1])])
    >>> round(float(fit.scale), 4), abs(round(float(fit.shift), 4)), bool(fit.converged)
    (0.5, 0.0, True)
    """
    function = "fit_calibration"
    p, q, share = _classes(function, p_logits, q_logits, prior)
    check_instance(function, "with_shift", with_shift, bool)
    check_integer(function, "num_steps", num_steps, 1)
    dtype = jnp.promote_types(p.dtype, q.dtype)
    p, q = vary_alike([jax.lax.stop_gradient(x.astype(dtype)) for x in (p, q)])
    fit = functools.partial(_fit, share=share, with_shift=with_shift, num_steps=num_steps)
    rows = jax.vmap(fit)(p.reshape(-1, p.shape[-1]), q.reshape(-1, q.shape[-1]))
    return Calibration(*(x.reshape(p.shape[:-1]) for x in rows))


class CalibrationError(NamedTuple):
    """A reliability diagram and its summary, per batch row."""

    value: Array
    """Expected calibration error: sum over bins of mass * |frequency - confidence|, ``[...]``."""
    confidence: Array
    """Mean predicted probability of p in each bin, ``[..., bins]``; 0 in an empty one."""
    frequency: Array
    """Share of p that each bin has, ``[..., bins]``; 0 in an empty one."""
    mass: Array
    """Share of all samples that each bin has, ``[..., bins]``; sums to 1."""


def calibration_error(
    *, p_logits: ArrayLike, q_logits: ArrayLike, prior: float | None = None, num_bins: int = 15
) -> CalibrationError:
    r"""The expected calibration error of a classifier of p against q, with the reliability diagram behind it.

    Probabilities sigmoid(l) fall into bins of equal width; a sample of p weighs prior / N and one of q
    (1 - prior) / M. A perfect classifier has 0 in expectation only: with n samples in a bin the frequency is off by
    about 1/(2 sqrt n).

    Args:
        p_logits: floating ``[..., N]``, the logits at samples from p.
        q_logits: floating ``[..., M]``, at samples from q.
        prior: the share of p, in (0, 1); None takes N / (N + M).
        num_bins: how many bins, at least 1.

    Returns:
        The error in [0, 1] and its bins, float32 (float64 where an input is). The binning has no gradient.

    Raises:
        ValueError: empty or integer logits, different batch dimensions, a prior outside (0, 1), num_bins below 1.

    Source: Guo et al., "On calibration of modern neural networks" (arXiv:1706.04599), equation 3.

    >>> logits = jnp.log(jnp.array([3.0, 1.0 / 3.0]))  # 3/4 and 1/4 predicted; 2/3 and 1/3 observed
    >>> error = calibration_error(p_logits=logits[jnp.array([0, 0, 1])], q_logits=logits[jnp.array([0, 1, 1])])
    >>> round(float(error.value), 6)
    0.083333
    """
    function = "calibration_error"
    p, q, share = _classes(function, p_logits, q_logits, prior)
    check_integer(function, "num_bins", num_bins, 1)
    probability = jax.nn.sigmoid(jnp.concatenate([p, q], axis=-1))
    from_p = jnp.concatenate([jnp.full(p.shape[-1], share / p.shape[-1]), jnp.zeros(q.shape[-1])]).astype(p.dtype)
    from_q = jnp.concatenate([jnp.zeros(p.shape[-1]), jnp.full(q.shape[-1], (1.0 - share) / q.shape[-1])])
    weights = from_p + from_q.astype(p.dtype)
    index = jnp.minimum(jnp.floor(probability * num_bins), num_bins - 1).astype(jnp.int32)
    member = jax.nn.one_hot(index, num_bins, dtype=probability.dtype)
    mass = _einsum("...nb,n->...b", member, weights)
    total = jnp.where(mass > 0.0, mass, 1.0)
    confidence = _einsum("...nb,...n->...b", member, weights * probability) / total
    frequency = _einsum("...nb,n->...b", member, from_p) / total
    value = jnp.sum(mass * jnp.abs(frequency - confidence), axis=-1)
    return CalibrationError(value, confidence, frequency, mass)

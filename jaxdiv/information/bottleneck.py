"""Objectives of information bottlenecks: loss = prediction + beta rate, and both terms beside it.

Here beta weighs the rate: 0 compresses nothing. Tishby's Lagrangian I(X; T) - tishby_beta I(T; Y) weighs the relevance;
where prediction estimates H(Y | T) and rate I(X; T), tishby_beta = 1 / beta. Each function says what holds for it.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import entr

from jaxdiv.checks import (
    check_choice,
    check_flag,
    check_instance,
    check_real,
    check_same_shape,
    check_scalar,
    check_shape,
    fail,
    floating_array,
)
from jaxdiv.divergences import Gaussian, Kernel, gaussian_kl
from jaxdiv.divergences.two_sample.arguments import CHUNK_SIZE, check_chunk
from jaxdiv.information.arguments import check_positive, check_rows, check_variance, paired_samples
from jaxdiv.information.cauchy_schwarz import VARIANTS, conditional_cauchy_schwarz, cs_qmi
from jaxdiv.information.dependence import normalized_hsic
from jaxdiv.information.kernel_density import kolchinsky_tracey_bounds
from jaxdiv.numerics import promote
from jaxdiv.typing import Array

_TRANSFORMS = {"identity": lambda rate: rate, "square": jnp.square, "exponential": jnp.exp}


class BottleneckLoss(NamedTuple):
    """What is minimised, and what it is made of: scalars, float32 (float64 where an input is)."""

    loss: Array
    prediction: Array
    rate: Array
    """Before its transform, if there is one."""


def _losses(function: str, value: Any, count: int) -> Array:
    losses = promote(floating_array(function, "prediction_losses", value))
    check_shape(function, "prediction_losses", losses, (count,))
    return losses


def _add(prediction: Array, rate: Array, beta: Any, transform: str = "identity") -> BottleneckLoss:
    return BottleneckLoss(prediction + beta * _TRANSFORMS[transform](rate), prediction, rate)


def _encoder(function: str, means: Any, log_variances: Any, name: str = "") -> Gaussian:
    given = {f"{name}means": means, f"{name}log_variances": log_variances}
    check_same_shape(function, **given)
    mean, log_variance = paired_samples(function, **given)
    return Gaussian(mean, variance=jnp.exp(log_variance))


def vib_loss(
    prediction_losses: Any,
    means: Any,
    log_variances: Any,
    *,
    beta: Any,
    prior: Gaussian | None = None,
    transform: str = "identity",
) -> BottleneckLoss:
    r"""Variational information bottleneck: mean_i [-log q(y_i | z_i)] + beta mean_i KL(q(z | x_i) || r(z)).

    The rate bounds I(X; Z) from above for every r, the prediction H(Y | Z) for every q: tishby_beta = 1 / beta where
    both are tight. With transform "square" or "exponential" the loss has rate^2 or e^rate in place of rate, which
    reaches the whole of a curve that has straight pieces; then tishby_beta = 1 / (2 beta rate) or 1 / (beta e^rate).

    Args:
        prediction_losses: ``[N]`` floating, -log q(y_i | z_i) at draws z_i of the encoder.
        means: ``[N, d]`` or ``[N]`` floating, of q(z | x_i).
        log_variances: floating, the shape of means.
        beta: a number of at least 0, or a floating scalar array.
        prior: r, a `Gaussian` with mean ``[d]``, learned or not; None for N(0, I).
        transform: "identity", "square" or "exponential".

    Returns:
        `BottleneckLoss`, differentiable in all arrays.

    Raises:
        ValueError: wrong shapes, dtypes, beta, prior or transform.

    Source: Alemi, Fischer, Dillon, Murphy, "Deep variational information bottleneck" (arXiv:1612.00410), equation 17;
    Kolchinsky, Tracey, Van Kuyk (arXiv:1808.07593) and Rodriguez Galvez, Thobaben, Skoglund, "The convex information
    bottleneck Lagrangian" (arXiv:1911.11000), on transforms.

    >>> out = vib_loss(jnp.array([0.5, 1.5]), jnp.array([1.0, -1.0]), jnp.zeros(2), beta=0.5)
    >>> float(out.loss), float(out.prediction), float(out.rate)
    (1.25, 1.0, 0.5)
    """
    function = "vib_loss"
    check_scalar(function, "beta", beta, 0.0)
    check_choice(function, "transform", transform, tuple(_TRANSFORMS))
    encoder = _encoder(function, means, log_variances)
    shape = jnp.shape(encoder.mean)
    losses = _losses(function, prediction_losses, shape[0])
    if prior is None:
        prior = Gaussian(jnp.zeros_like(encoder.mean[0]), variance=jnp.ones_like(encoder.mean[0]))
    if not isinstance(prior, Gaussian) or jnp.shape(prior.mean) != shape[1:]:
        raise fail(function, "prior", f"is {prior!r}", f"a Gaussian with mean of shape {shape[1:]}")
    target = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (shape[0], *jnp.shape(leaf))), prior)
    return _add(jnp.mean(losses), jnp.mean(gaussian_kl(p=encoder, q=target)), beta, transform)


def ceb_loss(
    prediction_losses: Any,
    means: Any,
    log_variances: Any,
    backward_means: Any,
    backward_log_variances: Any,
    *,
    beta: Any,
) -> BottleneckLoss:
    r"""Conditional entropy bottleneck: mean_i [-log q(y_i | z_i)] + beta mean_i KL(e(z | x_i) || b(z | y_i)).

    The rate is E[log e(z | x) - log b(z | y)] with the mean over z in closed form, at least I(X; Z | Y) = I(X; Z) -
    I(Y; Z). What is minimised is beta I(X; Z) - (1 + beta) I(Y; Z) where all is tight: tishby_beta = 1 + 1 / beta.

    Args:
        prediction_losses: ``[N]`` floating, -log q(y_i | z_i) at draws z_i of the encoder.
        means: ``[N, d]`` or ``[N]`` floating, of the encoder e(z | x_i).
        log_variances: floating, the shape of means.
        backward_means: floating, the shape of means: of b(z | y_i), which sees the label alone.
        backward_log_variances: floating, the shape of means.
        beta: a number of at least 0, or a floating scalar array.

    Returns:
        `BottleneckLoss`, differentiable in all arrays.

    Raises:
        ValueError: wrong shapes, dtypes or beta.

    Source: Fischer, "The conditional entropy bottleneck" (arXiv:2002.05379), section 2.

    >>> zero = jnp.zeros(1)
    >>> float(ceb_loss(zero, jnp.array([2.0]), zero, jnp.array([1.0]), zero, beta=1.0).rate)
    0.5
    """
    function = "ceb_loss"
    check_scalar(function, "beta", beta, 0.0)
    encoder = _encoder(function, means, log_variances)
    backward = _encoder(function, backward_means, backward_log_variances, "backward_")
    check_same_shape(function, means=encoder.mean, backward_means=backward.mean)
    losses = _losses(function, prediction_losses, jnp.shape(encoder.mean)[0])
    return _add(jnp.mean(losses), jnp.mean(gaussian_kl(p=encoder, q=backward)), beta)


def nib_loss(
    prediction_losses: Any,
    means: Any,
    *,
    variance: Any,
    beta: Any,
    transform: str = "identity",
    chunk_size: int = CHUNK_SIZE,
) -> BottleneckLoss:
    r"""Nonlinear information bottleneck: mean_i [-log q(y_i | z_i)] + beta I_upper(X; Z), Z = means[i] + noise.

    The rate is the upper bound of `kolchinsky_tracey_bounds` on the samples' own law, at most log N; on a minibatch it
    falls short of the population's. tishby_beta = 1 / beta where all is tight; "square" is the squared NIB, with
    tishby_beta = 1 / (2 beta rate), and "exponential" has e^rate, with 1 / (beta e^rate).

    Args:
        prediction_losses: ``[N]`` floating, -log q(y_i | z_i) at draws z_i.
        means: ``[N, d]`` or ``[N]`` floating: the representation before its noise, N >= 2.
        variance: of the noise, a positive number or an array of shape () or ``[d]``.
        beta: a number of at least 0, or a floating scalar array.
        transform: "identity", "square" or "exponential".
        chunk_size: rows of the pair matrix that exist at once.

    Returns:
        `BottleneckLoss`, differentiable in all arrays.

    Raises:
        ValueError: wrong shapes, dtypes, variance, beta or transform.

    Source: Kolchinsky, Tracey, Wolpert, "Nonlinear information bottleneck" (arXiv:1705.02436), section 2; Kolchinsky,
    Tracey, Van Kuyk (arXiv:1808.07593) for the square.

    >>> out = nib_loss(jnp.zeros(2), jnp.array([0.0, 100.0]), variance=1.0, beta=2.0, transform="square")
    >>> round(float(out.rate), 4), round(float(out.loss), 4)  # log 2, and 2 log(2)^2
    (0.6931, 0.9609)
    """
    function = "nib_loss"
    check_scalar(function, "beta", beta, 0.0)
    check_choice(function, "transform", transform, tuple(_TRANSFORMS))
    (mean,) = paired_samples(function, means=means)
    check_rows(function, "means", mean, 2)
    check_variance(function, variance, mean.shape[1])
    check_chunk(function, chunk_size)
    losses = _losses(function, prediction_losses, mean.shape[0])
    _, upper = kolchinsky_tracey_bounds(mean, variance=variance, chunk_size=chunk_size)
    return _add(jnp.mean(losses), upper.value, beta, transform)


def dib_loss(prediction_losses: Any, assignments: Any, *, beta: Any) -> BottleneckLoss:
    r"""Deterministic information bottleneck: mean_i [-log q(y_i | t_i)] + beta H(T), T discrete.

    H(T) is the entropy of mean_i q(t | x_i), at least I(X; T) and equal to it for a hard encoder: tishby_beta = 1 /
    beta in H(T) - tishby_beta I(T; Y). `information_bottleneck_curve` with form="deterministic" solves it on finite
    alphabets.

    Args:
        prediction_losses: ``[N]`` floating, -log q(y_i | t_i), or its mean under q(t | x_i).
        assignments: ``[N, K]`` floating, rows q(t | x_i) that sum to 1.
        beta: a number of at least 0, or a floating scalar array.

    Returns:
        `BottleneckLoss`, differentiable where every cluster is used.

    Raises:
        ValueError: wrong shapes, dtypes or beta.

    Source: Strouse, Schwab, "The deterministic information bottleneck" (arXiv:1604.00268).

    >>> round(float(dib_loss(jnp.zeros(2), jnp.eye(2), beta=1.0).rate), 4)  # log 2
    0.6931
    """
    function = "dib_loss"
    check_scalar(function, "beta", beta, 0.0)
    rows = promote(floating_array(function, "assignments", assignments))
    if rows.ndim != 2 or 0 in rows.shape:
        raise fail(function, "assignments", f"has shape {rows.shape}", "shape [N, K] with entries")
    losses = _losses(function, prediction_losses, rows.shape[0])
    return _add(jnp.mean(losses), jnp.sum(entr(jnp.mean(rows, axis=0))), beta)


def hsic_bottleneck_loss(
    representation: Any,
    x: Any,
    y: Any,
    *,
    beta: Any,
    representation_kernel: Kernel | None = None,
    x_kernel: Kernel | None = None,
    y_kernel: Kernel | None = None,
    ridge: float = 1e-5,
) -> BottleneckLoss:
    r"""HSIC bottleneck of one layer: -nHSIC(Z, Y) + beta nHSIC(Z, X).

    Ma et al. minimise nHSIC(Z, X) - b nHSIC(Z, Y), b times this with beta = 1 / b; their 500 is beta = 0.002. Neither
    term is an information, so no tishby_beta belongs to it.

    Args:
        representation: ``[N, d]`` or ``[N]`` floating, Z, N >= 2.
        x: ``[N, dx]`` or ``[N]`` floating.
        y: ``[N, dy]`` or ``[N]`` floating; one-hot rows for classes.
        beta: a number of at least 0, or a floating scalar array.
        representation_kernel: a `Kernel`; None is a Gaussian with the median bandwidth, which is held fixed.
        x_kernel: the same for x.
        y_kernel: the same for y.
        ridge: positive, as in `normalized_hsic`.

    Returns:
        `BottleneckLoss`, differentiable in all arrays.

    Raises:
        ValueError: wrong shapes, dtypes, kernels, ridge or beta.

    Source: Ma, Lewis, Kleijn, "The HSIC bottleneck: deep learning without back-propagation" (arXiv:1908.01580).

    >>> x = jnp.array([0.0, 1.0, 2.0, 4.0])
    >>> out = hsic_bottleneck_loss(x, x, x, beta=1.0)
    >>> float(out.loss), bool(out.rate > 1.0)
    (0.0, True)
    """
    function = "hsic_bottleneck_loss"
    check_scalar(function, "beta", beta, 0.0)
    check_real(function, "ridge", ridge, 0.0, float("inf"), open_low=True, open_high=True)
    representation, x, y = paired_samples(function, representation=representation, x=x, y=y)
    check_rows(function, "representation", representation, 2)
    kernels = {"representation_kernel": representation_kernel, "x_kernel": x_kernel, "y_kernel": y_kernel}
    for name, kernel in kernels.items():
        if kernel is not None:
            check_instance(function, name, kernel, Kernel)
    relevance = normalized_hsic(representation, y, x_kernel=representation_kernel, y_kernel=y_kernel, ridge=ridge)
    rate = normalized_hsic(representation, x, x_kernel=representation_kernel, y_kernel=x_kernel, ridge=ridge)
    return _add(-relevance.value, rate.value, beta)


def cs_bottleneck_loss(
    x: Any,
    y: Any,
    prediction: Any,
    representation: Any,
    *,
    beta: Any,
    sigma: Any = 1.0,
    variant: str = "published",
    normalized: bool = False,
    chunk_size: int = CHUNK_SIZE,
) -> BottleneckLoss:
    r"""CS-IB for regression: D_CS(p(y | x); q(prediction | x)) + beta I_CS(x; representation).

    Both terms move with sigma and neither is an information, so no tishby_beta belongs to it. The prediction term may
    fall below 0 (see `conditional_cauchy_schwarz`).

    Args:
        x: ``[N, dx]`` or ``[N]`` floating, N >= 2, standardised for sigma to mean the same in every coordinate.
        y: ``[N, dy]`` or ``[N]`` floating.
        prediction: floating, the shape of y.
        representation: ``[N, d]`` or ``[N]`` floating, noisy where the encoder is.
        beta: a number of at least 0, or a floating scalar array.
        sigma: the kernels' width, a positive number or a scalar array; a tuple of three for (x, y and prediction,
            representation).
        variant: "published", the paper's proposition 1, or "released", its code.
        normalized: divide I_CS as `cs_qmi` does, which the released training does.
        chunk_size: rows of the Gram matrices that exist at once.

    Returns:
        `BottleneckLoss`, differentiable in all arrays and sigma.

    Raises:
        ValueError: wrong shapes, dtypes, sigma, variant or beta.

    Source: Yu et al., "Cauchy-Schwarz divergence information bottleneck for regression" (arXiv:2404.17951),
    propositions 1 and 2.

    >>> x = jnp.array([0.0, 100.0])
    >>> out = cs_bottleneck_loss(x, x, x, x, beta=2.0)
    >>> abs(round(float(out.prediction), 4)), round(float(out.rate), 4)  # a perfect prediction; log 2
    (0.0, 0.6931)
    """
    function = "cs_bottleneck_loss"
    check_scalar(function, "beta", beta, 0.0)
    widths = sigma if isinstance(sigma, tuple) else (sigma,) * 3
    if len(widths) != 3:
        raise fail(function, "sigma", f"has {len(widths)} entries", "a positive number or a tuple of three")
    for width in widths:
        check_positive(function, "sigma", width)
    check_choice(function, "variant", variant, VARIANTS)
    check_flag(function, "normalized", normalized)
    check_chunk(function, chunk_size)
    given = {"x": x, "y": y, "prediction": prediction, "representation": representation}
    x, y, prediction, representation = paired_samples(function, **given)
    check_rows(function, "x", x, 2)
    check_same_shape(function, y=y, prediction=prediction)
    fit = conditional_cauchy_schwarz(x, y, prediction, sigma=widths[:2], variant=variant, chunk_size=chunk_size)
    kept = cs_qmi(x, representation, sigma=(widths[0], widths[2]), normalized=normalized, chunk_size=chunk_size)
    return _add(fit.value, kept.value, beta)

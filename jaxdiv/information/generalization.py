"""Quantities in which information bounds the generalization gap, E[loss at a new sample] - E[loss at a training one].

Where a theorem's constants could not be checked, the function returns the term without them and says so.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_choice, check_integer, check_key, check_same_shape, check_scalar, fail, floating_array
from jaxdiv.divergences import Gaussian, gaussian_kl
from jaxdiv.information.arguments import label_array, paired_samples
from jaxdiv.information.estimate import Estimate, make_estimate
from jaxdiv.numerics import promote
from jaxdiv.typing import Array

_ROWS = 256


def encoder_information(
    means: Any, log_variances: Any, labels: Any = None, *, key: Array, bound: str = "lower"
) -> Estimate:
    r"""I(X; Z | Y), or I(X; Z) without labels, of an encoder q(z | x) = N(means, diag exp log_variances).

    One z_i is drawn per sample, and compared with what the samples of its class (of all, without labels) would give:

        mean_i [ log q(z_i | x_i) - log mean_m q(z_i | x_m) ],   m over the class of i.

    With m = i this bounds I(X; Z | Y) from below in expectation, and cannot exceed the mean log size of a class;
    without it, from above. The classes' sizes count as given and the samples of each as independent.

    Args:
        means: ``[N, d]`` or ``[N]`` floating.
        log_variances: floating, the shape of means.
        labels: ``[N]`` integers, Y; None for one class.
        key: a typed key for the N draws.
        bound: "lower" or "upper".

    Returns:
        `Estimate` in nats, kind "lower bound" or "upper bound", float32 (float64 where an input is), differentiable in
        means and log_variances by the reparametrised draw. ``info["local"]`` has the N terms, whose ``stderr`` takes
        them as independent. A class of one sample makes the upper bound infinite and adds 0 to the lower.

    Raises:
        ValueError: wrong shapes, dtypes, key or bound.

    Source: Kawaguchi, Deng, Ji, Huang, "How does information bottleneck help deep learning?" (arXiv:2305.18887), whose
    theorems speak of I(X; Z | Y); Poole et al., "On variational bounds of mutual information" (arXiv:1905.06922),
    section 2, for both bounds.

    >>> means = jnp.array([0.0, 0.0, 100.0, 100.0])
    >>> key = jax.random.key(0)
    >>> round(float(encoder_information(means, jnp.zeros(4), key=key)), 4)  # which of two places: log 2
    0.6931
    >>> float(encoder_information(means, jnp.zeros(4), [0, 0, 1, 1], key=key))  # the label says it already
    0.0
    """
    function = "encoder_information"
    check_same_shape(function, means=means, log_variances=log_variances)
    mean, log_variance = paired_samples(function, means=means, log_variances=log_variances)
    count = mean.shape[0]
    classes = jnp.zeros(count, jnp.int32) if labels is None else label_array(function, "labels", labels, count)
    check_key(function, key)
    check_choice(function, "bound", bound, ("lower", "upper"))
    draws = mean + jnp.exp(log_variance / 2.0) * jax.random.normal(key, mean.shape, mean.dtype)
    precision, normalizer = jnp.exp(-log_variance), jnp.sum(log_variance, axis=1)

    def term(row):
        index, z = row
        log_q = -(jnp.sum(jnp.square(z - mean) * precision, axis=1) + normalizer) / 2.0
        members = classes == classes[index]
        if bound == "upper":
            members = members & (jnp.arange(count) != index)
        size = jnp.sum(members)
        relative = jnp.where(members, log_q - log_q[index], -jnp.inf)
        # The logarithm of an empty mean is -inf; logsumexp's own derivative there is not a number.
        relative = jnp.where(size == 0, 0.0, relative)
        log_mean = jax.nn.logsumexp(relative) - jnp.log(size.astype(mean.dtype))
        return jnp.where(size == 0, jnp.inf, -log_mean), size

    local, sizes = jax.lax.map(term, (jnp.arange(count), draws), batch_size=_ROWS)
    local = local.astype(mean.dtype)
    ceiling = jnp.mean(jnp.log(sizes.astype(mean.dtype))) if bound == "lower" else jnp.inf
    return make_estimate(jnp.mean(local), kind=f"{bound} bound", local=local, ceiling=ceiling)


def posterior_information(means: Any, log_variances: Any) -> Estimate:
    r"""I(phi; S) between parameters and training set, from Gaussian posteriors of K training sets, by pairwise KL.

        -mean_i log mean_j exp(-KL(q_i || q_j)),   q_i = N(means_i, diag exp log_variances_i)

    For S one of these K sets it is an upper bound; of I(phi; S) with S from all possible sets it shows at most log K.

    Args:
        means: ``[K, P]`` floating: one posterior, for instance SWAG's, per training set.
        log_variances: ``[K, P]`` floating.

    Returns:
        `Estimate` in nats, kind "plug-in", ceiling log K, float32 (float64 where an input is), differentiable.
        ``info["divergences"]`` has KL(q_i || q_j), ``[K, K]``.

    Raises:
        ValueError: wrong shapes or dtypes.

    Source: Kolchinsky, Tracey, "Estimating mixture entropy with pairwise distances" (arXiv:1706.02419),
    section 3, for the bound; Kawaguchi et al. (arXiv:2305.18887) for its use.

    >>> estimate = posterior_information(jnp.array([[0.0], [1e3]]), jnp.zeros((2, 1)))
    >>> round(float(estimate), 4), round(float(estimate.ceiling), 4)
    (0.6931, 0.6931)
    """
    function = "posterior_information"
    check_same_shape(function, means=means, log_variances=log_variances)
    mean, log_variance = paired_samples(function, means=means, log_variances=log_variances)
    variance = jnp.exp(log_variance)

    def row(own):
        p = Gaussian(jnp.broadcast_to(own[0], mean.shape), variance=jnp.broadcast_to(own[1], mean.shape))
        return gaussian_kl(p=p, q=Gaussian(mean, variance=variance))

    divergences = jax.lax.map(row, (mean, variance))
    log_count = jnp.log(jnp.asarray(mean.shape[0], mean.dtype))
    local = log_count - jax.nn.logsumexp(-divergences, axis=1)
    return make_estimate(jnp.mean(local), kind="plug-in", ceiling=log_count, divergences=divergences)


def bottleneck_gap_scale(information: Any, *, num_samples: int, parameter_information: Any = 0.0) -> Array:
    r"""sqrt((I(X; Z | Y) + I(phi; S)) / n): the term of the bottleneck's gap bounds that depends on information.

    The theorems multiply it by a constant of the loss, add constants under the root, and add a term of order
    1 / sqrt(n). These constants are not part of this value, so it ranks networks but bounds no gap.

    Args:
        information: ``[...]`` floating, I(X; Z_l | Y) in nats, for instance per layer (take the minimum after).
        num_samples: n, the size of the training set.
        parameter_information: floating, the shape of information or a scalar: I(phi_l; S) in nats of an encoder that
            was learned on the same data; 0 for one that was not.

    Returns:
        ``[...]``, float32 (float64 where an input is), differentiable off 0; NaN where the sum is negative.

    Raises:
        ValueError: wrong shapes, dtypes or number of samples.

    Source: Kawaguchi, Deng, Ji, Huang (arXiv:2305.18887), theorems 1 and 2, with nats for their bits.

    >>> float(bottleneck_gap_scale(3.0, num_samples=16, parameter_information=1.0))
    0.5
    """
    function = "bottleneck_gap_scale"
    check_integer(function, "num_samples", num_samples, 1)
    value = promote(floating_array(function, "information", information))
    extra = promote(floating_array(function, "parameter_information", parameter_information))
    if extra.shape not in ((), value.shape):
        raise fail(function, "parameter_information", f"has shape {extra.shape}", f"shape () or {value.shape}")
    return jnp.sqrt((value + extra) / float(num_samples))


def mean_estimator_information(*, dimension: int, num_samples: int) -> Array:
    r"""I(W; Z_i) = (d / 2) log(n / (n - 1)) of W = mean(Z_1, ..., Z_n), Z_i independent N(mu, s^2 I) in d dimensions.

    W has variance s^2 / n, and (n - 1) s^2 / n^2 once Z_i is known: mu and s do not matter.

    Args:
        dimension: d, at least 1.
        num_samples: n, at least 1; infinite information at 1, where W is Z_1.

    Returns:
        A float32 scalar in nats (float64 under x64).

    Raises:
        ValueError: d or n is no integer of at least 1.

    Source: derived; the binary Gaussian example of He, Goldfeld, "Information-theoretic generalization bounds for deep
    neural networks" (arXiv:2404.03176).

    >>> round(float(mean_estimator_information(dimension=2, num_samples=10)), 6)
    0.105361
    """
    check_integer("mean_estimator_information", "dimension", dimension, 1)
    check_integer("mean_estimator_information", "num_samples", num_samples, 1)
    return -0.5 * dimension * jnp.log1p(jnp.asarray(-1.0 / num_samples, float))


def kl_generalization_bounds(divergences: Any, *, sub_gaussian: Any, contractions: Any = None) -> Array:
    r"""mean_i sqrt(2 sub_gaussian^2 D_i) >= |generalization gap|, for a loss sub-Gaussian at every fixed W.

    D_i = KL(P_{T_i, Y_i | W} || P_{T, Y | W} | P_W): how much the representation of training sample i differs from that
    of a new one, for known weights W. At the input it is I(W; Z_i), and no later layer makes it larger; layers with
    contraction coefficients eta_1, ..., eta_L (`jaxdiv.information.contraction`) make it at most eta_1 ... eta_l D_i.

    Proof: at W = w Donsker-Varadhan bounds the difference of the two means of the loss, a function of (T, Y), by
    sqrt(2 sub_gaussian^2 KL_w); Jensen takes E_W under the root.

    Args:
        divergences: ``[..., n]`` floating, D_i in nats, one per training sample.
        sub_gaussian: a number of at least 0, or a floating scalar array; (b - a) / 2 for a loss within [a, b].
        contractions: ``[L]`` floating, or None.

    Returns:
        ``[...]``, or with contractions ``[..., L + 1]``: the bound at the input and behind each layer, non-increasing.
        Float32 (float64 where an input is); differentiable where D_i > 0.

    Raises:
        ValueError: wrong shapes, dtypes or sub_gaussian.

    Source: Bu, Zou, Veeravalli, "Tightening mutual information based bounds on generalization error"
    (arXiv:1901.04609), at the input; He, Goldfeld (arXiv:2404.03176) for the hierarchy, in the form
    that the proof above gives, conditioned on all of W.

    >>> bounds = kl_generalization_bounds([0.5, 0.5], sub_gaussian=1.0, contractions=[0.25, 1.0])
    >>> [round(float(b), 6) for b in bounds]
    [1.0, 0.5, 0.5]
    """
    function = "kl_generalization_bounds"
    check_scalar(function, "sub_gaussian", sub_gaussian, 0.0)
    values = promote(floating_array(function, "divergences", divergences))
    if values.ndim == 0 or values.shape[-1] == 0:
        raise fail(function, "divergences", f"has shape {values.shape}", "shape [..., n] with n >= 1")
    base = sub_gaussian * jnp.mean(jnp.sqrt(2.0 * values), axis=-1)
    if contractions is None:
        return base
    etas = promote(floating_array(function, "contractions", contractions))
    if etas.ndim != 1:
        raise fail(function, "contractions", f"has shape {etas.shape}", "shape [L]")
    return base[..., None] * jnp.sqrt(jnp.cumprod(jnp.concatenate([jnp.ones(1, etas.dtype), etas])))


def wasserstein_generalization_bounds(distances: Any, layer_lipschitz: Any, *, loss_lipschitz: Any) -> Array:
    r"""loss_lipschitz max(1, prod_{j > l} lipschitz_j) W_1(l) for each layer l: the gap is at most the mean of any one.

    l = 0 is the input, L the output. W_1(l) is between P_{T_l,i, Y_i | W} and P_{T_l, Y | W} with cost |t - t'| + |y -
    y'|, under which the rest of the network and a loss with |loss(t, y) - loss(t', y')| <= loss_lipschitz (|t - t'| +
    |y - y'|) have this constant (Kantorovich-Rubinstein). Take the mean over i and over draws of W, then the minimum
    over l: the layer that attains it is the "generalization funnel".

    Args:
        distances: ``[..., L + 1]`` floating, W_1(0), ..., W_1(L), or upper bounds such as W_2 of Gaussians (the root of
            `jaxdiv.divergences.gaussian_squared_wasserstein`).
        layer_lipschitz: ``[..., L]`` floating: Lip(activation_j) |W_j|_operator of layers 1 to L.
        loss_lipschitz: a number of at least 0, or a floating scalar array.

    Returns:
        ``[..., L + 1]``, float32 (float64 where an input is), differentiable.

    Raises:
        ValueError: wrong shapes, dtypes or loss_lipschitz.

    Source: He, Goldfeld (arXiv:2404.03176), the Wasserstein bound, with the constant derived above.

    >>> wasserstein_generalization_bounds([1.0, 3.0, 1.5], [4.0, 0.5], loss_lipschitz=1.0).tolist()
    [2.0, 3.0, 1.5]
    """
    function = "wasserstein_generalization_bounds"
    check_scalar(function, "loss_lipschitz", loss_lipschitz, 0.0)
    found = promote(floating_array(function, "distances", distances))
    layers = promote(floating_array(function, "layer_lipschitz", layer_lipschitz))
    if found.ndim == 0 or found.shape[-1] == 0:
        raise fail(function, "distances", f"has shape {found.shape}", "shape [..., L + 1]")
    expected = (*found.shape[:-1], found.shape[-1] - 1)
    if layers.shape != expected:
        raise fail(function, "layer_lipschitz", f"has shape {layers.shape}", f"shape {expected}")
    behind = jnp.concatenate([layers, jnp.ones((*layers.shape[:-1], 1), layers.dtype)], axis=-1)
    remaining = jnp.flip(jnp.cumprod(jnp.flip(behind, axis=-1), axis=-1), axis=-1)
    return loss_lipschitz * jnp.maximum(remaining, 1.0) * found

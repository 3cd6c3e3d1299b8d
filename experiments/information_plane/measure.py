"""I(X; T) and I(T; Y) of a layer by every estimator, in nats.

A layer of the bits' network is a function of the 4096 patterns, each different: what is finite about it is the
information in its bins, or in T + N(0, variance I), whose noise the analyst adds. "bins" and "range_bins" measure the
first, the others the second, so the two families answer different questions. Within the second there is a truth,
"mixture".

Nothing here obeys the data processing inequality from layer to layer: bins and noise are put on each layer by itself,
so that a layer's symbols are no function of those of the layer before it.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiv.information import (
    binned_mutual_information,
    encoder_information,
    kolchinsky_tracey_bounds,
    kozachenko_leonenko,
    latent_mutual_information,
    principal_components,
    ross,
)
from jaxdiv.typing import Array, PRNGKey

Measured = dict[str, list[float]]
"""By estimator: [I(X; T), I(T; Y)] in nats."""
MeasureFn = Callable[[Array, PRNGKey, bool], Measured]
"""From a layer ``[N, ...]``, a key and whether this is the last snapshot."""

BITS_ESTIMATORS = {
    "bins": "bins on [-1, 1], one more above and below",
    "range_bins": "bins between the layer's least and largest value",
    "kde_lower": "pairwise lower bound, with noise",
    "kde_upper": "pairwise upper bound, with noise",
    "kde": "of I(T; Y) the difference of two upper bounds, with noise: what the literature plots, and no bound",
    "neighbors": "nearest neighbours, with noise",
    "mixture": "Monte Carlo, with noise: exact up to sampling; at the end only",
}
DIGITS_ESTIMATORS = {"latent": "nearest neighbours between codes, noise of the network's own"}


def label_entropy(labels: np.ndarray) -> float:
    """H(Y) in nats of the labels' frequencies.

    >>> round(label_entropy(np.array([0, 0, 1, 1])) / math.log(2), 6)
    1.0
    """
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-np.sum(shares * np.log(shares)))


def bottleneck_bound(information_x: np.ndarray, entropy_y: float) -> np.ndarray:
    """The largest I(T; Y) of any T with this I(X; T), where Y is a function of X: min(I(X; T), H(Y))."""
    return np.minimum(information_x, entropy_y)


def binned(layer: Array, labels: Array, edges: Array) -> Array:
    """``[2]``: I(X; bin T) = H(bin T) for distinct inputs X, and I(bin T; Y)."""
    estimate = binned_mutual_information(layer, labels, bins=edges)
    return jnp.stack([estimate.info["entropy_x"], estimate.value])


def pairwise(layer: Array, members: list[np.ndarray], variance: float) -> dict[str, Array]:
    """``[2]`` each of lower and of upper bounds on I(X; T') and I(T'; Y), T' = T + N(0, variance I), and of "kde".

    What `kolchinsky_tracey_bounds` gives with labels, from each class by itself: a third of the time. The bounds on
    I(T'; Y) are differences of unlike bounds, and wide; "kde" has the difference of the upper ones, its "same_bound".
    """
    lower, upper = kolchinsky_tracey_bounds(layer, variance=variance)
    within_lower = within_upper = jnp.zeros(())
    for rows in members:
        if len(rows) == 1:
            continue  # of one pattern there is nothing to learn, and no bound takes one row
        low, high = kolchinsky_tracey_bounds(layer[rows], variance=variance)
        within_lower += len(rows) / len(layer) * low.value
        within_upper += len(rows) / len(layer) * high.value
    return {
        "kde_lower": jnp.stack([lower.value, lower.value - within_upper]),
        "kde_upper": jnp.stack([upper.value, upper.value - within_lower]),
        "kde": jnp.stack([upper.value, upper.value - within_upper]),
    }


def from_neighbors(noisy: Array, labels: Array, *, variance: float, k: int) -> Array:
    """``[2]``: I(X; T') = h(T') - h(noise), the first by neighbours; and I(T'; Y) by neighbours in the class.

    The noise has d/2 log(2 pi e variance) nats. X has 4096 atoms with one sample each: an estimator from pairs (x, t)
    would find no two of one atom.
    """
    noise_entropy = noisy.shape[1] / 2.0 * math.log(2.0 * math.pi * math.e * variance)
    return jnp.stack([kozachenko_leonenko(noisy, k=k).value - noise_entropy, ross(noisy, labels, k=k).value])


def mixture_information(layer: Array, labels: Array, *, variance: float, key: PRNGKey) -> Array:
    """``[2]``: I(X; T') and I(T'; Y) = I(X; T') - I(X; T' | Y), of the exact mixture at one draw per input.

    The inputs are all there are, so the mixture of their Gaussians is the law of T' and only the draws are random.
    """
    log_variances = jnp.full_like(layer, math.log(variance))
    whole = encoder_information(layer, log_variances, key=key).value
    return jnp.stack([whole, whole - encoder_information(layer, log_variances, labels, key=key).value])


def make_bits_measure(labels: np.ndarray, *, bins: int, variance: float, k: int, widest: int) -> MeasureFn:
    """Every estimator of `BITS_ESTIMATORS`; what takes long to compile sees layers filled up to ``widest`` columns.

    Columns of 0 change neither bins nor distances between all pairs, so that one compilation serves all layers. The
    search for neighbours takes longer with them, and the entropy depends on their number.
    """
    classes = jnp.asarray(labels)
    members = [np.flatnonzero(labels == value) for value in np.unique(labels)]
    fixed_edges = jnp.linspace(-1.0, 1.0, bins + 1)

    @jax.jit
    def padded_measures(layer: Array, edges: Array) -> dict[str, Array]:
        found = {"bins": binned(layer, classes, fixed_edges), "range_bins": binned(layer, classes, edges)}
        return found | pairwise(layer, members, variance)

    neighbors = jax.jit(lambda noisy: from_neighbors(noisy, classes, variance=variance, k=k))
    mixture = jax.jit(lambda layer, key: mixture_information(layer, classes, variance=variance, key=key))

    def measure(layer: Array, key: PRNGKey, last: bool) -> Measured:
        noise_key, mixture_key = jax.random.split(key)
        noisy = layer + variance**0.5 * jax.random.normal(noise_key, layer.shape)
        low, high = float(jnp.min(layer)), float(jnp.max(layer))
        edges = jnp.linspace(low, high if high > low else low + 1.0, bins + 1)
        padded = jnp.pad(layer, ((0, 0), (0, widest - layer.shape[1])))
        found: dict[str, Any] = padded_measures(padded, edges) | {"neighbors": neighbors(noisy)}
        if last:
            found["mixture"] = mixture(padded, mixture_key)
        return {name: [float(value) for value in pair] for name, pair in found.items()}

    return measure


def make_digits_measure(
    images: np.ndarray, labels: np.ndarray, *, code_dims: int, k: int, encode_fn: Callable[[Array], Array] | None
) -> MeasureFn:
    """Lossy compression: I(E(X); PCA(L)) from neighbours of whitened codes, and I(PCA(L); Y) with classes.

    Args:
        images: ``[N, ...]``.
        labels: ``[N]`` integers.
        code_dims: principal components of a layer, and of the images where encode_fn is None.
        k: neighbours.
        encode_fn: images to codes ``[N, d]``, the same at every snapshot.
    """
    flat, classes = jnp.asarray(images).reshape(len(images), -1), jnp.asarray(labels)
    codes = principal_components(flat, num_components=code_dims)(flat) if encode_fn is None else encode_fn(flat)

    @jax.jit
    def latent(layer: Array) -> Array:
        components = principal_components(layer, num_components=code_dims)(layer)
        with_input = latent_mutual_information(codes, components, k=k).value
        return jnp.stack([with_input, ross(components, classes, k=k).value])

    def measure(layer: Array, key: PRNGKey, last: bool) -> Measured:
        del key, last  # the noise is in the layer
        return {"latent": [float(value) for value in latent(layer.reshape(len(layer), -1))]}

    return measure

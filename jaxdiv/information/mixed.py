"""Mutual information where one variable is a class, or where variables mix continuous parts and atoms."""

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma

from jaxdiv.information.arguments import label_array, paired_samples
from jaxdiv.information.balls import ball_counts, check_neighbors, closed_if_tied, nan_unless_finite
from jaxdiv.information.estimate import Estimate, make_estimate
from jaxdiv.information.neighbors import count_within, find_neighbors
from jaxdiv.typing import ArrayLike


def ross(x: ArrayLike, labels: ArrayLike, *, k: int = 5, tile: int | None = None) -> Estimate:
    r"""I(X; C) of a continuous vector and a class: psi(N) + <psi(k_i) - psi(N_{c_i}) - psi(m_i)>.

    N_c points share the class c; m_i points of all classes, point i included, are nearer to x_i (in the maximum norm)
    than its k-th neighbour within the class. A class of k points or fewer uses k_i = N_c - 1; a class of one point
    tells nothing and is left out, of N and of m_i too. Where the k-th distance is 0 or shared by several points (atoms
    of X), k_i and m_i count everything at most that far, so that one class, a constant X, and a discrete X are right.

    Args:
        x: ``[N, d]`` or ``[N]`` floating, N > k.
        labels: ``[N]`` integers, any values.
        k: neighbours. More have less variance and more bias.
        tile: rows of distances that exist at once, as in `find_neighbors`.

    Returns:
        A plug-in `Estimate`, float32 (float64 where x is), NaN if x is not finite or no class has two points. Its
        ``info``: ``local [N]`` terms of the mean (0 where left out) and ``num_skipped``, the classes of one point.
        A function of counts: its derivative is 0.

    Raises:
        ValueError: wrong shapes, dtypes or k.

    Source: B. C. Ross, "Mutual information between discrete and continuous data sets", PLoS ONE 9 (2014) e87357,
    equation 2; the rules for small classes are scikit-learn's, that for ties is `mixed_ksg`'s.

    >>> x = jnp.array([0.0, 1.0, 2.0, 10.0, 11.0, 12.0])
    >>> round(float(ross(x, jnp.array([0, 0, 0, 1, 1, 1]), k=2)), 6)  # psi(6) + psi(2) - psi(3) - psi(2)
    0.783333
    """
    function = "ross"
    (x,) = paired_samples(function, x=x)
    x = jax.lax.stop_gradient(x)
    count = x.shape[0]
    labels = label_array(function, "labels", labels, count)
    check_neighbors(function, count, k, tile)
    ordered = jnp.sort(labels)
    size = jnp.searchsorted(ordered, labels, side="right") - jnp.searchsorted(ordered, labels)
    kept = size > 1
    # Points left out move so far away that no ball of another point reaches them, also where x is constant.
    low, high = jnp.min(x, axis=0), jnp.max(x, axis=0)
    placed = jnp.where(kept[:, None], x, high + 2.0 * (high - low) + jnp.maximum(jnp.abs(high), 1.0))
    neighbors = jnp.clip(size - 1, 1, int(k))
    distances = find_neighbors([placed], k=int(k), labels=labels, tile=tile).distances
    radius = jnp.take_along_axis(distances, neighbors[:, None] - 1, axis=1)[:, 0]
    radius = jnp.where(kept, radius, 0.0)
    inside = count_within(placed, radius, strict=False, labels=labels, tile=tile)
    held, radius = closed_if_tied(radius, inside, neighbors)
    near = jnp.maximum(count_within(placed, radius, tile=tile) + 1, held)
    total = jnp.sum(kept).astype(x.dtype)
    held, near, size = (digamma(n.astype(x.dtype)) for n in (held, near, size))
    local = jnp.where(kept, digamma(total) + held - size - near, 0.0)
    value = jnp.sum(local) / total
    squares = jnp.sum(jnp.where(kept, jnp.square(local - value), 0.0))
    stderr = jnp.sqrt(squares / (total - 1.0) / total)
    value = value + nan_unless_finite(x)
    skipped = jnp.sum(~kept, dtype=jnp.int32)
    return make_estimate(value, kind="plug-in", local=local, stderr=stderr, num_skipped=skipped)


def mixed_ksg(x: ArrayLike, y: ArrayLike, *, k: int = 5, tile: int | None = None) -> Estimate:
    r"""I(X; Y) whatever the mixture of continuous parts and atoms: psi(N) + <psi(k_i) - psi(n_x,i) - psi(n_y,i)>.

    With k-th joint distances that are positive and not shared, k_i = k and n counts the points strictly nearer, point
    i included: this is the first form of `ksg`. At a distance of 0, or shared by several points, k_i counts all points
    at most that far in both variables and n those in one, which is the plug-in of the atoms' frequencies. So lattices,
    counts, zero-inflated and one-hot variables need no noise.

    Args:
        x: ``[N, d_x]`` or ``[N]`` floating, N > k.
        y: ``[N, d_y]`` or ``[N]`` floating.
        k: neighbours. More have less variance and more bias.
        tile: rows of distances that exist at once, as in `find_neighbors`.

    Returns:
        A plug-in `Estimate`, float32 (float64 where an input is), NaN if a sample is not finite; exactly 0 if a
        variable is constant. Its ``info``: ``local [N]`` terms of the mean and ``num_tied``, the points whose ball is
        closed. A function of counts: its derivative is 0.

    Raises:
        ValueError: wrong shapes, dtypes or k.

    Source: Gao, Kannan, Oh, Viswanath, "Estimating mutual information for discrete-continuous mixtures"
    (arXiv:1709.06212), algorithm 1. It writes log for psi(n) and psi(N), closes every ball, and has ties at 0 only;
    those give -log(k + 1) + psi(k) where a variable is constant, and far from 0 on independent lattices.

    >>> coin = jnp.array([0.0, 0.0, 1.0, 1.0])
    >>> round(float(mixed_ksg(coin, coin, k=1)), 6)  # psi(4) - psi(2)
    0.833333
    """
    function = "mixed_ksg"
    x, y = (jax.lax.stop_gradient(samples) for samples in paired_samples(function, x=x, y=y))
    check_neighbors(function, x.shape[0], k, tile)
    held, counts = ball_counts([x, y], [x, y], k=int(k), tile=tile)
    joint, in_x, in_y = (digamma(n.astype(x.dtype)) for n in (held, *counts))
    local = digamma(jnp.asarray(x.shape[0], x.dtype)) + joint - in_x - in_y
    value = jnp.mean(local) + nan_unless_finite(x, y)
    tied = jnp.sum(held > k, dtype=jnp.int32)
    return make_estimate(value, kind="plug-in", local=local, num_tied=tied)

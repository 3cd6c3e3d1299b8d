"""Differential entropy from nearest neighbours, plain and with weights that cancel the leading terms of the bias."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma

from jaxdiv.checks import check_flag, check_integer, fail
from jaxdiv.information.arguments import paired_samples
from jaxdiv.information.estimate import Estimate, make_estimate
from jaxdiv.information.neighbors import find_neighbors
from jaxdiv.information.neighbors.pairs import check_search


def neighbor_weights(k: int, d: int) -> np.ndarray:
    r"""Weights w_1 .. w_k of smallest norm with sum_j w_j = 1 and sum_j w_j Gamma(j + 2 l / d) / Gamma(j) = 0.

    The second for l = 1 .. floor(d / 4), which removes as many terms of the bias. Zero but at the neighbours floor(k /
    d), floor(2 k / d), .., k.

    >>> neighbor_weights(6, 3).round(6).tolist()  # no term to remove in three dimensions
    [0.0, 0.333333, 0.0, 0.333333, 0.0, 0.333333]
    """
    support = np.array([j * k // d for j in range(1, d + 1)])
    rows = [np.ones(d)]
    for order in range(1, d // 4 + 1):
        logs = np.array([math.lgamma(j + 2.0 * order / d) - math.lgamma(j) for j in support])
        rows.append(np.exp(logs - logs.max()))  # each row may be scaled: its target is 0
    target = np.eye(len(rows))[0]
    weights = np.zeros(k)
    weights[support - 1] = np.linalg.lstsq(np.stack(rows), target, rcond=None)[0]
    return weights


def kozachenko_leonenko(x: Any, *, k: int = 5, norm: str = "chebyshev", weighted: bool = False) -> Estimate:
    r"""The differential entropy psi(N) - psi(k) + log V + (d / N) sum_i log e_i.

    e_i is the distance to the k-th neighbour and V the volume of the norm's unit ball, 2^d or pi^{d/2} / Gamma(d/2 +
    1). The bias is of order N^{-2/d}; ``weighted`` averages the estimates of several neighbours, sum_j w_j [psi(N) -
    psi(j) + log V + (d / N) sum_i log e_{i,j}], with the weights of `neighbor_weights`, which takes k of 2 d or more to
    pay. Adding a constant to x changes nothing, scaling it by c adds d log |c|.

    Ties: a point with k duplicates has e_i = 0 and makes the value -inf, which is the entropy of a distribution with an
    atom (``weighted``: with as many duplicates as the first neighbour used). Data that were rounded want a little noise
    before. A constant column leaves no density, so the value is -inf there too.

    Args:
        x: [N, d] floating, or [N].
        k: neighbours, from 1 to N - 1; at least d where weighted.
        norm: "chebyshev" or "euclidean".
        weighted: average over neighbours.

    Returns:
        An `Estimate` ("plug-in") of the entropy in nats, of either sign, float32 (float64 where x is); NaN where an
        entry is not finite. ``stderr`` treats the terms as independent. ``info``: ``local`` [N] the terms, whose mean
        is the value; ``num_ties`` int32, points at an atom. No derivative: the inputs are stopped.

    Raises:
        ValueError: wrong shapes, dtypes or norm, k >= N, or k < d where weighted.

    Source: Kozachenko, Leonenko, Problems Inform. Transmission 23 (1987); with psi(N) as Kraskov et al.,
    arXiv:cond-mat/0305641, equation 20. Weights: Berrett, Samworth, Yuan, "Efficient multivariate entropy estimation
    via k-nearest neighbour distances", Ann. Statist. 47 (2019), arXiv:1606.00304, equation 2, with psi(N) for log(N -
    1) there.

    >>> round(float(kozachenko_leonenko(jnp.array([0.0, 1.0, 3.0]), k=1)), 6)  # 1.5 + log 2 + (log 1 + log 1 + log 2)/3
    2.424196
    """
    function = "kozachenko_leonenko"
    check_search(function, norm, None)
    check_integer(function, "k", k, 1)
    check_flag(function, "weighted", weighted)
    (x,) = jax.lax.stop_gradient(paired_samples(function, x=x))
    (count, d), k = x.shape, int(k)
    if count <= k:
        raise fail(function, "x", f"has {count} rows", f"more than k = {k}")
    if weighted and k < d:
        raise fail(function, "k", f"is {k}", f"at least the {d} dimensions of x where weighted")
    distances = find_neighbors([x], k=k, norm=norm).distances
    weights = neighbor_weights(k, d) if weighted else np.eye(k)[-1]
    used = np.flatnonzero(weights)
    log_volume = d * math.log(2.0) if norm == "chebyshev" else d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
    terms = digamma(jnp.asarray(count, x.dtype)) - digamma(jnp.asarray(used + 1, x.dtype)) + log_volume
    local = jnp.sum(jnp.asarray(weights[used], x.dtype) * (terms + d * jnp.log(distances[:, used])), axis=1)
    tied = distances[:, used[0]] == 0.0
    # Weights have both signs: a distance of 0 would give infinities of either, or NaN.
    flat = jnp.any(jnp.max(x, axis=0) == jnp.min(x, axis=0))
    local = jnp.where((tied | flat) & ~jnp.isnan(distances[:, -1]), -jnp.inf, local)
    return make_estimate(jnp.mean(local), kind="plug-in", local=local, num_ties=jnp.sum(tied, dtype=jnp.int32))

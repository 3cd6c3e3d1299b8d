"""Normalising an estimated density ratio: ``E_p[q/p] = 1`` at every noise level, so the estimate can be held to it.

The state is explicit: the running log-mean of the ratio in bins of log sigma. Bins are even in log sigma because
training draws are; bins even in sigma put two thirds of the draws into the first of ten.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiv.checks import check_batch, check_range
from jaxdiv.typing import Array


@dataclass(frozen=True)
class NoiseBins:
    """Bins even in log sigma over ``[low, high]``; what lies outside counts to the outermost bin.

    >>> NoiseBins(num=3, low=0.01, high=10.0).index(jnp.array([0.001, 0.05, 0.5, 5.0]))
    Array([0, 0, 1, 2], dtype=int32)
    """

    num: int = 10
    low: float = 0.02
    high: float = 20.0

    def __post_init__(self) -> None:
        check_range("NoiseBins", "num", self.num, 1)
        check_range("NoiseBins", "low", self.low, 0.0, open_low=True)
        check_range("NoiseBins", "high", self.high, self.low, open_low=True)

    def index(self, sigma: Array) -> Array:
        """The bin of each noise level, int32."""
        position = jnp.log(sigma / self.low) / jnp.log(self.high / self.low)
        return jnp.clip(jnp.floor(position * self.num), 0, self.num - 1).astype(jnp.int32)

    def mean(self, value: Array, sigma: Array) -> tuple[Array, Array]:
        """Mean of ``value [B]`` in each bin and the count there, both ``[num]``; an empty bin's mean is NaN."""
        index = self.index(sigma)
        count, total = _bin_sums(jnp.ones_like(value), index, self.num), _bin_sums(value, index, self.num)
        return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.nan), count


def _bin_sums(value: Array, index: Array, num: int) -> Array:
    """Sum of the values of each bin, in one order: a scatter on a GPU adds in whatever order its threads come."""
    return jnp.sum(jnp.where(index == jnp.arange(num)[:, None], value, 0.0), axis=1)


class RatioState(NamedTuple):
    """Running estimate of ``log E_p[r]`` in each noise bin, and how many updates each bin has had."""

    log_mean: Array
    """``[num]`` float32; subtracted from log-ratios."""
    num_updates: Array
    """``[num]`` int32."""


def init_ratio(bins: NoiseBins) -> RatioState:
    """No correction in any bin.

    >>> init_ratio(NoiseBins(num=2)).log_mean
    Array([0., 0.], dtype=float32)
    """
    return RatioState(jnp.zeros(bins.num, jnp.float32), jnp.zeros(bins.num, jnp.int32))


def update_ratio(state: RatioState, log_ratio: Array, sigma: Array, *, bins: NoiseBins, decay: float) -> RatioState:
    """Moves each bin's ``log E_p[r]`` towards its batch value; bins that saw no example, or a non-finite one, stay.

    ``mean <- d mean + (1 - d) batch_mean`` with ``d = min(decay, n / (n + 1))``, n the bin's updates so far, so the
    first batch replaces the initial value. All in log space: ratios of e^60 do not overflow.

    Args:
      state: running log-means.
      log_ratio: ``[B]`` log q/p at samples of p, unnormalised.
      sigma: ``[B]``.
      bins: the noise bins.
      decay: 0 keeps the last batch alone; in [0, 1).

    >>> bins = NoiseBins(num=1)
    >>> state = update_ratio(init_ratio(bins), jnp.log(jnp.array([1.0, 3.0])), jnp.ones(2), bins=bins, decay=0.9)
    >>> round(float(jnp.exp(state.log_mean[0])), 4)
    2.0
    """
    check_range("update_ratio", "decay", decay, 0.0, 1.0, open_high=True)
    check_batch("update_ratio", "sigma", sigma, log_ratio.shape[0])
    log_ratio = jax.lax.stop_gradient(log_ratio.astype(jnp.float32))
    index = bins.index(sigma)
    top = jax.ops.segment_max(log_ratio, index, bins.num)
    count = _bin_sums(jnp.ones_like(log_ratio), index, bins.num)
    top = jnp.where(count > 0, top, 0.0)  # an empty segment's maximum is -inf
    total = _bin_sums(jnp.exp(log_ratio - top[index]), index, bins.num)
    batch_log_mean = top + jnp.log(total / jnp.maximum(count, 1))
    # Finite too: a single infinite or NaN logit would stay in the running mean for ever.
    seen = (count > 0) & jnp.isfinite(batch_log_mean)
    batch_log_mean = jnp.where(seen, batch_log_mean, state.log_mean)

    n = state.num_updates.astype(jnp.float32)
    d = jnp.minimum(decay, n / (n + 1))
    mixed = jnp.logaddexp(jnp.log(d) + state.log_mean, jnp.log1p(-d) + batch_log_mean)
    return RatioState(jnp.where(seen, mixed, state.log_mean), state.num_updates + seen.astype(jnp.int32))


def normalize_ratio(state: RatioState, log_ratio: Array, sigma: Array, *, bins: NoiseBins) -> Array:
    """``rho - log E_p[r]`` of each example's noise bin; differentiable in ``log_ratio``, the state is frozen.

    >>> state = RatioState(jnp.log(jnp.array([2.0])), jnp.ones(1, jnp.int32))
    >>> normalize_ratio(state, jnp.log(jnp.array([4.0])), jnp.ones(1), bins=NoiseBins(num=1))
    Array([0.6931472], dtype=float32)
    """
    return log_ratio - jax.lax.stop_gradient(state.log_mean[bins.index(sigma)])


def clip_ratio(log_ratio: Array, *, limit: float) -> tuple[Array, Array]:
    """Clips log-ratios to ``[-limit, limit]`` and counts how many were outside: nothing is clipped silently.

    >>> clip_ratio(jnp.array([-9.0, 0.5, 9.0]), limit=3.0)
    (Array([-3. ,  0.5,  3. ], dtype=float32), Array(2, dtype=int32))
    """
    check_range("clip_ratio", "limit", limit, 0.0, open_low=True)
    return jnp.clip(log_ratio, -limit, limit), jnp.sum(jnp.abs(log_ratio) > limit, dtype=jnp.int32)

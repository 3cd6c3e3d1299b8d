"""Numbers that tell whether a distillation converges. The value of a surrogate loss does not: it hovers around zero."""

from typing import NamedTuple

import jax.numpy as jnp

from jaxdiv.distillation.objective import Matching
from jaxdiv.distillation.ratio import NoiseBins
from jaxdiv.typing import Array

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Diagnostics(NamedTuple):
    """Of one student step."""

    score_gap: Array
    """``[bins]`` mean over examples and elements of ``(sigma Delta)^2`` in each noise bin: 0 where fake and teacher
    agree, about 1 where they know nothing of each other; NaN in a bin that no example fell into."""
    score_gap_count: Array
    """``[bins]`` examples in each bin."""
    effective_sample_size: Array
    """``(sum h)^2 / (B sum h^2)`` in (0, 1]: the share of the batch that the weights leave effective."""
    log_ratio_quantiles: Array
    """``[5]`` of the log-ratio that entered, at 5, 25, 50, 75 and 95 percent."""


def effective_sample_size(weight: Array) -> Array:
    """``(sum h)^2 / (B sum h^2)``: 1 for equal weights, 1/B where one example holds all the weight.

    >>> float(effective_sample_size(jnp.array([1.0, 0.0, 0.0, 0.0])))
    0.25
    """
    weight = weight / jnp.max(weight)  # squares of ratios near e^60 overflow
    return jnp.sum(weight) ** 2 / (weight.size * jnp.sum(weight**2))


def diagnose(matching: Matching, sigma: Array, *, bins: NoiseBins) -> Diagnostics:
    """The diagnostics of one student step.

    Args:
      matching: what ``matching_loss`` returned for a batch.
      sigma: its noise levels ``[B]``.
      bins: the noise bins of ``score_gap``.

    >>> from jaxdiv.distillation.objective import Scores
    >>> one = Matching(jnp.zeros(1), Scores(jnp.ones((1, 2)), jnp.zeros((1, 2))), jnp.zeros(1), jnp.ones(1))
    >>> float(diagnose(one, 2.0 * jnp.ones(1), bins=NoiseBins(num=1)).score_gap[0])  # (sigma Delta)^2 = (1 / sigma)^2
    0.25
    """
    gap = matching.scores.fake - matching.scores.teacher
    squared = jnp.mean(jnp.square(gap), axis=tuple(range(1, gap.ndim))) / sigma**2
    score_gap, count = bins.mean(squared, sigma)
    return Diagnostics(
        score_gap=score_gap,
        score_gap_count=count,
        effective_sample_size=effective_sample_size(matching.weight),
        log_ratio_quantiles=jnp.quantile(matching.log_ratio, jnp.array(QUANTILES)),
    )

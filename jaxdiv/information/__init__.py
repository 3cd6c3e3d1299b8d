"""Information: estimators that say what they are, bottleneck objectives, exact bottlenecks and generalization bounds.

Every estimator returns an `Estimate` in nats, unclipped, with its kind, its ceiling and its standard error.
"""

from jaxdiv.information.estimate import Estimate

__all__ = [
    "Estimate",
]

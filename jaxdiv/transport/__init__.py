"""Optimal transport: batched Sinkhorn, its values named apart, Sinkhorn divergence, Monge gap, the exact 1-D case."""

from jaxdiv.transport.cost import CostFn, PointCost, cosine, l1, point_cost, sqeuclidean
from jaxdiv.transport.divergence import sinkhorn_divergence
from jaxdiv.transport.gap import monge_gap
from jaxdiv.transport.solver import (
    SinkhornResult,
    entropic_cost,
    epsilon_schedule,
    plan,
    regularized_cost,
    sinkhorn,
    transport_cost,
)
from jaxdiv.transport.sorted import transport_cost_1d

__all__ = [
    "CostFn",
    "PointCost",
    "SinkhornResult",
    "cosine",
    "entropic_cost",
    "epsilon_schedule",
    "l1",
    "monge_gap",
    "plan",
    "point_cost",
    "regularized_cost",
    "sinkhorn",
    "sinkhorn_divergence",
    "sqeuclidean",
    "transport_cost",
    "transport_cost_1d",
]

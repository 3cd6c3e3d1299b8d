"""f-divergences as one record: D_f(p || q) = E_q[f(p/q)], written in the log-ratio rho = log p - log q."""

from jaxdiv.divergences.generators import (
    alpha,
    jeffreys,
    kl,
    le_cam,
    neyman_chi2,
    pearson_chi2,
    reverse_kl,
    squared_hellinger,
    total_variation,
)
from jaxdiv.divergences.mixtures import jensen_shannon, skew_kl, softened_reverse_kl
from jaxdiv.divergences.record import FDivergence, Formula

__all__ = [
    "FDivergence",
    "Formula",
    "alpha",
    "jeffreys",
    "jensen_shannon",
    "kl",
    "le_cam",
    "neyman_chi2",
    "pearson_chi2",
    "reverse_kl",
    "skew_kl",
    "softened_reverse_kl",
    "squared_hellinger",
    "total_variation",
]

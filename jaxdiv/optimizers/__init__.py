"""Optimizers of matrices: the polar factor by Newton-Schulz iterations, and Muon, which steps along it."""

from jaxdiv.optimizers.polar import orthogonalize
from jaxdiv.optimizers.schedules import SCHEDULES, Schedule

__all__ = ["SCHEDULES", "Schedule", "orthogonalize"]

"""Optimizers of matrices: the polar factor by Newton-Schulz iterations, and Muon, which steps along it."""

from jaxdiv.optimizers.directions import SCALES, MuonState, scale_by_muon
from jaxdiv.optimizers.hyperball import scale_to_hyperball, step_on_sphere
from jaxdiv.optimizers.matrices import MatrixAxes, MatrixShape, from_matrices, matrix_shapes, to_matrices
from jaxdiv.optimizers.normuon import normalize_neurons
from jaxdiv.optimizers.polar import orthogonalize
from jaxdiv.optimizers.qk_clip import QK_RULES, clip_qk
from jaxdiv.optimizers.routing import ADAMW_RULES, DEFAULT_RULES, STACKED_RULES, format_routes, route_parameters
from jaxdiv.optimizers.schedules import SCHEDULES, Schedule
from jaxdiv.optimizers.spectrum import (
    SingularValueReport,
    effective_rank,
    nuclear_norm,
    singular_value_report,
    stable_rank,
)
from jaxdiv.optimizers.symmetric_tiles import MosaicTiles, TritonTiles
from jaxdiv.optimizers.transformation import muon
from jaxdiv.optimizers.weight_decay import decay_weights

__all__ = [
    "ADAMW_RULES",
    "DEFAULT_RULES",
    "MatrixAxes",
    "MatrixShape",
    "MosaicTiles",
    "MuonState",
    "QK_RULES",
    "SCALES",
    "SCHEDULES",
    "STACKED_RULES",
    "Schedule",
    "SingularValueReport",
    "TritonTiles",
    "clip_qk",
    "decay_weights",
    "effective_rank",
    "format_routes",
    "from_matrices",
    "matrix_shapes",
    "muon",
    "normalize_neurons",
    "nuclear_norm",
    "orthogonalize",
    "route_parameters",
    "scale_by_muon",
    "scale_to_hyperball",
    "singular_value_report",
    "stable_rank",
    "step_on_sphere",
    "to_matrices",
]

"""Networks as flax.nnx modules, and the split that turns them into pure functions of their parameters."""

from jaxdiv.networks.functional import ApplyFn, functional
from jaxdiv.networks.heads import ConvHead, MLPHead, feature_shapes
from jaxdiv.networks.layers import default_compute_dtype
from jaxdiv.networks.mlp import MLPConfig, MLPDenoiser

__all__ = [
    "ApplyFn",
    "ConvHead",
    "MLPConfig",
    "MLPDenoiser",
    "MLPHead",
    "default_compute_dtype",
    "feature_shapes",
    "functional",
]

"""Networks as flax.nnx modules, and the split that turns them into pure functions of their parameters."""

from jaxdiv.networks.decoder import Decoder, DecoderInfo
from jaxdiv.networks.decoder_config import DecoderConfig
from jaxdiv.networks.decoder_size import cache_bytes_per_token, count_decoder_flops, count_parameters
from jaxdiv.networks.decoding import DecoderCache, generate, init_cache
from jaxdiv.networks.edm_weights import (
    config_from_edm,
    convert_edm_state_dict,
    edm_state_dict,
    load_edm_weights,
    save_edm_weights,
)
from jaxdiv.networks.experts import init_balance, update_balance
from jaxdiv.networks.flops import count_flops
from jaxdiv.networks.functional import ApplyFn, functional
from jaxdiv.networks.heads import ConvHead, MLPHead, feature_shapes
from jaxdiv.networks.layers import default_compute_dtype
from jaxdiv.networks.mlp import MLPConfig, MLPDenoiser
from jaxdiv.networks.state_dicts import read_state_dict
from jaxdiv.networks.unet import UNet
from jaxdiv.networks.unet_config import UNetConfig, cifar10_edm, small_8x8

__all__ = [
    "ApplyFn",
    "ConvHead",
    "Decoder",
    "DecoderCache",
    "DecoderConfig",
    "DecoderInfo",
    "MLPConfig",
    "MLPDenoiser",
    "MLPHead",
    "UNet",
    "UNetConfig",
    "cache_bytes_per_token",
    "cifar10_edm",
    "config_from_edm",
    "convert_edm_state_dict",
    "count_decoder_flops",
    "count_flops",
    "count_parameters",
    "default_compute_dtype",
    "edm_state_dict",
    "feature_shapes",
    "functional",
    "generate",
    "init_balance",
    "init_cache",
    "load_edm_weights",
    "read_state_dict",
    "save_edm_weights",
    "small_8x8",
    "update_balance",
]

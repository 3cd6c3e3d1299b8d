"""Noise levels, preconditioning, the denoising loss and samplers on EDM's axis ``x_t = x_0 + sigma * noise``."""

from jaxdiv.diffusion.loss import denoising_loss, edm_weight
from jaxdiv.diffusion.noise_levels import (
    karras_density,
    karras_noise_level,
    karras_noise_levels,
    log_normal_density,
    log_normal_noise_level,
    sample_log_normal,
)
from jaxdiv.diffusion.preconditioning import Preconditioning, edm_preconditioning, precondition
from jaxdiv.diffusion.samplers import heun_sample

__all__ = [
    "Preconditioning",
    "denoising_loss",
    "edm_preconditioning",
    "edm_weight",
    "heun_sample",
    "karras_density",
    "karras_noise_level",
    "karras_noise_levels",
    "log_normal_density",
    "log_normal_noise_level",
    "precondition",
    "sample_log_normal",
]

"""Noise levels, preconditioning, the denoising loss and samplers on EDM's axis ``x_t = x_0 + sigma * noise``.

Schedules and conversions map a teacher of any other parameterisation onto that axis.
"""

from jaxdiv.diffusion.conversions import PREDICTION_KINDS, from_x0, to_x0
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
from jaxdiv.diffusion.schedules import (
    Schedule,
    cosine_schedule,
    discrete_vp_schedule,
    flow_matching_schedule,
    ve_schedule,
    vp_schedule,
)
from jaxdiv.diffusion.teachers import denoiser_from_prediction

__all__ = [
    "PREDICTION_KINDS",
    "Preconditioning",
    "Schedule",
    "cosine_schedule",
    "denoiser_from_prediction",
    "denoising_loss",
    "discrete_vp_schedule",
    "edm_preconditioning",
    "edm_weight",
    "flow_matching_schedule",
    "from_x0",
    "heun_sample",
    "karras_density",
    "karras_noise_level",
    "karras_noise_levels",
    "log_normal_density",
    "log_normal_noise_level",
    "precondition",
    "sample_log_normal",
    "to_x0",
    "ve_schedule",
    "vp_schedule",
]

"""One-step diffusion distillation: one loss with four choices, its training cycle, and the published methods in a
table.

The teacher is ``q``, the student ``p``, ``r = q/p`` and every divergence is ``D_f(teacher || student) = E_p[f(q/p)]``:
``kl()`` is KL(teacher || student), ``reverse_kl()`` is KL(student || teacher).
"""

from jaxdiv.distillation.adversarial import (
    approximate_r1_penalty,
    discriminator_accuracy,
    discriminator_loss,
    generator_loss,
    r1_penalty,
)
from jaxdiv.distillation.config import Config, Method, Networks
from jaxdiv.distillation.cycle import Batch, Info, State, init, update
from jaxdiv.distillation.diagnostics import Diagnostics, diagnose, effective_sample_size
from jaxdiv.distillation.draws import Draws, draw
from jaxdiv.distillation.fake_step import FakeInfo, fake_loss
from jaxdiv.distillation.methods import METHODS, method, one_step_student
from jaxdiv.distillation.noise_laws import KarrasUniform, LogNormal
from jaxdiv.distillation.objective import Coefficients, Matching, Objective, Scores, coefficients, matching_loss
from jaxdiv.distillation.ratio import (
    NoiseBins,
    RatioState,
    clip_ratio,
    init_ratio,
    normalize_ratio,
    update_ratio,
)
from jaxdiv.distillation.student_step import StudentInfo, student_loss
from jaxdiv.distillation.time_weights import data_space, data_space_squared, de_bruijn, epsilon_space, uniform

__all__ = [
    "METHODS",
    "Batch",
    "Coefficients",
    "Config",
    "Diagnostics",
    "Draws",
    "FakeInfo",
    "Info",
    "KarrasUniform",
    "LogNormal",
    "Matching",
    "Method",
    "Networks",
    "NoiseBins",
    "Objective",
    "RatioState",
    "Scores",
    "State",
    "StudentInfo",
    "approximate_r1_penalty",
    "clip_ratio",
    "coefficients",
    "data_space",
    "data_space_squared",
    "de_bruijn",
    "diagnose",
    "discriminator_accuracy",
    "discriminator_loss",
    "draw",
    "effective_sample_size",
    "epsilon_space",
    "fake_loss",
    "generator_loss",
    "init",
    "init_ratio",
    "matching_loss",
    "method",
    "normalize_ratio",
    "one_step_student",
    "r1_penalty",
    "student_loss",
    "uniform",
    "update",
    "update_ratio",
]

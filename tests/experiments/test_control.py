"""The regression control."""

import jax
import numpy as np

from experiments.one_step_image.control import regress
from experiments.one_step_image.models import build_student
from experiments.one_step_image.student import Pairs
from tests.experiments.small import random_images, small_config


def test_regression_brings_the_student_nearer_to_the_pairs(denoiser):
    z = jax.random.normal(jax.random.key(0), (40, 8, 8, 1))
    pairs = Pairs(np.asarray(z), 0.2 * random_images(40))
    config = small_config(control_steps=50)
    params = regress(config, denoiser, denoiser.params, pairs)
    student_fn = build_student(denoiser, config.distill)
    before, after = (np.square(student_fn(p, z, None) - pairs.samples).mean() for p in (denoiser.params, params))
    assert after < 0.8 * before

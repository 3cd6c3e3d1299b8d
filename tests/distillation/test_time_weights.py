"""Weights over noise levels, and that they are the powers that published losses hide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.distillation import (
    Objective,
    Scores,
    data_space,
    data_space_squared,
    de_bruijn,
    epsilon_space,
    matching_loss,
    uniform,
)
from jaxdiv.divergences import reverse_kl

SIGMA = jnp.array([0.002, 0.3, 1.0, 80.0])
X0, NOISE = (jax.random.normal(jax.random.key(i), (4, 3)) for i in (0, 1))


@pytest.mark.parametrize(
    ("weight", "formula"),
    [
        (uniform, lambda s: s**0),
        (epsilon_space, lambda s: s),
        (data_space, lambda s: s**2),
        (data_space_squared, lambda s: s**4 / 2),
        (de_bruijn(lambda s: 1 / (1 + s)), lambda s: s * (1 + s)),
    ],
)
def test_values(weight, formula):
    np.testing.assert_allclose(weight(SIGMA), formula(np.asarray(SIGMA)), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(weight)(SIGMA), jax.vmap(weight)(SIGMA), rtol=1e-6)
    assert weight(SIGMA).dtype == jnp.float32


def scores_fn(x, sigma):
    return Scores(jnp.sin(x), jnp.cos(2 * x))


def gradient(time_weight, form="integral"):
    objective = Objective(reverse_kl(), form, "one", time_weight, reduction="sum")
    return jax.grad(lambda x: jnp.sum(matching_loss(objective, x, NOISE, sigma=SIGMA, scores_fn=scores_fn).loss))(X0)


def test_data_space_is_a_difference_of_denoised_images():
    """Diff-Instruct's and DMD's direction, without a factor of sigma."""
    x_t = X0 + SIGMA[:, None] * NOISE
    np.testing.assert_allclose(gradient(data_space), np.sin(x_t) - np.cos(2 * x_t), rtol=1e-4, atol=1e-5)


def test_epsilon_space_is_a_difference_of_noise_predictions():
    """VSD's direction: eps = (x_t - D) / sigma, so teacher's minus fake's is (D_fake - D_teacher) / sigma."""
    x_t = np.asarray(X0 + SIGMA[:, None] * NOISE)
    eps_fake, eps_teacher = ((x_t - d) / SIGMA[:, None] for d in (np.sin(x_t), np.cos(2 * x_t)))
    np.testing.assert_allclose(gradient(epsilon_space), eps_teacher - eps_fake, rtol=1e-3, atol=1e-3)


def test_data_space_squared_is_sids_loss():
    """(D_teacher - D_fake).(D_fake's error) with alpha 1/2, as SiD writes it."""

    def sid(x0):
        x_t = x0 + SIGMA[:, None] * NOISE
        fake, teacher, _ = scores_fn(x_t, SIGMA)
        return jnp.sum((teacher - fake) * ((teacher - x0) - 0.5 * (teacher - fake)))

    np.testing.assert_allclose(gradient(data_space_squared, "expanded"), jax.grad(sid)(X0), rtol=1e-3, atol=1e-4)

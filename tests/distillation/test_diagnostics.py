"""Diagnostics against closed forms: the score gap of two Gaussians, effective sample size, quantiles."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.distillation import (
    Diagnostics,
    LogNormal,
    NoiseBins,
    Objective,
    Scores,
    diagnose,
    effective_sample_size,
    matching_loss,
)
from jaxdiv.divergences import kl, pearson_chi2, reverse_kl

BINS = NoiseBins(num=4, low=0.01, high=100.0)
MEAN, STD, TEACHER_STD = np.array([0.4, -0.3]), 0.5, 0.8


def scores_fn(x, sigma):
    """Student N(MEAN, STD^2), teacher N(0, TEACHER_STD^2), in two dimensions."""
    p, q = STD**2 + sigma**2, TEACHER_STD**2 + sigma**2
    fake = x - (sigma**2 / p)[:, None] * (x - MEAN)
    teacher = x - (sigma**2 / q)[:, None] * x
    log_ratio = -jnp.sum(x**2, 1) / (2 * q) + jnp.sum((x - MEAN) ** 2, 1) / (2 * p) - jnp.log(q / p)
    return Scores(fake, teacher, log_ratio)


@functools.partial(jax.jit, static_argnames=("divergence", "ratio", "seed"))
def matching(divergence, sigma, ratio="detached", seed=0):
    keys = jax.random.split(jax.random.key(seed), 2)
    z, noise = (jax.random.normal(key, (len(sigma), 2)) for key in keys)
    objective = Objective(divergence, "integral", ratio)
    return matching_loss(objective, MEAN + STD * z, noise, sigma=sigma, scores_fn=scores_fn)


diagnosed = jax.jit(functools.partial(diagnose, bins=BINS))  # test_jit compares it with the eager one


@pytest.mark.parametrize("sigma", [0.05, 0.6, 5.0])
def test_the_score_gap_of_two_gaussians(sigma):
    """Delta = x (1/q - 1/p) + m / p with x ~ N(m, p): sigma^2 ((m / q)^2 + p (1/q - 1/p)^2), averaged over elements."""
    num = 20000
    found = diagnosed(matching(reverse_kl(), jnp.full(num, sigma)), jnp.full(num, sigma))
    p, q = STD**2 + sigma**2, TEACHER_STD**2 + sigma**2
    wanted = sigma**2 * (np.mean((MEAN / q) ** 2) + p * (1 / q - 1 / p) ** 2)
    index = int(BINS.index(jnp.array([sigma]))[0])
    assert float(found.score_gap[index]) == pytest.approx(wanted, rel=0.05)
    assert np.isnan(np.delete(found.score_gap, index)).all()
    np.testing.assert_array_equal(found.score_gap_count, np.eye(4)[index] * num)


def test_equal_scores_have_no_gap():
    sigma = jax.vmap(LogNormal())(jax.random.split(jax.random.key(0), 64))
    one = matching(reverse_kl(), sigma)
    same = one._replace(scores=one.scores._replace(fake=one.scores.teacher))
    found = diagnosed(same, sigma)
    np.testing.assert_array_equal(found.score_gap[found.score_gap_count > 0], 0.0)
    assert float(found.score_gap_count.sum()) == 64


@pytest.mark.parametrize(
    ("weight", "wanted"),
    [
        (np.ones(8), 1.0),
        (np.eye(8)[3], 1 / 8),
        (np.array([1.0, 1.0, 0.0, 0.0]), 0.5),
        (np.array([3.0, 1.0]), 16 / 20),
        (np.array([3e30, 1e30]), 16 / 20),
        (np.array([3e-30, 1e-30]), 16 / 20),
    ],
)
def test_effective_sample_size(weight, wanted):
    assert float(effective_sample_size(jnp.array(weight, jnp.float32))) == pytest.approx(wanted, rel=1e-5)


def test_effective_sample_size_of_known_weights():
    """For h = r it tends to 1 / E_p[r^2] = 1 / (1 + chi^2), known for two Gaussians."""
    sigma, num = 1.5, 40000
    found = diagnosed(matching(kl(), jnp.full(num, sigma)), jnp.full(num, sigma))
    p, q = STD**2 + sigma**2, TEACHER_STD**2 + sigma**2
    # E_p[r^2] of each coordinate: integral of q^2 / p, a Gaussian integral.
    precision = 2 / q - 1 / p
    each = np.sqrt(p) / q / np.sqrt(precision) * np.exp((MEAN**2 / (2 * p)) * (1 + 1 / (p * precision)))
    assert float(found.effective_sample_size) == pytest.approx(1 / np.prod(each), rel=0.02)


def test_quantiles_are_of_what_entered():
    sigma = jnp.full(101, 0.7)
    one = matching(pearson_chi2(), sigma)._replace(log_ratio=jnp.linspace(0.0, 1.0, 101)[::-1])
    found = diagnosed(one, sigma)
    np.testing.assert_allclose(found.log_ratio_quantiles, [0.05, 0.25, 0.5, 0.75, 0.95], atol=1e-6)


def test_jit():
    sigma = jnp.geomspace(0.02, 50.0, 16)
    one = matching(kl(), sigma)
    eager, jitted = diagnose(one, sigma, bins=BINS), diagnosed(one, sigma)
    assert isinstance(jitted, Diagnostics)
    for a, b in zip(eager, jitted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)

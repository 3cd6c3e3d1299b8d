"""Noise levels against the published numbers, SciPy's laws and each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from jaxdiv.diffusion import (
    karras_density,
    karras_noise_level,
    karras_noise_levels,
    log_normal_density,
    log_normal_noise_level,
    sample_log_normal,
)


@pytest.mark.parametrize(
    ("num_levels", "sigma_min", "sigma_max", "rho"), [(18, 0.002, 80.0, 7.0), (2, 0.01, 5.0, 1.0), (40, 0.1, 0.2, 3.0)]
)
def test_grid_descends_between_exact_ends(num_levels, sigma_min, sigma_max, rho):
    levels = karras_noise_levels(num_levels, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)
    assert levels.shape == (num_levels,)
    assert levels[0] == sigma_max
    assert levels[-1] == sigma_min
    assert np.all(np.diff(levels) < 0)
    np.testing.assert_allclose(np.diff(levels ** (1 / rho), 2), 0, atol=1e-12)


def test_grid_equals_the_published_formula():
    i = np.arange(18)
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(karras_noise_levels(18), expected, rtol=1e-13)
    np.testing.assert_array_equal(karras_noise_levels(1), [80.0])


def test_grid_makes_no_device_array():
    assert isinstance(karras_noise_levels(5), np.ndarray)
    assert jnp.asarray(karras_noise_levels(5)).dtype == jnp.float32


def test_continuous_level_is_the_grid_read_backwards(x64):
    u = jnp.linspace(1.0, 0.0, 18)
    np.testing.assert_allclose(karras_noise_level(u), karras_noise_levels(18), rtol=1e-12)


def test_four_fifths_is_the_upper_end_of_the_published_distillation_law():
    np.testing.assert_allclose(karras_noise_level(jnp.array(0.8)), 24.41, atol=0.005)


@pytest.mark.parametrize("rho", [1.0, 3.0, 7.0])
def test_karras_density_is_the_inverse_slope(x64, rho):
    u = jnp.linspace(0.02, 0.98, 25)
    slope = jax.vmap(jax.grad(lambda v: karras_noise_level(v, rho=rho)))(u)
    np.testing.assert_allclose(karras_density(karras_noise_level(u, rho=rho), rho=rho), 1 / slope, rtol=1e-10)


def test_karras_density_vanishes_outside_its_support():
    np.testing.assert_array_equal(karras_density(jnp.array([0.001, 81.0])), [0.0, 0.0])


def test_log_normal_density_against_scipy(x64):
    sigma = jnp.geomspace(1e-3, 100.0, 30)
    expected = stats.lognorm.pdf(np.asarray(sigma), s=1.2, scale=np.exp(-1.2))
    np.testing.assert_allclose(log_normal_density(sigma), expected, rtol=1e-12)


@pytest.mark.parametrize(("density", "low", "high"), [(log_normal_density, 0, np.inf), (karras_density, 0.002, 80)])
def test_densities_integrate_to_one(x64, density, low, high):
    ends = np.log([max(low, 1e-6), min(high, 1e6)])
    total, _ = integrate.quad(lambda v: float(density(np.exp(v))) * np.exp(v), *ends, epsabs=1e-9)
    assert abs(total - 1) < 1e-6


def test_samples_follow_the_law():
    draws = np.asarray(sample_log_normal(jax.random.key(0), (20_000,)))
    assert stats.kstest(np.log(draws), stats.norm(-1.2, 1.2).cdf).pvalue > 1e-3


def test_sample_is_the_map_of_a_normal_draw():
    key = jax.random.key(3)
    expected = log_normal_noise_level(jax.random.normal(key, (2, 3)), mean=-0.4, std=1.0)
    np.testing.assert_array_equal(sample_log_normal(key, (2, 3), mean=-0.4, std=1.0), expected)


@pytest.mark.parametrize("function", [karras_noise_level, karras_density, log_normal_noise_level, log_normal_density])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_low_precision_input_gives_float32(function, dtype):
    value = jnp.array([0.25, 0.5], dtype)
    result = jax.jit(jax.vmap(function))(value)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, function(value.astype(jnp.float32)), rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: karras_noise_levels(0), "karras_noise_levels: num_levels is 0"),
        (lambda: karras_noise_levels(4, sigma_min=0.0), "sigma_min is 0.0"),
        (lambda: karras_noise_levels(4, sigma_min=2.0, sigma_max=1.0), "sigma_max is 1.0"),
        (lambda: karras_noise_level(0.5, rho=0.0), "karras_noise_level: rho is 0.0"),
        (lambda: karras_noise_level(jnp.array([1])), "uniform has dtype int32"),
        (lambda: karras_density(jnp.array([1])), "karras_density: sigma has dtype int32"),
        (lambda: sample_log_normal(jax.random.key(0), (2,), std=0.0), "sample_log_normal: std is 0.0"),
        (lambda: log_normal_noise_level(0.1, std=-1.0), "log_normal_noise_level: std is -1.0"),
        (lambda: log_normal_density(0.1, std=float("nan")), "log_normal_density: std is nan"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()

"""Preconditioning: unit variance in and out, the exact denoiser, derivatives, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.diffusion import Preconditioning, edm_preconditioning, edm_weight, precondition

SIGMAS = np.geomspace(0.002, 80.0, 13)


@pytest.mark.parametrize("sigma_data", [0.5, 1.0, 0.28])
def test_unit_variance_in_and_out(x64, sigma_data):
    c = edm_preconditioning(SIGMAS, sigma_data=sigma_data)
    assert isinstance(c, Preconditioning)
    np.testing.assert_allclose(c.c_in**2 * (sigma_data**2 + SIGMAS**2), 1, rtol=1e-12)
    # The network's target is (x0 - c_skip (x0 + sigma eps)) / c_out.
    target_variance = ((1 - c.c_skip) ** 2 * sigma_data**2 + c.c_skip**2 * SIGMAS**2) / c.c_out**2
    np.testing.assert_allclose(target_variance, 1, rtol=1e-10)
    np.testing.assert_allclose(c.c_noise, np.log(SIGMAS) / 4, rtol=1e-12)
    np.testing.assert_allclose(edm_weight(SIGMAS, sigma_data=sigma_data) * c.c_out**2, 1, rtol=1e-12)


def test_skip_makes_the_network_error_count_least(x64):
    """c_skip minimises c_out(c_skip)^2 = (1 - c)^2 sd^2 + c^2 sigma^2, the paper's reason for it."""
    for sigma in (0.1, 0.5, 3.0):
        best = float(edm_preconditioning(sigma, sigma_data=0.5).c_skip)
        slope = jax.grad(lambda c, s: (1 - c) ** 2 * 0.25 + c**2 * s**2)(best, sigma)
        assert abs(slope) < 1e-12


def test_float32_coefficients_keep_their_digits():
    with jax.enable_x64(True):
        exact = edm_preconditioning(SIGMAS, sigma_data=0.5)
    got = edm_preconditioning(jnp.asarray(SIGMAS, jnp.float32), sigma_data=0.5)
    for name in Preconditioning._fields:
        np.testing.assert_allclose(getattr(got, name), getattr(exact, name), rtol=5e-7, err_msg=name)


def test_denoiser_is_the_formula():
    x = jax.random.normal(jax.random.key(0), (3, 4, 2))
    sigma = jnp.array([0.1, 1.0, 20.0])
    denoise_fn = precondition(lambda params, x, c_noise: params * jnp.tanh(x) + c_noise[:, None, None], sigma_data=0.5)
    c = edm_preconditioning(sigma, sigma_data=0.5)
    expected = [c.c_skip[i] * x[i] + c.c_out[i] * (1.5 * np.tanh(c.c_in[i] * x[i]) + c.c_noise[i]) for i in range(3)]
    np.testing.assert_allclose(denoise_fn(1.5, x, sigma), np.stack(expected), rtol=1e-5, atol=1e-6)


def test_zero_network_is_the_best_linear_denoiser_of_gaussian_data():
    x = jnp.linspace(-3.0, 3.0, 8).reshape(4, 2)
    sigma = jnp.array([0.01, 0.5, 2.0, 80.0])
    denoised = precondition(lambda params, x, c_noise: 0 * x, sigma_data=0.7)(None, x, sigma)
    np.testing.assert_allclose(denoised, 0.49 / (0.49 + sigma[:, None] ** 2) * x, rtol=1e-6)


def test_derivatives_equal_finite_differences(x64):
    denoise_fn = precondition(lambda params, x, c_noise: jnp.sin(params * x) * c_noise[:, None], sigma_data=0.5)
    arguments = (jnp.array(0.8), jnp.array([[0.4, -1.1]]), jnp.array([0.6]))

    def total(params, x, sigma):
        return jnp.sum(denoise_fn(params, x, sigma) ** 2)

    gradients = jax.grad(total, argnums=(0, 1, 2))(*arguments)
    for i, gradient in enumerate(gradients):
        for j in range(gradient.size):
            step = 1e-6 * np.eye(gradient.size)[j].reshape(gradient.shape)
            up = total(*(a + step if k == i else a for k, a in enumerate(arguments)))
            down = total(*(a - step if k == i else a for k, a in enumerate(arguments)))
            np.testing.assert_allclose(gradient.ravel()[j], (up - down) / 2e-6, rtol=1e-7)


def test_extra_arguments_and_outputs_pass_through():
    def network_fn(params, x, c_noise, labels=None, *, with_features=False):
        output = x + labels[:, None]
        return (output, (x, c_noise)) if with_features else output

    denoise_fn = precondition(network_fn, sigma_data=0.5)
    x, sigma, labels = jnp.ones((2, 3)), jnp.array([0.5, 1.0]), jnp.array([0.0, 1.0])
    denoised, (network_input, c_noise) = denoise_fn(None, x, sigma, labels, with_features=True)
    c = edm_preconditioning(sigma, sigma_data=0.5)
    np.testing.assert_allclose(network_input, c.c_in[:, None] * x, rtol=1e-6)
    np.testing.assert_allclose(c_noise, c.c_noise)
    np.testing.assert_array_equal(denoised, denoise_fn(None, x, sigma, labels))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_arithmetic_around_a_low_precision_network_is_float32(dtype):
    seen = []

    def network_fn(params, x, c_noise):
        seen.append((x.dtype, c_noise.dtype))
        return x.astype(dtype)

    x = jnp.ones((2, 3), dtype)
    denoise_fn = precondition(network_fn, sigma_data=0.5)
    denoised = jax.jit(denoise_fn)(None, x, jnp.array([0.1, 1.0]))
    assert denoised.dtype == jnp.float32
    assert seen == [(jnp.float32, jnp.float32)]
    batched = jax.vmap(denoise_fn, in_axes=(None, 0, 0))(None, x, jnp.array([0.1, 1.0]))
    np.testing.assert_allclose(batched, denoised, rtol=1e-2)


def test_float64_stays_float64(x64):
    denoise_fn = precondition(lambda params, x, c_noise: x, sigma_data=0.5)
    assert denoise_fn(None, jnp.ones((1, 2)), jnp.ones(1)).dtype == jnp.float64


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: edm_preconditioning(1.0, sigma_data=0.0), "edm_preconditioning: sigma_data is 0.0"),
        (lambda: edm_preconditioning(jnp.array([1]), sigma_data=0.5), "sigma has dtype int32"),
        (lambda: precondition(lambda p, x, c: x, sigma_data=-1.0), "precondition: sigma_data is -1.0"),
        (lambda: _denoise(jnp.ones((2, 3)), jnp.ones(3)), r"denoise_fn: sigma has shape \(3,\)"),
        (lambda: _denoise(jnp.ones((2, 3)), jnp.ones((2, 1))), r"sigma has shape \(2, 1\)"),
        (lambda: _denoise(jnp.ones((2, 3), int), jnp.ones(2)), "x has dtype int32"),
        (lambda: _denoise(jnp.ones((2, 3)), jnp.ones(2), lambda p, x, c: x[:, :1]), "network_output has shape"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def _denoise(x, sigma, network_fn=lambda params, x, c_noise: x):
    return precondition(network_fn, sigma_data=0.5)(None, x, sigma)

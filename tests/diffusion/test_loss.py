"""The denoising loss: its value, its minimiser, its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.diffusion import denoising_loss, edm_weight, precondition
from tests.diffusion.gaussians import MEAN, VARIANCE, gaussian_denoiser


def test_value_is_the_formula():
    x0, noise = jax.random.normal(jax.random.key(0), (2, 3, 4, 2))
    sigma = jnp.array([0.1, 1.0, 5.0])
    weight = edm_weight(sigma, sigma_data=0.5)
    loss = denoising_loss(lambda x, sigma: 0.5 * x, x0, sigma=sigma, noise=noise, weight=weight)
    expected = [float(weight[i]) * np.mean((0.5 * (x0[i] + sigma[i] * noise[i]) - x0[i]) ** 2) for i in range(3)]
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_weight_is_the_published_one(x64):
    sigma = np.geomspace(0.002, 80, 9)
    np.testing.assert_allclose(edm_weight(sigma, sigma_data=0.5), (sigma**2 + 0.25) / (sigma * 0.5) ** 2, rtol=1e-12)
    small = jnp.float32(1e-15)
    np.testing.assert_allclose(edm_weight(small, sigma_data=0.5), 1e30, rtol=1e-5)


def test_minimiser_is_the_posterior_mean(x64):
    """The best affine denoiser a + b x under the loss, by least squares, is the Gaussian posterior mean."""
    size, level = 200_000, 0.6
    normal = jax.random.normal(jax.random.key(1), (2, size, 1))
    x0, sigma = MEAN + np.sqrt(VARIANCE) * normal[0], jnp.full(size, level)

    def mean_loss(ab):
        weight = jnp.ones(size)
        return jnp.mean(denoising_loss(lambda x, _: ab[0] + ab[1] * x, x0, sigma=sigma, noise=normal[1], weight=weight))

    start = jnp.zeros(2)
    best = start - jnp.linalg.solve(jax.hessian(mean_loss)(start), jax.grad(mean_loss)(start))
    gain = VARIANCE / (VARIANCE + level**2)
    # Five standard errors of the two regression coefficients.
    residual = VARIANCE * level**2 / (VARIANCE + level**2)
    error = 5 * np.sqrt(residual / size / (VARIANCE + level**2))
    np.testing.assert_allclose(best[1], gain, atol=error)
    np.testing.assert_allclose(best[0], MEAN * (1 - gain), atol=2 * error)


def test_no_perturbation_of_the_posterior_mean_improves_the_loss(x64):
    """Gauss-Hermite in x0 and noise: the exact expected loss is stationary at the posterior mean, in any direction."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    z0, z1 = (a.reshape(-1, 1) for a in np.meshgrid(nodes, nodes))
    mass = np.outer(weights, weights).ravel() / (2 * np.pi)
    x0, sigma = jnp.asarray(MEAN + np.sqrt(VARIANCE) * z0), jnp.full(1600, 1.3)

    def expected(amount, direction):
        def denoise_fn(x, sigma):
            return gaussian_denoiser(x, sigma) + amount * direction(x)

        return jnp.sum(mass * denoising_loss(denoise_fn, x0, sigma=sigma, noise=jnp.asarray(z1), weight=jnp.ones(1600)))

    for direction in (jnp.ones_like, jnp.sin, lambda x: x**2):
        assert abs(jax.grad(expected)(0.0, direction)) < 1e-9
        assert jax.hessian(expected)(0.0, direction) > 0.1
    residual = VARIANCE * 1.3**2 / (VARIANCE + 1.3**2)
    np.testing.assert_allclose(expected(0.0, jnp.sin), residual, rtol=1e-10)


def test_edm_weight_makes_the_initial_loss_one_at_every_level(x64):
    """A network that outputs zero has expected weighted loss 1 whatever the level: that is what the weight is for."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(10)
    z0, z1 = (a.reshape(-1, 1) for a in np.meshgrid(nodes, nodes))
    mass = np.outer(weights, weights).ravel() / (2 * np.pi)
    denoise_fn = precondition(lambda params, x, c_noise: 0 * x, sigma_data=0.5)
    for level in (0.01, 0.5, 30.0):
        sigma = jnp.full(100, level)
        loss = denoising_loss(
            lambda x, s: denoise_fn(None, x, s),
            jnp.asarray(0.5 * z0),
            sigma=sigma,
            noise=jnp.asarray(z1),
            weight=edm_weight(sigma, sigma_data=0.5),
        )
        np.testing.assert_allclose(jnp.sum(mass * loss), 1, rtol=1e-9)


def test_auxiliary_output():
    arguments = {"sigma": jnp.ones(2), "noise": jnp.ones((2, 3)), "weight": jnp.ones(2)}

    def denoise_fn(x, sigma):
        return x, {"features": x * 2}

    loss, aux = denoising_loss(denoise_fn, jnp.zeros((2, 3)), **arguments, has_aux=True)
    np.testing.assert_array_equal(aux["features"], jnp.full((2, 3), 2.0))
    np.testing.assert_array_equal(loss, denoising_loss(denoise_fn, jnp.zeros((2, 3)), **arguments))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_low_precision_data_gives_a_float32_loss_under_jit_grad_and_vmap(dtype):
    x0 = jnp.linspace(-1, 1, 12, dtype=dtype).reshape(2, 2, 3)
    noise = jnp.ones_like(x0)
    sigma = weight = jnp.array([[0.5, 1.0], [2.0, 3.0]])

    def loss(scale, x0, noise, sigma, weight):
        return denoising_loss(lambda x, s: (scale * x).astype(dtype), x0, sigma=sigma, noise=noise, weight=weight)

    values = jax.jit(jax.vmap(loss, in_axes=(None, 0, 0, 0, 0)))(0.5, x0, noise, sigma, weight)
    assert values.shape == (2, 2)
    assert values.dtype == jnp.float32
    wanted = [loss(0.5, *(a[i].astype(jnp.float32) for a in (x0, noise, sigma, weight))) for i in range(2)]
    np.testing.assert_allclose(values, jnp.stack(wanted), rtol=2e-2)
    assert jnp.isfinite(jax.grad(lambda c: loss(c, x0[0], noise[0], sigma[0], weight[0]).sum())(0.5))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"noise": jnp.ones((2, 1))}, "denoising_loss: noise has shape"),
        ({"sigma": jnp.ones(3)}, r"sigma has shape \(3,\)"),
        ({"sigma": jnp.ones(())}, r"sigma has shape \(\)"),
        ({"weight": jnp.ones((2, 1))}, r"weight has shape \(2, 1\)"),
        ({"x0": jnp.ones((2, 3), int)}, "x0 has dtype int32"),
        ({"x0": jnp.ones(()), "noise": jnp.ones(())}, "x0 has shape"),
        ({"denoise_fn": lambda x, s: x[:, :1]}, "denoised has shape"),
        ({"has_aux": True}, "denoise_fn returned one array"),
    ],
)
def test_bad_arguments_are_named(changed, words):
    good = {
        "denoise_fn": lambda x, s: x,
        "x0": jnp.ones((2, 3)),
        "sigma": jnp.ones(2),
        "noise": jnp.ones((2, 3)),
        "weight": jnp.ones(2),
    }
    with pytest.raises(ValueError, match=words):
        denoising_loss(**{**good, **changed})


def test_weight_errors():
    with pytest.raises(ValueError, match="edm_weight: sigma_data is 0"):
        edm_weight(1.0, sigma_data=0)
    with pytest.raises(ValueError, match="sigma has dtype int32"):
        edm_weight(jnp.array([1]), sigma_data=0.5)

"""A Gaussian teacher written in every parameterisation is one denoiser and gives one set of samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.diffusion import (
    PREDICTION_KINDS,
    cosine_schedule,
    denoiser_from_prediction,
    discrete_vp_schedule,
    flow_matching_schedule,
    from_x0,
    heun_sample,
    karras_noise_levels,
    ve_schedule,
    vp_schedule,
)
from tests.diffusion.gaussians import MEAN, VARIANCE, gaussian_denoiser

SCHEDULES = {
    "vp": vp_schedule(),
    "cosine": cosine_schedule(offset=0.008),
    "flow": flow_matching_schedule(),
    "ve": ve_schedule(),
    "discrete": discrete_vp_schedule(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))),
}


def exact_network(schedule, kind, time_scale=1.0):
    """The optimal network for N(MEAN, VARIANCE) data in its own terms: a function of x_t and its own time."""

    def network_fn(params, x_t, time):
        t = time / time_scale
        alpha, s = schedule.alpha(t)[:, None], schedule.s(t)[:, None]
        # Linear regression of x0 on x_t = alpha x0 + s eps.
        x0 = MEAN + alpha * VARIANCE / (alpha**2 * VARIANCE + s**2) * (x_t - alpha * MEAN)
        return from_x0(x0, x_t, alpha=schedule.alpha(t), s=schedule.s(t), kind=kind)

    return network_fn


@pytest.mark.parametrize("kind", PREDICTION_KINDS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_parameterisation_gives_the_posterior_mean(x64, name, kind):
    sigma = np.geomspace(0.02, 80.0, 8)
    x = MEAN + np.random.default_rng(0).normal(size=(8, 3)) * np.sqrt(VARIANCE + sigma[:, None] ** 2)
    network_fn = exact_network(SCHEDULES[name], kind, time_scale=1000.0)
    denoise_fn = denoiser_from_prediction(network_fn, schedule=SCHEDULES[name], kind=kind, time_scale=1000.0)
    np.testing.assert_allclose(denoise_fn(None, x, sigma), gaussian_denoiser(x, sigma), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", PREDICTION_KINDS)
def test_float32_keeps_four_digits(kind):
    sigma = jnp.geomspace(0.02, 80.0, 8)
    x = MEAN + jax.random.normal(jax.random.key(0), (8, 3)) * jnp.sqrt(VARIANCE + sigma[:, None] ** 2)
    denoise_fn = denoiser_from_prediction(exact_network(SCHEDULES["vp"], kind), schedule=SCHEDULES["vp"], kind=kind)
    np.testing.assert_allclose(denoise_fn(None, x, sigma), gaussian_denoiser(x, sigma), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "kind"), [("vp", "epsilon"), ("cosine", "v"), ("flow", "flow"), ("ve", "x0"), ("discrete", "epsilon")]
)
def test_sampling_through_each_reaches_the_same_samples(x64, name, kind):
    noise, sigmas = np.array([[-1.0, 0.2], [0.5, 2.0]]), karras_noise_levels(12, sigma_min=0.02)
    denoise_fn = denoiser_from_prediction(exact_network(SCHEDULES[name], kind), schedule=SCHEDULES[name], kind=kind)
    samples = heun_sample(lambda x, sigma: denoise_fn(None, x, sigma), noise, sigmas=sigmas)
    np.testing.assert_allclose(samples, heun_sample(gaussian_denoiser, noise, sigmas=sigmas), rtol=1e-8)


def test_network_sees_its_own_input_and_time():
    seen = {}

    def network_fn(params, x_t, time, labels, *, key=None):
        seen.update(x_t=x_t, time=time, labels=labels, key=key)
        return params * x_t, "features"

    denoise_fn = denoiser_from_prediction(network_fn, schedule=flow_matching_schedule(), kind="x0", time_scale=1000.0)
    denoised, aux = denoise_fn(2.0, jnp.ones((2, 3)), jnp.array([1.0, 3.0]), "labels", key="key")
    np.testing.assert_allclose(seen["time"], [500.0, 750.0])
    np.testing.assert_allclose(seen["x_t"][:, 0], [0.5, 0.25])
    np.testing.assert_allclose(denoised[:, 0], [1.0, 0.5])
    assert (seen["labels"], seen["key"], aux) == ("labels", "key", "features")


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_low_precision_gives_float32_under_jit_vmap_and_grad(dtype):
    denoise_fn = denoiser_from_prediction(
        lambda params, x_t, t: (params * x_t).astype(dtype), schedule=vp_schedule(), kind="v"
    )
    x, sigma = jnp.linspace(-1, 1, 12, dtype=dtype).reshape(2, 3, 2), jnp.full((2, 3), 0.7)
    batched = jax.jit(jax.vmap(denoise_fn, in_axes=(None, 0, 0)))(0.5, x, sigma)
    assert batched.dtype == jnp.float32
    np.testing.assert_allclose(batched[1], denoise_fn(0.5, x[1], sigma[1]), rtol=1e-2)
    # For v-prediction p x_t at variance-preserving alpha, s: D = alpha (alpha - s p) x, so dD/dp = -alpha s x.
    slope = jax.grad(lambda p: denoise_fn(p, x[1], sigma[1]).sum())(0.5)
    np.testing.assert_allclose(slope, -0.7 / (1 + 0.49) * np.sum(x[1].astype(jnp.float32)), rtol=2e-2)


def test_bad_arguments_are_named():
    schedule = vp_schedule()
    with pytest.raises(ValueError, match="denoiser_from_prediction: kind is 'velocity'"):
        denoiser_from_prediction(lambda p, x, t: x, schedule=schedule, kind="velocity")
    with pytest.raises(ValueError, match="denoiser_from_prediction: time_scale is 0.0"):
        denoiser_from_prediction(lambda p, x, t: x, schedule=schedule, kind="v", time_scale=0.0)
    denoise_fn = denoiser_from_prediction(lambda p, x, t: x[:, :1], schedule=schedule, kind="v")
    with pytest.raises(ValueError, match=r"denoise_fn: sigma has shape \(3,\)"):
        denoise_fn(None, jnp.ones((2, 3)), jnp.ones(3))
    with pytest.raises(ValueError, match="x has dtype int32"):
        denoise_fn(None, jnp.ones((2, 3), int), jnp.ones(2))
    with pytest.raises(ValueError, match="prediction has shape|x_t has shape"):
        denoise_fn(None, jnp.ones((2, 3)), jnp.ones(2))

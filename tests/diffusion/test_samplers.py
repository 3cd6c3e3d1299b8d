"""The Heun sampler against the closed-form probability flow of Gaussian data, and the paper's algorithm in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdiv.diffusion import heun_sample, karras_noise_levels
from tests.diffusion.gaussians import (
    MEAN,
    MEANS,
    VARIANCE,
    WEIGHTS,
    column,
    gaussian_denoiser,
    gaussian_flow,
    mixture_denoiser,
    mixture_log_density,
)


def paper_sampler(denoise, noise, sigmas):
    """Algorithm 1 of the paper, one line each."""
    t = np.append(sigmas, 0.0)
    x = t[0] * noise
    for i in range(len(sigmas)):
        d = (x - denoise(x, t[i])) / t[i]
        x_next = x + (t[i + 1] - t[i]) * d
        if t[i + 1] > 0:
            d_next = (x_next - denoise(x_next, t[i + 1])) / t[i + 1]
            x_next = x + (t[i + 1] - t[i]) * (d + d_next) / 2
        x = x_next
    return x


def test_equals_the_paper_algorithm(x64):
    noise = np.random.default_rng(0).normal(size=(3, 2))
    sigmas = karras_noise_levels(6)
    got = heun_sample(mixture_denoiser, noise, sigmas=sigmas)
    wanted = paper_sampler(lambda x, t: np.asarray(mixture_denoiser(x, np.full(3, t))), noise, sigmas)
    np.testing.assert_allclose(got, wanted, rtol=1e-12)


def test_float32_stays_float32_in_a_float64_session(x64):
    """Also where EDM's cap on the churn binds."""
    got = heun_sample(
        lambda x, s: x / (1 + s[:, None] ** 2), jnp.ones((2, 1), jnp.float32),
        sigmas=karras_noise_levels(10), key=jax.random.key(0), s_churn=40.0,
    )  # fmt: skip
    assert got.dtype == jnp.float32


@pytest.mark.parametrize(("order", "expected"), [(1, 1.0), (2, 2.0)])
def test_order_of_convergence(x64, order, expected):
    """The slope of log error over log N; the final step to zero is kept small so that the levels alone matter."""
    noise = np.array([[-1.3], [0.4], [2.0]])
    errors = []
    for num_levels in (40, 80, 160, 320):
        sigmas = karras_noise_levels(num_levels, sigma_min=1e-6, sigma_max=5.0, rho=7.0)
        got = heun_sample(gaussian_denoiser, noise, sigmas=sigmas, order=order)
        errors.append(np.max(np.abs(got - gaussian_flow(5.0 * noise, 5.0))))
    slopes = -np.diff(np.log2(errors))
    np.testing.assert_allclose(slopes[-1], expected, atol=0.1)
    assert errors[-1] < (2e-2 if order == 1 else 2e-4)


@pytest.mark.parametrize(("order", "num_levels", "expected"), [(2, 18, 35), (2, 1, 1), (1, 5, 5)])
def test_number_of_evaluations(order, num_levels, expected):
    calls = []

    def denoise_fn(x, sigma):
        jax.debug.callback(lambda s: calls.append(float(s)), sigma[0], ordered=True)
        return 0.5 * x

    sigmas = karras_noise_levels(num_levels)
    heun_sample(denoise_fn, jnp.ones((1, 1)), sigmas=sigmas, order=order).block_until_ready()
    jax.effects_barrier()
    assert len(calls) == expected
    if order == 2:  # each level but the first is visited twice, as corrector and as predictor
        np.testing.assert_allclose(calls, np.repeat(sigmas, 2)[1:], rtol=1e-6)


def test_denoiser_is_traced_once():
    traces = []

    def denoise_fn(x, sigma):
        traces.append(sigma.shape)
        return x

    heun_sample(denoise_fn, jnp.ones((4, 2)), sigmas=karras_noise_levels(9), s_churn=1.0, key=jax.random.key(0))
    assert set(traces) == {(4,)}
    assert len(traces) == 1


def test_one_level_returns_the_denoised_noise():
    noise = jnp.array([[0.3], [-2.0]])
    got = heun_sample(gaussian_denoiser, noise, sigmas=np.array([2.0]))
    np.testing.assert_allclose(got, gaussian_denoiser(2.0 * noise, jnp.full(2, 2.0)), rtol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"s_churn": 20.0}, {"s_churn": 20.0, "s_min": 0.05, "s_max": 10.0}])
def test_samples_have_the_moments_of_gaussian_data(settings):
    size = 20_000
    noise = jax.random.normal(jax.random.key(0), (size, 1))
    sigmas = karras_noise_levels(64)
    x = np.asarray(heun_sample(gaussian_denoiser, noise, sigmas=sigmas, key=jax.random.key(1), **settings), np.float64)
    interval = stats.chi2(size - 1).interval(1 - 1e-4)
    # The discretisation at 64 levels moves the variance by less than 1%.
    assert 0.99 * interval[0] < x.var() / VARIANCE * size < 1.01 * interval[1]
    assert abs(x.mean() - MEAN) < 4.5 * np.sqrt(VARIANCE / size)


def test_added_noise_is_that_of_the_algorithm(x64):
    """One level, churned: the denoiser sees sigma (1 + gamma) and an input of exactly that total variance."""
    noise, key = jax.random.normal(jax.random.key(5), (50_000, 1)), jax.random.key(2)

    def denoise_fn(x, sigma):
        return jnp.concatenate([x, sigma[:, None]], axis=1)[:, :1]

    got = heun_sample(denoise_fn, noise, sigmas=np.array([3.0]), key=key, s_churn=0.3)
    np.testing.assert_allclose(np.std(got), 3.0 * 1.3, rtol=0.02)
    capped = heun_sample(denoise_fn, noise, sigmas=np.array([3.0]), key=key, s_churn=50.0)
    np.testing.assert_allclose(np.std(capped), 3.0 * np.sqrt(2), rtol=0.02)
    louder = heun_sample(denoise_fn, noise, sigmas=np.array([3.0]), key=key, s_churn=50.0, s_noise=2.0)
    np.testing.assert_allclose(np.std(louder), 3.0 * np.sqrt(1 + 4), rtol=0.02)
    outside = heun_sample(denoise_fn, noise, sigmas=np.array([3.0]), key=key, s_churn=50.0, s_max=2.0)
    np.testing.assert_allclose(outside, 3.0 * noise, rtol=1e-12)


def test_mixture_denoiser_is_the_score_and_sampling_finds_both_modes(x64):
    """Tweedie: D = x + sigma^2 grad log p; then the sampler's samples follow the mixture."""
    for sigma in (0.1, 1.0, 10.0):
        points = jnp.linspace(-3.0, 3.0, 7)
        score = jax.vmap(jax.grad(mixture_log_density), in_axes=(0, None))(points, sigma)
        denoised = mixture_denoiser(points[:, None], jnp.full(7, sigma))[:, 0]
        np.testing.assert_allclose(denoised, points + sigma**2 * score, rtol=1e-9, atol=1e-12)
    noise = stats.norm.ppf((np.arange(2000) + 0.5) / 2000)[:, None]
    samples = np.asarray(heun_sample(mixture_denoiser, noise, sigmas=karras_noise_levels(64)))[:, 0]
    # In one dimension the flow is the monotone map, so quantiles go to quantiles.
    stds = np.array([0.5, 0.7])
    cdf = (WEIGHTS * stats.norm.cdf((samples[:, None] - MEANS) / stds)).sum(1)
    np.testing.assert_allclose(cdf, stats.norm.cdf(noise[:, 0]), atol=0.01)


def test_gradient_reaches_the_noise(x64):
    """The closed-form flow is linear in x with slope sqrt(v / (v + T^2))."""

    def final(noise):
        return heun_sample(
            gaussian_denoiser, noise, sigmas=karras_noise_levels(200, sigma_min=1e-5, sigma_max=5.0)
        ).sum()

    slope = jax.grad(final)(jnp.array([[0.7]]))
    np.testing.assert_allclose(slope, 5.0 * np.sqrt(VARIANCE / (VARIANCE + 25.0)), rtol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_state_is_float32_under_jit_and_vmap(dtype):
    noise = jax.random.normal(jax.random.key(0), (2, 3, 2)).astype(dtype)

    def sample(noise, sigmas):
        return heun_sample(lambda x, s: gaussian_denoiser(x, s).astype(dtype), noise, sigmas=sigmas)

    sigmas = jnp.asarray(karras_noise_levels(8))
    batched = jax.jit(jax.vmap(sample, in_axes=(0, None)))(noise, sigmas)
    assert batched.dtype == jnp.float32
    np.testing.assert_allclose(batched[1], sample(noise[1], sigmas), rtol=1e-4, atol=1e-4)


def test_float32_agrees_with_float64():
    noise = np.random.default_rng(0).normal(size=(4, 2))
    single = heun_sample(mixture_denoiser, jnp.asarray(noise, jnp.float32), sigmas=karras_noise_levels(18))
    with jax.enable_x64(True):
        double = heun_sample(mixture_denoiser, noise, sigmas=karras_noise_levels(18))
        assert double.dtype == jnp.float64
    np.testing.assert_allclose(single, double, atol=2e-5)


def test_key_decides_the_samples():
    noise = jnp.ones((2, 2))

    def sample(seed):
        key = jax.random.key(seed)
        return heun_sample(gaussian_denoiser, noise, sigmas=karras_noise_levels(5), key=key, s_churn=2.0)

    np.testing.assert_array_equal(sample(0), sample(0))
    assert np.max(np.abs(sample(0) - sample(1))) > 1e-3


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"sigmas": np.array([1.0, 0.0])}, "heun_sample: sigmas is .*sampler appends zero"),
        ({"sigmas": np.array([0.1, 1.0])}, "sigmas is"),
        ({"sigmas": []}, r"sigmas has shape \(0,\)"),
        ({"sigmas": jnp.array([1.0, 0.0])}, "sigmas is"),  # the zero that EDM's own code appends made all of it NaN
        ({"sigmas": jnp.ones((2, 2))}, r"sigmas has shape \(2, 2\)"),
        ({"sigmas": jnp.ones(0)}, r"sigmas has shape \(0,\)"),
        ({"noise": jnp.ones((2, 2), int)}, "noise has dtype int32"),
        ({"noise": jnp.ones(())}, r"noise has shape \(\)"),
        ({"denoise_fn": lambda x, s: x[:, :1]}, "denoised has shape"),
        ({"order": 3}, "order is 3"),
        ({"s_churn": 1.0}, "key is None"),
        ({"s_churn": -1.0}, "s_churn is -1.0"),
        ({"s_noise": -1.0}, "s_noise is -1.0"),
    ],
)
def test_bad_arguments_are_named(changed, words):
    good = {
        "denoise_fn": lambda x, s: x / (1 + column(s, x)),
        "noise": jnp.ones((2, 2)),
        "sigmas": np.array([1.0, 0.5]),
    }
    with pytest.raises(ValueError, match=words):
        heun_sample(**{**good, **changed})

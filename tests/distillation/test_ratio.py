"""Normalising and clipping estimated ratios, and estimating one by logistic regression."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.distillation import (
    NoiseBins,
    RatioState,
    clip_ratio,
    discriminator_loss,
    init_ratio,
    normalize_ratio,
    update_ratio,
)
from jaxdiv.divergences import jensen_shannon

BINS = NoiseBins(num=4, low=0.01, high=100.0)  # a bin per decade
SIGMA = jnp.array([0.02, 0.05, 0.3, 0.7, 3.0, 4.0, 20.0, 90.0])


def test_bins_are_even_in_log_sigma():
    edges = np.geomspace(0.01, 100.0, 5)
    np.testing.assert_array_equal(BINS.index(jnp.array(edges[:4] * 1.001)), [0, 1, 2, 3])
    np.testing.assert_array_equal(BINS.index(jnp.array(edges[1:] * 0.999)), [0, 1, 2, 3])
    np.testing.assert_array_equal(BINS.index(jnp.array([1e-30, 1e-3, 1e3, 1e30])), [0, 0, 3, 3])


def test_the_mean_of_a_bin():
    mean, count = BINS.mean(jnp.arange(6.0), jnp.array([0.05, 0.05, 0.5, 50.0, 50.0, 50.0]))
    np.testing.assert_allclose(mean, [0.5, 2.0, np.nan, 4.0])
    np.testing.assert_array_equal(count, [2, 1, 0, 3])


@pytest.mark.parametrize(
    ("change", "argument"),
    [({"num": 0}, "num"), ({"low": 0.0}, "low"), ({"low": 2.0, "high": 2.0}, "high")],
)
def test_bad_bins(change, argument):
    with pytest.raises(ValueError, match=rf"^NoiseBins: {argument}.*expected"):
        NoiseBins(**change)


def test_normalising_undoes_a_constant_in_each_bin():
    """An estimate that is off by a factor per bin comes out with mean one in each bin."""
    rho = jax.random.normal(jax.random.key(0), (8,))
    off = jnp.array([3.0, -2.0, 0.5, 40.0])[BINS.index(SIGMA)]
    states = [update_ratio(init_ratio(BINS), x, SIGMA, bins=BINS, decay=0.9) for x in (rho, rho + off)]
    plain, shifted = (normalize_ratio(s, x, SIGMA, bins=BINS) for s, x in zip(states, (rho, rho + off), strict=True))
    np.testing.assert_allclose(shifted, plain, atol=1e-5)
    np.testing.assert_allclose(BINS.mean(jnp.exp(shifted), SIGMA)[0], 1.0, rtol=1e-5)


@pytest.mark.parametrize("size", [60.0, -60.0, 500.0])
def test_nothing_overflows(size):
    rho = jnp.full(8, size) + jnp.arange(8.0) / 8
    state = init_ratio(BINS)
    for _ in range(3):
        state = update_ratio(state, rho, SIGMA, bins=BINS, decay=0.5)
    np.testing.assert_allclose(state.log_mean, np.log(np.exp(np.arange(8) / 8).reshape(4, 2).mean(1)) + size, rtol=1e-5)


def test_opposite_extremes_in_one_bin():
    one = NoiseBins(num=1)
    state = update_ratio(init_ratio(one), jnp.array([60.0, -60.0]), jnp.ones(2), bins=one, decay=0.0)
    np.testing.assert_allclose(state.log_mean, 60 - np.log(2), rtol=1e-6)


def test_empty_bins_stay():
    state = RatioState(jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array([5, 6, 7, 8], jnp.int32))
    new = update_ratio(state, jnp.zeros(2), jnp.array([0.5, 0.5]), bins=BINS, decay=0.9)
    np.testing.assert_allclose(new.log_mean[jnp.array([0, 2, 3])], [1.0, 3.0, 4.0])
    np.testing.assert_array_equal(new.num_updates, [5, 7, 7, 8])
    np.testing.assert_allclose(new.log_mean[1], np.log(6 / 7 * np.exp(2.0) + 1 / 7), rtol=1e-5)


def test_the_decay_law():
    """Averages of the first batches are plain, until n / (n + 1) passes the decay; then they are exponential."""
    one, means, state = NoiseBins(num=1), [2.0, 5.0, 1.0, 8.0, 3.0, 4.0], init_ratio(NoiseBins(num=1))
    expected = 1.0
    for n, mean in enumerate(means):
        state = update_ratio(state, jnp.log(jnp.array([mean])), jnp.ones(1), bins=one, decay=0.75)
        d = min(0.75, n / (n + 1))
        expected = d * expected + (1 - d) * mean
        np.testing.assert_allclose(jnp.exp(state.log_mean[0]), expected, rtol=1e-5)
        if n < 4:
            assert expected == pytest.approx(np.mean(means[: n + 1]))
    assert int(state.num_updates[0]) == 6


def test_without_decay_the_last_batch_counts_alone():
    state = update_ratio(init_ratio(BINS), jnp.full(8, 7.0), SIGMA, bins=BINS, decay=0.0)
    state = update_ratio(state, jnp.full(8, -2.0), SIGMA, bins=BINS, decay=0.0)
    np.testing.assert_allclose(state.log_mean, -2.0, rtol=1e-6)


def test_a_non_finite_ratio_does_not_stay_in_the_state():
    """One bad batch must not poison every later normalisation of its bin."""
    for bad in (jnp.nan, jnp.inf):
        state = update_ratio(init_ratio(BINS), jnp.full(8, 1.0), SIGMA, bins=BINS, decay=0.9)
        new = update_ratio(state, jnp.full(8, 1.0).at[0].set(bad), SIGMA, bins=BINS, decay=0.9)
        np.testing.assert_allclose(new.log_mean, 1.0, rtol=1e-6)
        np.testing.assert_array_equal(new.num_updates, [1, 2, 2, 2])


def test_jit_and_gradients():
    rho = jnp.linspace(-2.0, 2.0, 8)
    fn = functools.partial(update_ratio, bins=BINS, decay=0.9)
    for found, wanted in zip(jax.jit(fn)(init_ratio(BINS), rho, SIGMA), fn(init_ratio(BINS), rho, SIGMA), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)

    def normalised(x):
        state = fn(init_ratio(BINS), x, SIGMA)
        return jnp.sum(normalize_ratio(state, x, SIGMA, bins=BINS))

    np.testing.assert_allclose(jax.grad(normalised)(rho), 1.0)  # the state is frozen


def test_half_precision_ratios_are_averaged_in_float32():
    state = update_ratio(init_ratio(BINS), jnp.full(8, 2.0, jnp.bfloat16), SIGMA, bins=BINS, decay=0.9)
    assert state.log_mean.dtype == jnp.float32
    np.testing.assert_allclose(state.log_mean, 2.0, rtol=1e-6)


def test_clipping_counts():
    rho = jnp.array([-20.0, -5.0, 0.0, 5.0, 5.1, jnp.inf])
    clipped, count = clip_ratio(rho, limit=5.0)
    np.testing.assert_allclose(clipped, [-5.0, -5.0, 0.0, 5.0, 5.0, 5.0])
    assert int(count) == 3 and count.dtype == jnp.int32


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: clip_ratio(jnp.zeros(2), limit=0.0), "clip_ratio: limit"),
        (lambda: update_ratio(init_ratio(BINS), jnp.zeros(8), SIGMA, bins=BINS, decay=1.0), "update_ratio: decay"),
        (lambda: update_ratio(init_ratio(BINS), jnp.zeros(7), SIGMA, bins=BINS, decay=0.5), "update_ratio: sigma"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=rf"^{message}.*expected"):
        call()


# Logistic regression on (1, x, x^2) finds the log-ratio of two Gaussians.

Q_MEAN, Q_STD, P_MEAN, P_STD = 0.4, 0.9, -0.2, 1.3
EXACT = np.array(
    [
        -(Q_MEAN**2) / (2 * Q_STD**2) + P_MEAN**2 / (2 * P_STD**2) - np.log(Q_STD / P_STD),
        Q_MEAN / Q_STD**2 - P_MEAN / P_STD**2,
        -1 / (2 * Q_STD**2) + 1 / (2 * P_STD**2),
    ]
)


def _features(x):
    return jnp.stack([jnp.ones_like(x), x, x**2], axis=-1)


def _loss(c, real, fake):
    return jnp.mean(discriminator_loss(_features(real) @ c, _features(fake) @ c))


def _fit(real, fake):
    """Newton's method on the mean discriminator loss."""

    def step(_, c):
        return c - jnp.linalg.solve(jax.hessian(_loss)(c, real, fake), jax.grad(_loss)(c, real, fake))

    return jax.lax.fori_loop(0, 8, step, jnp.zeros(3))


@jax.jit
def _standard_error(c, real, fake):
    """The sandwich estimate."""
    each = jax.vmap(lambda a, b: jax.grad(_loss)(c, a[None], b[None]))(real, fake)
    inverse = jnp.linalg.inv(jax.hessian(_loss)(c, real, fake))
    return jnp.sqrt(jnp.diag(inverse @ jnp.cov(each.T) @ inverse) / real.size)


def test_the_best_logit_is_the_log_ratio(x64):
    """Within four standard errors, at a size where these are small."""
    key_q, key_p = jax.random.split(jax.random.key(0))
    real = Q_MEAN + Q_STD * jax.random.normal(key_q, (40000,))
    fake = P_MEAN + P_STD * jax.random.normal(key_p, (40000,))
    found = jax.jit(_fit)(real, fake)
    error = _standard_error(found, real, fake)
    assert (np.asarray(error) < 0.02).all()
    assert (np.abs(found - EXACT) < 4 * error).all()


def test_the_weight_converges_at_the_square_root_of_the_sample(x64):
    """Sixteen times the sample, a quarter of the error of h(r): within a factor 1.6, over 16 repetitions."""
    x = jnp.linspace(-2.0, 2.0, 21)
    exact = jensen_shannon().weight(_features(x) @ EXACT)

    def error(num, key):
        key_q, key_p = jax.random.split(key)
        real = Q_MEAN + Q_STD * jax.random.normal(key_q, (num,))
        fake = P_MEAN + P_STD * jax.random.normal(key_p, (num,))
        return jnp.mean((jensen_shannon().weight(_features(x) @ _fit(real, fake)) - exact) ** 2)

    keys = jax.random.split(jax.random.key(1), 16)
    few, many = (np.sqrt(np.mean(jax.jit(jax.vmap(functools.partial(error, n)))(keys))) for n in (500, 8000))
    assert 4 / 1.6 < few / many < 4 * 1.6

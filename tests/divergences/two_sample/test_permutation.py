"""Permutation tests: null values by brute force, exact levels, power, and the bounds on what is held in memory."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxdiv.divergences import two_sample as ts
from jaxdiv.divergences.two_sample.permutation import _labels, summarize
from tests.divergences.two_sample import reference
from tests.divergences.two_sample.reference import KERNELS, samples

P, Q = samples(0, 9, 6, 3)


@pytest.mark.parametrize("estimator", ["unbiased", "biased"])
@pytest.mark.parametrize(
    ("name", "statistic"),
    [("gaussians", "mmd"), ("distance", "mmd"), ("polynomial", "mmd"), ("laplace", "cauchy_schwarz")],
)
def test_all_relabellings_by_brute_force(name, statistic, estimator, x64):
    kernel, k = KERNELS[name]
    key = jax.random.key(3)
    options = {"statistic": statistic, "estimator": estimator, "num_permutations": 20, "chunk_size": 4}
    test = jax.jit(functools.partial(ts.kernel_permutation_test, kernel=kernel, **options))
    result = test(key, p_samples=P, q_samples=Q)
    pooled, labels = np.concatenate([P, Q]), np.asarray(_labels(key, 9, 6, 20))
    assert labels.shape == (15, 21) and (labels.sum(axis=0) == 9).all() and len(np.unique(labels.T, axis=0)) > 15
    fn = reference.mmd if statistic == "mmd" else reference.cauchy_schwarz
    expected = np.array([fn(k, pooled[own], pooled[~own], estimator == "unbiased") for own in labels.T])
    np.testing.assert_allclose(result.statistic, expected[0], rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(result.null, expected[1:], rtol=1e-7, atol=1e-12)
    assert float(result.p_value) == pytest.approx((1 + np.sum(expected[1:] >= expected[0])) / 21)


def test_the_statistic_is_the_functions_own():
    key, both = jax.random.key(0), {"p_samples": P, "q_samples": Q}
    fixed = {"num_permutations": 3, "chunk_size": 4}

    def test(**options):
        return jax.jit(functools.partial(ts.kernel_permutation_test, **fixed, **options))(key, **both)

    np.testing.assert_allclose(test().statistic, jax.jit(ts.squared_mmd)(**both), rtol=1e-5)
    np.testing.assert_allclose(
        test(kernel=ts.distance_kernel(), estimator="biased").statistic, jax.jit(ts.energy_distance)(**both), rtol=1e-5
    )
    np.testing.assert_allclose(
        test(statistic="cauchy_schwarz", estimator="biased").statistic,
        jax.jit(ts.kernel_cauchy_schwarz)(**both),
        rtol=1e-5,
    )


def test_null_values_are_among_all_relabellings():
    p, q = samples(1, 3, 3, 2)
    pooled, everything = np.concatenate([p, q]), set(range(6))
    distance = jax.jit(ts.energy_distance)
    values = [
        float(distance(p_samples=pooled[list(s)], q_samples=pooled[list(everything - set(s))]))
        for s in itertools.combinations(range(6), 3)
    ]
    test = functools.partial(ts.permutation_test, statistic_fn=ts.energy_distance, num_permutations=300, batch_size=50)
    result = jax.jit(test)(jax.random.key(0), p_samples=p, q_samples=q)
    distinct = np.sort(values)[::2]
    counts = np.argmin(np.abs(np.asarray(result.null)[:, None] - distinct), axis=1)
    np.testing.assert_allclose(result.null, distinct[counts], atol=3e-6)
    # Swapping the samples leaves the distance: 10 values, each of probability 1/10.
    assert scipy.stats.chisquare(np.bincount(counts, minlength=10)).pvalue > 1e-3
    exact = np.mean(np.array(values) >= float(result.statistic) - 1e-6)
    assert abs(float(result.p_value) - exact) < 4 * np.sqrt(exact / 300)


def uniform_levels(test, num=400, bins=20):
    """p-values of data under p = q: each multiple of 1 / bins is equally likely."""

    def one(key):
        data, draw = jax.random.split(key)
        points = jax.random.normal(data, (18, 2))
        return test(draw, p_samples=points[:10], q_samples=points[10:], num_permutations=bins - 1).p_value

    levels = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), num)))
    ranks = np.round(levels * bins).astype(int)
    np.testing.assert_allclose(levels * bins, ranks, atol=1e-4)
    counts = np.bincount(ranks, minlength=bins + 1)[1:]
    assert counts.sum() == num
    return scipy.stats.chisquare(counts).pvalue


@pytest.mark.parametrize("statistic", ["mmd", "cauchy_schwarz"])
def test_levels_are_uniform_under_the_null(statistic):
    assert uniform_levels(functools.partial(ts.kernel_permutation_test, statistic=statistic)) > 1e-3


def gap_of_means(*, p_samples, q_samples):
    return jnp.sum(jnp.square(p_samples.mean(0) - q_samples.mean(0)))


def test_levels_of_any_statistic_are_uniform_under_the_null():
    def test(key, **arguments):
        return ts.permutation_test(key, gap_of_means, **arguments)

    assert uniform_levels(test) > 1e-3


def test_a_wrong_test_would_be_seen():
    """The biased statistic of another split of the data: levels that cluster."""

    def wrong(key, *, p_samples, q_samples, num_permutations):
        result = ts.permutation_test(
            key, gap_of_means, p_samples=p_samples, q_samples=q_samples, num_permutations=num_permutations
        )
        return summarize(2.0 * result.statistic, result.null)

    assert uniform_levels(wrong) < 1e-3


def test_power():
    p, q = samples(5, 60, 50, 3, shift=0.8, scale=1.0)
    key = jax.random.key(0)
    kernel_test = jax.jit(ts.kernel_permutation_test)
    assert float(kernel_test(key, p_samples=p, q_samples=q).p_value) == pytest.approx(1 / 201)
    statistics = (
        ts.frechet_distance,
        functools.partial(ts.sliced_wasserstein, jax.random.key(1), num_projections=10),
        ts.knn_kl,
        functools.partial(ts.knn_renyi, 0.5, num_neighbors=3),
    )
    for statistic in statistics:
        test = jax.jit(functools.partial(ts.permutation_test, statistic_fn=statistic, num_permutations=39))
        assert float(test(key, p_samples=p, q_samples=q).p_value) <= 0.05
        # One vmapped call: no loop goes over the relabellings.
        assert "length=39" not in str(jax.make_jaxpr(test)(key, p_samples=p, q_samples=q))


def test_batches_and_chunks_change_nothing():
    key = jax.random.key(2)
    results = [
        jax.jit(
            lambda key, b=b: ts.permutation_test(
                key, gap_of_means, p_samples=P, q_samples=Q, num_permutations=7, batch_size=b
            )
        )(key)
        for b in (None, 1, 3, 100)
    ]
    for other in results[1:]:
        np.testing.assert_allclose(other.null, results[0].null, rtol=1e-5)
    results = [
        jax.jit(
            lambda key, c=c: ts.kernel_permutation_test(key, p_samples=P, q_samples=Q, num_permutations=7, chunk_size=c)
        )(key)
        for c in (1, 4, 99)
    ]
    for other in results[1:]:
        np.testing.assert_allclose(other.null, results[0].null, rtol=1e-4, atol=1e-7)


def test_values_equal_to_rounding_count_and_infinities_too():
    null = jnp.array([1.0, 1.0 - 6e-8, 0.5])
    assert float(summarize(jnp.float32(1.0), null).p_value) == 0.75
    infinite = summarize(jnp.float32(jnp.inf), jnp.array([jnp.inf, 0.0, 1.0]))
    assert float(infinite.p_value) == 0.5


def test_nan_has_no_level():
    """No null value is at least NaN, which is not the strongest evidence there is."""
    assert np.isnan(summarize(jnp.float32(jnp.nan), jnp.zeros(3)).p_value)
    assert np.isnan(summarize(jnp.float32(1.0), jnp.array([0.0, jnp.nan])).p_value)
    broken = jnp.ones((5, 2)).at[0, 0].set(jnp.nan)
    assert np.isnan(ts.kernel_permutation_test(jax.random.key(0), p_samples=broken, q_samples=jnp.ones((5, 2))).p_value)


def test_an_estimate_of_any_kind_is_its_value():
    class Estimate(NamedTuple):
        value: jax.Array
        note: str = "none"

    def gap(*, p_samples, q_samples):
        return Estimate(jnp.abs(jnp.mean(p_samples) - jnp.mean(q_samples)))

    points = jnp.arange(10.0)[:, None]
    result = ts.permutation_test(jax.random.key(0), gap, p_samples=points, q_samples=points + 50.0, num_permutations=19)
    assert float(result.statistic) == 50.0


def test_samples_far_apart_are_the_least_likely_labelling():
    p = np.random.default_rng(0).normal(size=(20, 2))
    for statistic in ("mmd", "cauchy_schwarz"):
        test = functools.partial(ts.kernel_permutation_test, kernel=ts.gaussian_kernel(1.0), statistic=statistic)
        result = jax.jit(test)(jax.random.key(0), p_samples=p, q_samples=p + 1e4)
        assert float(result.p_value) == pytest.approx(1 / 201) and not np.isnan(result.null).any()

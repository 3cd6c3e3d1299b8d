"""Sliced Wasserstein against scipy, repeated points, closed forms and finite differences."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxdiv.divergences import two_sample as ts
from jaxdiv.divergences.two_sample.sliced import _quantile_pieces
from tests.divergences.two_sample.reference import central_differences, samples

SIZES = [(12, 12), (12, 8), (5, 13), (1, 9), (30, 7)]


def directions(count, d):
    x = np.random.default_rng(9).normal(size=(count, d))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_order_one_is_scipys(n, m, x64):
    p, q = samples(n, n, m, 3)
    lines = directions(6, 3)
    expected = [scipy.stats.wasserstein_distance(p @ line, q @ line) for line in lines]
    actual = ts.projected_wasserstein(lines, p_samples=p, q_samples=q, order=1)
    np.testing.assert_allclose(actual, expected, rtol=1e-11)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_unequal_sizes_by_repeating_points(n, m, order, x64):
    p, q = samples(n, n, m, 2)
    lines, size = directions(4, 2), math.lcm(n, m)
    many_p, many_q = (np.sort(np.repeat(x @ lines.T, size // len(x), axis=0), axis=0) for x in (p, q))
    expected = np.mean(np.abs(many_p - many_q) ** order, axis=0)
    actual = ts.projected_wasserstein(lines, p_samples=p, q_samples=q, order=order)
    np.testing.assert_allclose(actual, expected, rtol=1e-11)


def test_pieces_of_large_samples_are_exact():
    at_p, at_q, lengths = _quantile_pieces(99_991, 100_000)
    assert at_p[-1] == 99_990 and at_q[-1] == 99_999 and len(lengths) == 99_991 + 100_000 - 1
    assert lengths.min() > 0 and lengths.sum() == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(np.bincount(at_p, lengths), 1 / 99_991, rtol=1e-9)
    np.testing.assert_allclose(np.bincount(at_q, lengths), 1 / 100_000, rtol=1e-9)


def test_a_shift_in_closed_form():
    """Every direction sees the shift's component: the mean of (theta . s)^2 is |s|^2 / d."""
    x, _ = samples(0, 50, 50, 4)
    shift = np.array([1.0, -2.0, 0.5, 0.0])
    value = ts.sliced_wasserstein(jax.random.key(0), p_samples=x, q_samples=x + shift, num_projections=20_000)
    assert float(value) == pytest.approx(5.25 / 4, rel=0.03)


def test_it_is_the_mean_over_unit_directions():
    p, q = samples(1, 20, 15, 3)
    key = jax.random.key(5)
    lines = jax.random.normal(key, (16, 3))
    lines = lines / jnp.linalg.norm(lines, axis=1, keepdims=True)
    for order in (1, 2):
        each = ts.projected_wasserstein(lines, p_samples=p, q_samples=q, order=order)
        value = ts.sliced_wasserstein(key, p_samples=p, q_samples=q, order=order, num_projections=16)
        assert each.shape == (16,) and float(value) == pytest.approx(float(each.mean()), rel=1e-6)
        assert float(value) != float(
            ts.sliced_wasserstein(jax.random.key(6), p_samples=p, q_samples=q, order=order, num_projections=16)
        )
        assert float(ts.sliced_wasserstein(key, p_samples=p, q_samples=p, order=order)) == 0.0


def test_samples_far_from_the_origin_in_float32():
    p, q = (x.astype(np.float32) + np.float32(4096.0) for x in samples(2, 40, 30, 3))
    lines = directions(8, 3).astype(np.float32)
    expected = [scipy.stats.wasserstein_distance(p.astype(float) @ e, q.astype(float) @ e) for e in lines.astype(float)]
    actual = ts.projected_wasserstein(lines, p_samples=p, q_samples=q, order=1)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize(("n", "m"), [(6, 6), (6, 4)])
def test_gradients_by_finite_differences(n, m, order, x64):
    p, q = samples(3, n, m, 2)
    lines = directions(3, 2)

    @jax.jit
    def fn(p, q, lines):
        return jnp.sum(ts.projected_wasserstein(lines, p_samples=p, q_samples=q, order=order))

    gradients = jax.jit(jax.grad(fn, (0, 1, 2)))(p, q, lines)
    arguments = [p, q, lines]
    for i in range(3):
        numeric = central_differences(lambda x, i=i: fn(*arguments[:i], x, *arguments[i + 1 :]), arguments[i])
        np.testing.assert_allclose(gradients[i], numeric, rtol=1e-6, atol=1e-8)


def test_equal_samples_have_a_zero_gradient():
    p, _ = samples(4, 10, 10, 2)
    fn = functools.partial(ts.sliced_wasserstein, jax.random.key(0), q_samples=p)
    for order in (1, 2):
        assert np.array_equal(jax.grad(lambda x, o=order: fn(p_samples=x, order=o))(p), np.zeros_like(p))

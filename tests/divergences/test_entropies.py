"""Entropy, perplexity and cross-entropy against mpmath, with their derivatives."""

import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from jaxdiv.divergences.entropies import cross_entropy, entropy, perplexity
from tests.divergences.logits_oracle import floats, softmax, value_and_gradients

INF = math.inf
ROWS = np.array(
    [
        [0.3, -1.0, 0.7, 2.0],
        [1e-4, -1e-4, 2e-4, 0.0],
        [50.0, 1.0, -30.0, 20.0],
        [0.3, -INF, 0.7, -INF],
        [9.0, -8.0, -9.5, -INF],
    ],
    np.float32,
)


def exact_entropy(row):
    """The entropy and its gradient -p (log p + H)."""
    p = softmax(row)
    logs = [mpmath.log(x) if x else mpmath.mpf(0) for x in p]
    value = -mpmath.fsum(x * y for x, y in zip(p, logs, strict=True))
    return value, [-x * (y + value) for x, y in zip(p, logs, strict=True)]


def test_entropy_and_its_gradient():
    value = np.asarray(entropy(ROWS))
    gradient = np.asarray(jax.jit(jax.vmap(jax.grad(entropy)))(ROWS))
    for i, row in enumerate(ROWS):
        truth, slopes = exact_entropy(floats(row))
        assert abs(float(value[i]) - truth) <= 1e-6 * truth
        size = max(abs(x) for x in slopes)
        assert max(abs(g - x) for g, x in zip(floats(gradient[i]), slopes, strict=True)) <= 1e-6 * size + 1e-38
    np.testing.assert_allclose(perplexity(ROWS), np.exp(value), rtol=1e-6)


@pytest.mark.slow
def test_second_derivative_of_entropy(x64):
    rows, step = ROWS[[0, 3]].astype(np.float64), 1e-6
    direction = np.array([0.3, -0.7, 1.1, 0.2])
    gradient = jax.vmap(jax.grad(entropy))
    _, bend = jax.jvp(gradient, (rows,), (np.broadcast_to(direction, rows.shape),))
    difference = (gradient(rows + step * direction) - gradient(rows - step * direction)) / (2 * step)
    np.testing.assert_allclose(bend, difference, atol=1e-9)
    reverse = jax.vmap(jax.hessian(entropy))(rows) @ direction
    np.testing.assert_allclose(reverse, bend, atol=1e-12)


def test_bounds_and_edges_of_entropy():
    assert float(entropy(jnp.zeros(1000))) == pytest.approx(math.log(1000), rel=1e-6)
    assert float(entropy(jnp.array([-INF, 3.0, -INF]))) == 0.0
    assert float(entropy(jnp.full(3, -INF))) == 0.0 and not jax.grad(entropy)(jnp.full(3, -INF)).any()
    assert np.isnan(entropy(jnp.array([0.0, math.nan]))) and np.isnan(entropy(jnp.array([0.0, INF])))
    mask = np.array([True, True, False, True])
    np.testing.assert_array_equal(entropy(ROWS, where=mask), entropy(np.where(mask, ROWS, -INF)))
    np.testing.assert_allclose(entropy(ROWS.T, axis=0), entropy(ROWS), rtol=1e-6)
    half = entropy(ROWS.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, entropy(ROWS.astype(jnp.bfloat16).astype(np.float32)))


def test_cross_entropy():
    """-sum p log q, and q - p as the gradient for q's logits, to the digits of q - p itself."""
    p, q = ROWS[:3], ROWS[:3] + 1e-3 * np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    for temperature in (1.0, 3.0):

        def loss(q, temperature=temperature):
            return cross_entropy(p_logits=p, q_logits=q, temperature=temperature)

        value, gradient = loss(q), jax.grad(lambda q: jnp.sum(loss(q)))(q)
        for i in range(3):
            a, b = ([mpmath.mpf(v) / temperature for v in floats(x[i])] for x in (p, q))
            truth = -mpmath.fsum(x * mpmath.log(y) for x, y in zip(softmax(a), softmax(b), strict=True))
            assert abs(float(value[i]) - truth) <= 1e-6 * truth
            slopes = value_and_gradients("kl", floats(p[i]), floats(q[i]), temperature)[2]
            size = max(abs(x) for x in slopes)
            assert max(abs(g - x) for g, x in zip(floats(gradient[i]), slopes, strict=True)) <= 2e-6 * size
    infinite = cross_entropy(p_logits=jnp.zeros(3), q_logits=jnp.array([0.0, 0.0, -INF]))
    assert infinite == INF
    both = jax.grad(lambda p, q: cross_entropy(p_logits=p, q_logits=q), (0, 1))(
        jnp.zeros(3), jnp.array([0.0, 0.0, -INF])
    )
    assert all(np.isfinite(g).all() for g in both)


def test_bad_arguments():
    for fn in (entropy, perplexity):
        for bad in (None, "logits", np.zeros(3, int), [[0.0], [1.0, 2.0]]):
            with pytest.raises(ValueError, match=f"^{fn.__name__}: logits .*; expected "):
                fn(bad)
        with pytest.raises(ValueError, match=f"^{fn.__name__}: axis "):
            fn(ROWS, axis=3)
        with pytest.raises(ValueError, match=f"^{fn.__name__}: where "):
            fn(ROWS, where=np.ones(4))
    with pytest.raises(ValueError, match="^cross_entropy: q_logits "):
        cross_entropy(p_logits=ROWS, q_logits=ROWS[:2])
    with pytest.raises(ValueError, match="^cross_entropy: temperature "):
        cross_entropy(p_logits=ROWS, q_logits=ROWS, temperature=-1.0)

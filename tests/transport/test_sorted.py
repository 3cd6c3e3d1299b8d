"""Exact transport on the line against POT, scipy and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from scipy import stats

from jaxdiv.transport import epsilon_schedule, regularized_cost, sinkhorn, sqeuclidean, transport_cost_1d
from tests.transport.problems import differences, weights


def line(n, *, seed, batch=()):
    return np.random.default_rng(seed).normal(size=(*batch, n))


@pytest.mark.parametrize("order", [1.0, 1.5, 2.0, 3])
def test_values_are_those_of_pot(x64, order):
    for n, m in ((1, 1), (1, 5), (7, 7), (6, 9)):
        x, y = line(n, seed=n), 0.3 + line(m, seed=m + 50)
        log_a, log_b = weights(n, seed=1, dtype=np.float64), weights(m, seed=2, dtype=np.float64)
        a, b = np.exp(log_a), np.exp(log_b)
        cost = np.abs(x[:, None] - y[None, :]) ** order
        found = transport_cost_1d(p_samples=x, q_samples=y, order=order)
        np.testing.assert_allclose(found, ot.emd2([], [], cost), rtol=1e-10)
        found = transport_cost_1d(p_samples=x, q_samples=y, p_log_weights=log_a, q_log_weights=log_b, order=order)
        np.testing.assert_allclose(found, ot.emd2(a, b, cost), rtol=1e-9)


def test_order_one_is_scipys_distance(x64):
    x, y = line(30, seed=0), line(17, seed=1)
    log_a, log_b = weights(30, seed=1, dtype=np.float64), weights(17, seed=2, dtype=np.float64)
    found = transport_cost_1d(p_samples=x, q_samples=y, p_log_weights=log_a, q_log_weights=log_b, order=1.0)
    np.testing.assert_allclose(found, stats.wasserstein_distance(x, y, np.exp(log_a), np.exp(log_b)), rtol=1e-10)


def test_is_what_sinkhorn_tends_to(x64):
    x, y = line(9, seed=0), line(9, seed=1)
    cost = sqeuclidean(x[:, None], y[:, None])
    result = sinkhorn(cost, epsilon=epsilon_schedule(5.0, 1e-3, num_iters=4000), num_iters=4000)
    exact = transport_cost_1d(p_samples=x, q_samples=y)
    assert 0 <= float(regularized_cost(result, cost) - exact) <= 1e-3 * np.log(9) + 1e-6


def test_gaussian_quantiles_in_closed_form(x64):
    """W_2^2 between N(0, 1) and N(2, 9) is 4 + (3 - 1)^2, up to the cut of the tails."""
    quantiles = stats.norm.ppf((np.arange(20000) + 0.5) / 20000)
    found = transport_cost_1d(p_samples=quantiles[::-1], q_samples=2.0 + 3.0 * quantiles)
    assert float(found) == pytest.approx(8.0, rel=1e-3)


def test_gradients_by_finite_differences(x64):
    x, y = line(5, seed=0), line(7, seed=1)
    log_b = weights(7, seed=2, dtype=np.float64)

    @jax.jit
    def value(x, y, a, order=2.0):
        log_a = jax.nn.log_softmax(a)
        return transport_cost_1d(p_samples=x, q_samples=y, p_log_weights=log_a, q_log_weights=log_b)

    points = (x, y, weights(5, seed=1, dtype=np.float64))
    for i, gradient in enumerate(jax.grad(value, argnums=(0, 1, 2))(*points)):
        others = lambda v, i=i: value(*points[:i], v, *points[i + 1 :])  # noqa: E731
        np.testing.assert_allclose(gradient, differences(others, points[i], 1e-6), rtol=1e-6, atol=1e-8)


def test_laws_batches_and_dtypes():
    x, y = (line(8, seed=s, batch=(2, 3)).astype(np.float32) for s in (0, 1))
    values = transport_cost_1d(p_samples=x, q_samples=y)
    assert values.shape == (2, 3) and values.dtype == jnp.float32
    np.testing.assert_allclose(values, np.mean((np.sort(x) - np.sort(y)) ** 2, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(transport_cost_1d(p_samples=y, q_samples=x), values, rtol=1e-5)
    np.testing.assert_array_equal(transport_cost_1d(p_samples=x, q_samples=x[..., ::-1]), 0.0)
    each = jax.vmap(jax.vmap(lambda x, y: transport_cost_1d(p_samples=x, q_samples=y)))(x, y)
    np.testing.assert_allclose(each, values, rtol=1e-6)
    gradient = jax.grad(lambda v: jnp.sum(transport_cost_1d(p_samples=v, q_samples=x, order=1.0)))(x)
    assert np.isfinite(gradient).all()
    assert transport_cost_1d(p_samples=jnp.asarray(x, jnp.bfloat16), q_samples=y).dtype == jnp.float32


def test_weight_zero_leaves_a_point_out(x64):
    x, y = line(4, seed=0), line(6, seed=1)
    log_a = np.append(np.log([0.1, 0.2, 0.3, 0.4]), -np.inf)
    padded = np.append(x, 100.0)
    found = transport_cost_1d(p_samples=padded, q_samples=y, p_log_weights=log_a)
    np.testing.assert_allclose(
        found, transport_cost_1d(p_samples=x, q_samples=y, p_log_weights=log_a[:4]), rtol=1e-9
    )  # fmt: skip


@pytest.mark.parametrize("pad", [1e6, -1e6, 0.3])
def test_weight_zero_gets_nothing_of_what_rounding_leaves(pad):
    """Three thirds end at 1 - 6e-8 in float32."""
    x, y = np.float32([0.1, 0.5, 0.9]), np.float32([0.2, 0.4])
    log_a = np.log(np.float32([1 / 3, 1 / 3, 1 / 3]))
    found = transport_cost_1d(
        p_samples=np.append(x, np.float32(pad)), q_samples=y, p_log_weights=np.append(log_a, np.float32(-np.inf))
    )
    np.testing.assert_allclose(found, transport_cost_1d(p_samples=x, q_samples=y), rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"p_samples": 1.0}, r"p_samples has shape \(\)"),
        ({"p_samples": np.zeros(0, np.float32)}, r"p_samples has shape \(0,\)"),
        ({"p_samples": None}, "p_samples "),
        ({"p_samples": np.arange(3)}, "p_samples has dtype int"),
        ({"q_samples": np.zeros((2, 3), np.float32)}, r"q_samples has shape \(2, 3\)"),
        ({"p_log_weights": np.zeros(2, np.float32)}, r"p_log_weights has shape \(2,\)"),
        ({"q_log_weights": [0.0, None]}, "q_log_weights "),
        ({"q_log_weights": [0.5, 0.5]}, "q_log_weights has a total mass of 3.29744; expected logarithms"),
        ({"order": 0.5}, "order is 0.5"),
        ({"order": "two"}, "order is 'two'"),
        ({"order": float("nan")}, "order is nan"),
    ],
)
def test_a_bad_argument_is_named(settings, message):
    arguments = {"p_samples": np.zeros(3, np.float32), "q_samples": np.zeros(2, np.float32)}
    with pytest.raises(ValueError, match="^transport_cost_1d: " + message):
        transport_cost_1d(**arguments | settings)

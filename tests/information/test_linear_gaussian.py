"""Gaussian mutual information against log-determinants in numpy, its exact bias by repetition, Ledoit-Wolf by loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.information import gaussian_mutual_information


def samples(count, dx, dy, seed=0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(count, dx + dy)) @ rng.normal(size=(dx + dy, dx + dy))
    return z[:, :dx], z[:, dx:]


def by_determinants(x, y, weight=0.0):
    """-log |R| / 2 + log |R_x| / 2 + log |R_y| / 2 with R the shrunk correlation matrix."""
    dx, r = x.shape[1], np.corrcoef(np.column_stack([x, y]).T)
    r = (1.0 - weight) * r + weight * np.eye(len(r))
    logdet = [np.linalg.slogdet(m)[1] for m in (r[:dx, :dx], r[dx:, dx:], r)]
    return 0.5 * (logdet[0] + logdet[1] - logdet[2])


def ledoit_wolf(z):
    """min(b^2, d^2) / d^2 from the definitions, a sample at a time."""
    z = (z - z.mean(0)) / z.std(0)
    s = z.T @ z / len(z)
    d2 = np.sum((s - np.trace(s) / len(s) * np.eye(len(s))) ** 2)
    b2 = sum(np.sum((np.outer(row, row) - s) ** 2) for row in z) / len(z) ** 2
    return min(b2, d2) / d2


@pytest.mark.parametrize(("dx", "dy"), [(1, 1), (2, 3), (5, 2)])
def test_it_is_the_ratio_of_determinants(x64, dx, dy):
    x, y = samples(40, dx, dy)
    estimate = gaussian_mutual_information(x, y)
    np.testing.assert_allclose(estimate.value, by_determinants(x, y), rtol=1e-11)
    assert estimate.kind == "plug-in" and estimate.info["correlations"].shape == (min(dx, dy),)
    mapped = gaussian_mutual_information(1e3 * x @ np.tri(dx) + 1e4, y)
    np.testing.assert_allclose(mapped.value, estimate.value, rtol=1e-9)
    shrunk = gaussian_mutual_information(x, y, shrinkage=0.3)
    np.testing.assert_allclose(shrunk.value, by_determinants(x, y, 0.3), rtol=1e-11)
    np.testing.assert_allclose(gaussian_mutual_information(x, y, shrinkage=0.0).value, estimate.value, rtol=1e-11)
    weight = ledoit_wolf(np.column_stack([x, y]))
    both = gaussian_mutual_information(x, y, shrinkage="ledoit_wolf")
    np.testing.assert_allclose(both.info["shrinkage"], weight, rtol=1e-10)
    np.testing.assert_allclose(both.value, by_determinants(x, y, weight), rtol=1e-10)


def test_the_correction_leaves_no_bias_at_any_sample_size():
    """Twelve samples in 2 + 3 dimensions, 20,000 times: the bias is 0.38 nats, half more than dx dy / (2 N)."""
    mixing = np.float32(np.random.default_rng(3).normal(size=(5, 5)))
    covariance = mixing.T.astype(np.float64) @ mixing
    logdet = [np.linalg.slogdet(c)[1] for c in (covariance[:2, :2], covariance[2:, 2:], covariance)]
    truth = 0.5 * (logdet[0] + logdet[1] - logdet[2])
    z = jax.random.normal(jax.random.key(0), (20_000, 12, 5)) @ mixing

    def both(z):
        fixed = gaussian_mutual_information(z[:, :2], z[:, 2:], correct_bias=True)
        return fixed.value, fixed.info["bias"]

    values, bias = jax.jit(jax.vmap(both))(z)
    error = float(jnp.mean(values)) - truth
    assert abs(error) < 4.0 * float(jnp.std(values)) / 20_000**0.5
    assert float(bias[0]) > 1.2 * 6 / 24.0
    large = gaussian_mutual_information(*samples(5000, 25, 25), correct_bias=True).info["bias"]
    np.testing.assert_allclose(large, 25 * 25 / 1e4, rtol=0.02)  # the leading term, 0.0625


def test_the_standard_error_is_the_spread():
    x, noise = jax.random.normal(jax.random.key(1), (2, 500, 300))
    estimates = jax.jit(jax.vmap(gaussian_mutual_information))(x, 0.75 * x + 0.4375**0.5 * noise)
    np.testing.assert_allclose(jnp.mean(estimates.value), -0.5 * np.log(0.4375), atol=0.01)
    np.testing.assert_allclose(jnp.std(estimates.value), jnp.mean(estimates.stderr), rtol=0.15)


def test_columns_that_say_nothing_change_nothing():
    x, y = (jnp.asarray(z, jnp.float32) for z in samples(50, 2, 2))
    plain = gaussian_mutual_information(x, y, correct_bias=True)
    more = jnp.column_stack([x, jnp.full(50, 0.1), x[:, 0] - 2.0 * x[:, 1]])
    padded = gaussian_mutual_information(more, y, correct_bias=True)
    np.testing.assert_allclose(padded.value, plain.value, rtol=1e-4)
    np.testing.assert_allclose(padded.info["bias"], plain.info["bias"], rtol=1e-4)
    constant = jnp.full((50, 2), 1e6 + 0.1)
    for options in ({}, {"correct_bias": True}, {"shrinkage": "ledoit_wolf"}, {"shrinkage": 0.5}):
        for left, right in ((constant, y), (x, constant), (constant, constant)):
            assert abs(float(gaussian_mutual_information(left, right, **options))) < 1e-6
    values = [gaussian_mutual_information(z, y, shrinkage="ledoit_wolf").value for z in (x, jnp.hstack([x, constant]))]
    np.testing.assert_allclose(*values, rtol=1e-5)


def test_duplicates_relations_and_nan():
    x, y = (jnp.asarray(z, jnp.float32) for z in samples(50, 2, 2))
    twice = gaussian_mutual_information(jnp.concatenate([x, x]), jnp.concatenate([y, y]))
    np.testing.assert_allclose(twice.value, gaussian_mutual_information(x, y).value, rtol=1e-5)
    assert float(gaussian_mutual_information(x, x)) > 10.0
    assert 0.0 < float(gaussian_mutual_information(x[:3], y[:3], shrinkage="ledoit_wolf")) < 10.0
    for bad in (jnp.nan, jnp.inf):
        broken = x.at[3, 1].set(bad)
        for options in ({}, {"shrinkage": "ledoit_wolf"}):
            estimate = gaussian_mutual_information(y, broken, **options)
            assert jnp.isnan(estimate.value) and jnp.isnan(estimate.stderr)
    assert gaussian_mutual_information(x.astype(jnp.bfloat16), y).value.dtype == jnp.float32


def test_gradient(x64):
    x, y = map(jnp.asarray, samples(12, 2, 2))
    way = jnp.cos(jnp.arange(24.0)).reshape(12, 2)

    @jax.jit
    def value(x):
        return gaussian_mutual_information(x, y, shrinkage="ledoit_wolf").value

    numeric = (value(x + 1e-6 * way) - value(x - 1e-6 * way)) / 2e-6
    np.testing.assert_allclose(jnp.vdot(jax.grad(value)(x), way), numeric, rtol=1e-5)


X = np.zeros((4, 2), np.float32)


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (X, X, {}, "x has 4 rows; expected at least 5"),
        (X[:1], X[:1], {"shrinkage": 0.5}, "x has 1 rows; expected at least 2"),
        (X, X[:3], {}, "y has 3 rows"),
        (X, X, {"shrinkage": "oas"}, "shrinkage is 'oas'; expected None, 'ledoit_wolf' or"),
        (X, X, {"shrinkage": 1.5}, "shrinkage is 1.5; expected a number in"),
        (X, X, {"shrinkage": jnp.float32(0.5)}, "shrinkage is Array.* expected a real Python number"),
        (X, X, {"shrinkage": 0.5, "correct_bias": True}, "correct_bias is True; expected False with shrinkage"),
        (X, X, {"correct_bias": None}, "correct_bias is None; expected True or False"),
    ],
    ids="few one rows oas large array both none".split(),
)
def test_bad_arguments(x, y, options, message):
    with pytest.raises(ValueError, match="gaussian_mutual_information: " + message):
        gaussian_mutual_information(x, y, **options)

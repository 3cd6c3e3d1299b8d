"""Self-consistency checks: passed by an estimator that is exact for normal data, failed by those that are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.information import Estimate, additivity_check, data_processing_check, independence_check


def gaussian(x, y):
    """-log det of the correlations / 2 between normal columns, by determinants; as an `Estimate`."""
    joint = jnp.concatenate([x, y], axis=1)
    log_x, log_y, log_joint = (jnp.linalg.slogdet(jnp.atleast_2d(jnp.cov(z.T)))[1] for z in (x, y, joint))
    return Estimate((log_x + log_y - log_joint) / 2, kind="plug-in")


def saturating(x, y):
    """An estimator with a ceiling at 0.25 nats."""
    return jnp.minimum(gaussian(x, y).value, 0.25)


def data(num=2000, rho=0.8):
    x, noise = jax.random.normal(jax.random.key(0), (2, num, 1))
    return x, rho * x + (1 - rho**2) ** 0.5 * noise


def test_independence():
    check = independence_check(gaussian, *data(), key=jax.random.key(1))
    assert float(check.expected) == 0.0
    assert float(check.reference) == pytest.approx(-np.log(0.36) / 2, abs=0.05)
    assert 0 <= float(check.value) < 0.01
    shifted = independence_check(lambda x, y: gaussian(x, y).value + 0.3, *data(), key=jax.random.key(1))
    assert float(shifted.value - shifted.expected) == pytest.approx(0.3, abs=0.01)


def test_independence_of_labels():
    labels = jnp.tile(jnp.arange(2), 50)
    check = independence_check(lambda x, y: jnp.mean(x * (2 * y - 1)), 2.0 * labels, labels, key=jax.random.key(0))
    assert float(check.reference) == 1.0 and abs(float(check.value)) < 0.3


def test_data_processing():
    x, y = data()
    noise = jax.random.normal(jax.random.key(5), (2000, 2))

    def mixture(y):  # near to a function of y, so that the determinants stay regular
        return jnp.concatenate([y, -2 * y], axis=1) + noise

    check = data_processing_check(gaussian, x, y, process_fn=mixture)
    assert check.expected == check.reference
    np.testing.assert_allclose(check.value, check.expected, atol=0.005)
    counting = data_processing_check(lambda x, y: jnp.float32(y.shape[1]), x, y, process_fn=mixture)
    assert (float(counting.value), float(counting.expected)) == (3.0, 1.0)


def test_additivity():
    check = additivity_check(gaussian, *data(), key=jax.random.key(1))
    np.testing.assert_allclose(check.expected, 2 * check.reference)
    np.testing.assert_allclose(check.value / check.expected, 1.0, atol=0.02)
    assert float(check.reference) == pytest.approx(-np.log(0.36) / 2, abs=0.05)
    ceiling = additivity_check(saturating, *data(), key=jax.random.key(1))
    assert (float(ceiling.value), float(ceiling.expected)) == (0.25, 0.5)


def test_additivity_pairs_each_row_with_another():
    """Rows stay whole and no row is used twice; an odd one rests."""
    seen = []

    def spy(x, y):
        seen.append((np.asarray(x), np.asarray(y)))
        return jnp.float32(0.0)

    x = jnp.arange(9.0)
    additivity_check(spy, x, jnp.stack([x, 10 * x], axis=1), key=jax.random.key(0))
    first, second, (both_x, both_y) = seen
    assert both_x.shape == (4, 2) and both_y.shape == (4, 4) and len(np.unique(both_x)) == 8
    np.testing.assert_array_equal(both_x, np.concatenate([first[0], second[0]], axis=1))
    np.testing.assert_array_equal(both_y[:, [0, 2]], both_x)
    np.testing.assert_array_equal(both_y[:, [1, 3]], 10 * both_x)


def test_one_column_may_come_as_a_vector():
    x, y = (array[:, 0] for array in data(100))
    for check in (
        additivity_check(gaussian, x, y, key=jax.random.key(0)),
        data_processing_check(lambda x, y: gaussian(x[:, None], y[:, :1]), x, y, process_fn=jnp.square),
    ):
        assert check.value.shape == () and bool(jnp.isfinite(check.value))


def test_checks_hold_under_jit_and_vmap():
    keys = jax.random.split(jax.random.key(3), 4)
    run = jax.jit(jax.vmap(lambda key: (independence_check(gaussian, *data(50), key=key),
                                        additivity_check(gaussian, *data(50), key=key))))  # fmt: skip
    for check in run(keys):
        assert all(array.shape == (4,) and bool(jnp.isfinite(array).all()) for array in check)
        assert len(np.unique(check.value)) == 4


def test_nan_stays_nan():
    x, y = data(20)
    y = y.at[0].set(jnp.nan)
    checks = (
        independence_check(gaussian, x, y, key=jax.random.key(0)),
        data_processing_check(gaussian, x, y, process_fn=jnp.square),
        additivity_check(gaussian, x, y, key=jax.random.key(0)),
    )
    assert all(np.isnan(check.value) and np.isnan(check.reference) for check in checks)


X = jnp.zeros((10, 2))
KEYED = [independence_check, additivity_check]


@pytest.mark.parametrize("function", KEYED)
def test_bad_arguments_are_named(function):
    cases = [
        ((3, X, X), {"key": jax.random.key(0)}, "estimator_fn is 3"),
        ((gaussian, X, X), {"key": 0}, "key is 0"),
        ((gaussian, X[:1], X), {"key": jax.random.key(0)}, "x has shape"),
        ((gaussian, X, X[:9]), {"key": jax.random.key(0)}, "y has 9 rows"),
        ((gaussian, "x", X), {"key": jax.random.key(0)}, "x is"),
        ((lambda x, y: x, X, X), {"key": jax.random.key(0)}, "what estimator_fn returns has shape"),
    ]
    for arguments, options, message in cases:
        with pytest.raises(ValueError, match=f"^{function.__name__}: {message}"):
            function(*arguments, **options)


def test_bad_data_of_copies_and_functions_are_named():
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="^additivity_check: x has shape .*at least 4 rows"):
        additivity_check(gaussian, X[:3], X[:3], key=key)
    with pytest.raises(ValueError, match="^additivity_check: y is int32"):
        additivity_check(gaussian, X, jnp.arange(10), key=key)
    with pytest.raises(ValueError, match="^data_processing_check: y is float32"):
        data_processing_check(gaussian, X, jnp.zeros((10, 2, 2)), process_fn=jnp.square)
    with pytest.raises(ValueError, match="^data_processing_check: process_fn is 3"):
        data_processing_check(gaussian, X, X, process_fn=3)
    for bad in (lambda y: y[:5], lambda y: y[:, 0]):
        with pytest.raises(ValueError, match="^data_processing_check: what process_fn returns has shape"):
            data_processing_check(gaussian, X, X, process_fn=bad)

"""Exact mutual information against closed forms; binned against numpy's own digitising and counting of rows."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.information import binned_mutual_information, discrete_mutual_information


def entropy(p):
    p = np.asarray(p, np.float64).ravel()
    return -np.sum(p[p > 0] * np.log(p[p > 0]))


def counted(*columns):
    """Entropy in nats and number of the distinct rows."""
    counts = np.unique(np.column_stack(columns), axis=0, return_counts=True)[1]
    return entropy(counts / counts.sum()), len(counts)


def test_cells_whose_product_of_marginals_is_below_every_float():
    """p log(p / p_x p_y) of a cell that has its row and column for itself."""
    value = jax.jit(discrete_mutual_information)(jnp.array([[1e-25, 0.0], [0.0, 1.0]])).value
    np.testing.assert_allclose(value, 5.76e-24, rtol=0.05)
    table = jax.nn.softmax(jnp.array([60.0, 0.0, 0.0, 5.0])).reshape(2, 2)
    assert 0.0 <= discrete_mutual_information(table).value < 1e-20


def test_exact_tables(x64):
    rng = np.random.default_rng(0)
    tables = rng.uniform(size=(5, 4, 3)) * (rng.uniform(size=(5, 4, 3)) > 0.3)
    p = tables / tables.sum((1, 2), keepdims=True)
    expected = [entropy(t.sum(0)) + entropy(t.sum(1)) - entropy(t) for t in p]
    estimate = jax.jit(discrete_mutual_information)(tables)
    np.testing.assert_allclose(estimate.value, expected, rtol=1e-12)
    assert estimate.kind == "plug-in" and np.all(estimate.ceiling == np.log(3.0))
    np.testing.assert_allclose(jax.jit(discrete_mutual_information)(np.eye(5)).value, np.log(5.0), rtol=1e-14)
    assert float(jax.jit(discrete_mutual_information)(np.outer([0.25, 0.75], [0.5, 0.5]))) == 0.0


def test_near_independence_no_digit_is_lost():
    d = 1e-4
    table = np.float32([[0.25 + d, 0.25 - d], [0.25 - d, 0.25 + d]])
    d = float(table[0, 0]) - 0.25
    np.testing.assert_allclose(discrete_mutual_information(table).value, 8.0 * d**2, rtol=2e-3)


def test_a_task_of_twelve_bits():
    """Labels that are a symmetric function of 12 equal bits: every bit tells the same, all of them H(Y)."""
    x = np.array(list(itertools.product([0, 1], repeat=12)))
    y = (x.sum(1) >= 6).astype(int)
    table = np.stack([np.bincount(x[:, 0] + 2 * y, minlength=4).reshape(2, 2)]) / 4096.0
    share = [np.mean(y[x[:, 0] == b]) for b in (0, 1)]
    bit = entropy([y.mean(), 1 - y.mean()]) - 0.5 * sum(entropy([s, 1 - s]) for s in share)
    np.testing.assert_allclose(float(jax.jit(discrete_mutual_information)(table).value[0]), bit, rtol=1e-5)
    bits = jax.jit(jax.vmap(lambda c: binned_mutual_information(c, y, bins=2).value))(np.float32(x.T))
    np.testing.assert_allclose(bits, bit, rtol=1e-4)
    whole = jax.jit(functools.partial(binned_mutual_information, bins=2))(x, y)
    np.testing.assert_allclose(whole.value, entropy([y.mean(), 1 - y.mean()]), rtol=1e-5)
    np.testing.assert_allclose(whole.info["entropy_x"], np.log(4096.0), rtol=1e-6)
    # The published per-bit value of another 12-bit rule: P(y = 1 | bit) = 0.625 and 0.40918.
    rule = np.array([[1 - 0.40918, 0.40918], [0.375, 0.625]]) / 2.0
    np.testing.assert_allclose(float(jax.jit(discrete_mutual_information)(rule)) / np.log(2.0), 0.0339063, atol=2e-6)


def test_exact_gradient(x64):
    p = jnp.array([[0.1, 0.2, 0.05], [0.3, 0.15, 0.2]])
    way = jnp.array([[0.3, -1.0, 0.2], [0.5, 0.1, -0.4]])

    @jax.jit
    def value(p):
        return discrete_mutual_information(p).value

    gradient = jax.jit(jax.grad(value))
    numeric = (value(p + 1e-6 * way) - value(p - 1e-6 * way)) / 2e-6
    np.testing.assert_allclose(np.vdot(gradient(p), way), numeric, rtol=1e-7)
    assert np.all(np.isfinite(gradient(jnp.eye(2))))


EDGES = np.linspace(-1.0, 1.0, 9)


@pytest.mark.parametrize("correction", ["none", "miller_madow"])
def test_given_edges_are_numpys_digits(x64, correction):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(200, 2)), rng.normal(size=200)
    x[:50, 0], x[50:60, 0], y[:9] = np.tile([-1.0, 1.0, 0.25, -0.5, 0.0], 10), -1.3, 5.0
    cells = np.digitize(x, EDGES) - (x == 1.0), np.digitize(y, EDGES) - (y == 1.0)
    h = [counted(cells[0]), counted(cells[1]), counted(*cells)]
    if correction == "miller_madow":
        h = [(value + (m - 1) / 400.0, m) for value, m in h]
    estimate = binned_mutual_information(x, y, bins=EDGES, correction=correction)
    np.testing.assert_allclose(estimate.value, h[0][0] + h[1][0] - h[2][0], rtol=1e-12)
    for name, (value, m) in zip(("x", "y", "xy"), h, strict=True):
        np.testing.assert_allclose(estimate.info[f"entropy_{name}"], value, rtol=1e-12)
        assert estimate.info[f"symbols_{name}"] == m
    assert estimate.info["outside_x"] == np.sum(np.abs(x) > 1.0) and estimate.info["outside_y"] == np.sum(np.abs(y) > 1)
    assert estimate.kind == "plug-in" and float(estimate) <= float(estimate.ceiling)


def test_equal_bins_span_each_column(x64):
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(100, 3)) * [1e-3, 1.0, 1e4], rng.uniform(size=(100, 1))

    def digits(z, bins):
        return np.stack([np.digitize(c, np.linspace(c.min(), c.max(), bins + 1)[1:-1]) for c in z.T], axis=1)

    for bins in (1, 3, np.int64(4)):
        cells = digits(x, bins), digits(y, bins)
        h = [counted(cells[0]), counted(cells[1]), counted(*cells)]
        estimate = binned_mutual_information(x, y, bins=bins)
        np.testing.assert_allclose(estimate.value, h[0][0] + h[1][0] - h[2][0], rtol=1e-12, atol=1e-14)
        np.testing.assert_allclose(estimate.ceiling, np.log(min(100, bins)), rtol=1e-12)


def test_what_lies_outside_neither_wraps_nor_merges():
    y = np.arange(4)
    x = np.float32([-7.0, -0.9, 0.9, 7.0])  # below, first bin, last bin, above
    estimate = binned_mutual_information(x, y, bins=EDGES)
    np.testing.assert_allclose(estimate.value, np.log(4.0), rtol=1e-6)
    assert estimate.info["outside_x"] == 2 and estimate.info["outside_y"] == 0
    assert np.isfinite(binned_mutual_information(np.float32([-np.inf, 0, 0, np.inf]), y, bins=EDGES).value)


def test_miller_madow_removes_the_bias():
    x, y = jax.random.randint(jax.random.key(0), (2, 400, 200), 0, 5)
    plain, fixed = (
        np.asarray(
            jax.jit(jax.vmap(lambda a, b, c=c: binned_mutual_information(a, b, bins=2, correction=c).value))(x, y)
        )
        for c in ("none", "miller_madow")
    )
    np.testing.assert_allclose(plain.mean(), 16.0 / 400.0, rtol=0.15)  # (5 - 1)^2 / (2 N)
    assert abs(fixed.mean()) < 5.0 * fixed.std() / 20.0 + 2e-3


def test_constants_duplicates_distinct_rows_and_nan():
    x = jax.random.normal(jax.random.key(1), (64, 300))
    y = jnp.arange(64) % 4
    value = jax.jit(lambda x, y: binned_mutual_information(x, y, bins=30).value)
    assert float(value(jnp.full_like(x, 0.1), y)) == 0.0
    assert float(value(x, jnp.full_like(y, 3))) == 0.0
    np.testing.assert_allclose(value(x, y), np.log(4.0), rtol=1e-6)  # all rows distinct: H(Y), whatever the data
    np.testing.assert_allclose(value(x.at[32:].set(x[:32]), y), np.log(4.0), rtol=1e-6)
    assert np.isnan(value(x.at[3, 7].set(jnp.nan), y)) and np.isnan(value(x.at[3, 7].set(jnp.inf), y))
    assert np.isnan(binned_mutual_information(x.at[3, 7].set(jnp.nan), y, bins=EDGES).value)
    assert value(x.astype(jnp.bfloat16), y).dtype == jnp.float32
    for bad in (np.nan, -0.1):
        assert np.isnan(discrete_mutual_information(np.float32([[0.5, bad], [0.2, 0.3]])).value)
    assert np.isnan(discrete_mutual_information(np.zeros((2, 2), np.float32)).value)


X = np.zeros((4, 2), np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: binned_mutual_information(X, X[:3], bins=2), "y has 3 rows; expected the 4 rows of x"),
        (lambda: binned_mutual_information(X[:1], X[:1], bins=2), "x has 1 rows; expected at least 2"),
        (lambda: binned_mutual_information(X, X, bins=0), "bins is 0; expected a number in"),
        (lambda: binned_mutual_information(X, X, bins=2.5), "bins is 2.5; expected an integer"),
        (lambda: binned_mutual_information(X, X, bins="sturges"), "bins is 'sturges'; expected an integer"),
        (lambda: binned_mutual_information(X, X, bins=[0.0]), "the number of bins is 0"),
        (lambda: binned_mutual_information(X, X, bins=[0.0, 1.0, 1.0]), "bins has edges that do not increase"),
        (lambda: binned_mutual_information(X, X, bins=np.zeros((2, 2))), r"bins has shape \(2, 2\)"),
        (lambda: binned_mutual_information(X, X, bins=2, correction="mm"), "correction is 'mm'; expected one of"),
        (lambda: binned_mutual_information(X, np.zeros((4, 1, 1), int), bins=2), r"y has shape \(4, 1, 1\)"),
        (lambda: binned_mutual_information(X, X > 0, bins=2), "y has dtype bool"),
        (lambda: binned_mutual_information("x", X, bins=2), "x is 'x'"),
        (lambda: discrete_mutual_information(np.ones(3, np.float32)), r"p_xy has shape \(3,\)"),
        (lambda: discrete_mutual_information(np.ones((3, 0), np.float32)), r"p_xy has shape \(3, 0\)"),
        (lambda: discrete_mutual_information(np.ones((3, 2), int)), "p_xy has dtype int32"),
    ],
    ids="rows one zero half word few flat matrix mm rank bool string vector empty ints".split(),
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=f"mutual_information: {message}"):
        call()

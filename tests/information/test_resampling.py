"""Permutation nulls and subsampling intervals: valid under independence, covering, and one computation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import digamma
from scipy import stats

from jaxdiv.information import Estimate, permutation_null, subsampling_interval
from jaxdiv.information.resampling import paired_rows


def gaussian(x, y):
    """Plug-in information of two normal columns, N rows."""
    return -jnp.log1p(-(jnp.corrcoef(x[:, 0], y[:, 0])[0, 1] ** 2)) / 2


def correlated(key, rho, num):
    x, noise = jax.random.normal(key, (2, num, 1))
    return x, rho * x + (1 - rho**2) ** 0.5 * noise


def nearest(x, y, k=3):
    """The first form of Kraskov, Stögbauer and Grassberger for single columns, from whole distance matrices."""
    gap_x, gap_y = jnp.abs(x - x.T), jnp.abs(y - y.T)
    radius = jnp.sort(jnp.maximum(gap_x, gap_y), axis=1)[:, k]
    within = [jnp.maximum(jnp.sum(gap < radius[:, None], axis=1), 1) for gap in (gap_x, gap_y)]
    return digamma(float(k)) + digamma(float(len(x))) - jnp.mean(digamma(1.0 * within[0]) + digamma(1.0 * within[1]))


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_p_values_are_uniform_under_independence_and_small_otherwise(rho):
    """300 data sets of 20 rows in one call; 19 permutations put 0.05 on the grid of p-values."""

    @jax.jit
    @jax.vmap
    def test(key):
        data, order = jax.random.split(key)
        return permutation_null(gaussian, *correlated(data, rho, 20), key=order, num_permutations=19).p_value

    p = np.asarray(test(jax.random.split(jax.random.key(0), 300)))
    if rho == 0.0:
        for alpha in (0.05, 0.2, 0.5):
            assert abs((p <= alpha + 1e-6).mean() - alpha) < 3.5 * (alpha * (1 - alpha) / 300) ** 0.5
        counts = np.bincount(np.rint(20 * p).astype(int) - 1, minlength=20)
        assert counts.size == 20 and stats.chisquare(counts).pvalue > 1e-3
    else:
        assert (p <= 0.05 + 1e-6).mean() > 0.7


def test_the_null_is_that_of_a_loop_and_its_mean_is_the_bias():
    """The mean of -log(1 - r^2) / 2 over permutations is close to 1 / (2 (N - 1)), as r^2 has mean 1 / (N - 1)."""
    x, y = correlated(jax.random.key(1), 0.5, 60)
    call = jax.jit(lambda x, y: permutation_null(gaussian, x, y, key=jax.random.key(2), num_permutations=999))
    result = call(x, y)
    assert result.null.shape == (999,) and result.value.dtype == jnp.float32
    np.testing.assert_allclose(result.value, gaussian(x, y), rtol=1e-5)
    np.testing.assert_allclose(result.null_mean, np.mean(result.null), rtol=1e-5)
    assert float(result.null_mean) == pytest.approx(1 / 118, rel=0.15)
    at_least = (np.asarray(result.null) >= float(result.value)).sum()
    assert float(result.p_value) == pytest.approx((1 + at_least) / 1000)
    # r^2 of permuted rows has the law Beta(1/2, (N - 2) / 2) where x and y are normal
    law = stats.beta(0.5, 29)
    assert stats.kstest(1 - np.exp(-2 * np.asarray(result.null)), law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("batch_size", [1, 7, 50])
def test_every_batch_size_gives_exactly_the_number_asked_for(batch_size):
    x, y = correlated(jax.random.key(3), 0.3, 12)
    result = permutation_null(gaussian, x, y, key=jax.random.key(0), num_permutations=20, batch_size=batch_size)
    assert result.null.shape == (20,)
    assert len(np.unique(result.null)) > 15
    np.testing.assert_allclose(result.value, gaussian(x, y), rtol=1e-5)


def test_an_estimator_of_labels_and_an_estimate_record():
    labels = jnp.tile(jnp.arange(2), 20)
    x = labels + 0.1 * jax.random.normal(jax.random.key(0), (40,))

    def between(x, y):
        gap = jnp.sum(jnp.where(y == 1, x, -x))
        return Estimate(gap**2, kind="not MI")

    result = permutation_null(between, x, labels, key=jax.random.key(1), num_permutations=99)
    assert float(result.p_value) == pytest.approx(0.01) and result.null_mean < result.value / 4


def test_equal_values_count_as_ties_and_nan_stays_nan():
    x, y = jnp.ones((10, 1)), jax.random.normal(jax.random.key(0), (10, 1))

    def mean_product(x, y):
        return jnp.mean(x * y)

    constant = permutation_null(mean_product, x, y, key=jax.random.key(0), num_permutations=19)
    assert float(constant.p_value) == 1.0
    broken = permutation_null(mean_product, x, y.at[3].set(jnp.nan), key=jax.random.key(0), num_permutations=19)
    assert bool(jnp.isnan(broken.value) & jnp.isnan(broken.p_value) & jnp.isnan(broken.null_mean))


def test_intervals_cover_the_mean_of_the_estimator():
    """Of 200 data sets with rho = 0.6, whose standard error is rho / sqrt(N), an interval of 90 % covers about 180."""
    rho, num = 0.6, 400

    @jax.jit
    @jax.vmap
    def run(key):
        data, order = jax.random.split(key)
        x, y = correlated(data, rho, num)
        return subsampling_interval(gaussian, x, y, key=order, num_repeats=5, level=0.9)

    result = run(jax.random.split(jax.random.key(5), 200))
    value, stderr = np.asarray(result.value), np.asarray(result.stderr)
    target = value.mean()
    assert target == pytest.approx(-np.log(1 - rho**2) / 2, abs=0.01)
    covered = ((result.lower <= target) & (target <= result.upper)).mean()
    assert 0.83 < covered < 0.97
    assert stderr.mean() == pytest.approx(value.std(), rel=0.15)
    assert stderr.mean() == pytest.approx(rho / num**0.5, rel=0.15)
    np.testing.assert_allclose((result.upper - result.lower) / 2, stats.norm.ppf(0.95) * stderr, rtol=1e-4)
    # the law behind it: m s_m^2 is the same at every size, but for terms of higher order
    np.testing.assert_allclose(np.asarray(result.scaled_variances).mean(0), rho**2, rtol=0.25)
    # 1 / (2 m) of bias at m = 80, 40, 20 rows, here shown to first order
    drift = np.asarray(result.means).mean(0) - target
    assert (np.diff(drift) > 0).all() and drift[-1] == pytest.approx(0.5 / 20, rel=0.5)


def test_the_variance_of_a_mean_is_exact():
    """The mean of N numbers: B is their variance, whatever the sizes; all subsets' means average to the mean."""
    x = jax.random.normal(jax.random.key(0), (840,))
    result = subsampling_interval(
        lambda x, y: jnp.mean(x), x, x, key=jax.random.key(1), num_subsets=(4, 7), num_repeats=200
    )
    np.testing.assert_allclose(result.stderr, np.std(x, ddof=1) / 840**0.5, rtol=0.06)
    np.testing.assert_allclose(result.scaled_variances, np.var(x, ddof=1), rtol=0.15)
    np.testing.assert_allclose(result.means, np.mean(x), atol=1e-6)


def test_the_bootstrap_finds_dependence_that_is_none_and_subsets_do_not():
    x, y = correlated(jax.random.key(0), 0.0, 400)
    interval = subsampling_interval(nearest, x, y, key=jax.random.key(1), num_subsets=(5, 10))
    assert interval.lower < 0.0 < interval.upper
    assert (jnp.abs(interval.means - interval.value) < 0.1).all()
    drawn = jax.random.randint(jax.random.key(2), (400,), 0, 400)
    assert nearest(x[drawn], y[drawn]) > interval.value + 10 * interval.stderr


def test_rows_without_order_and_rest_rows_are_left_out():
    """N = 23 in 5 subsets of 4: three rows rest, others at each shuffle."""
    x = jnp.arange(23.0)
    result = subsampling_interval(
        lambda x, y: jnp.mean(x == y), x, x, key=jax.random.key(0), num_subsets=[5], num_repeats=3
    )
    assert float(result.value) == 1.0 and float(result.stderr) == 0.0 and result.means.shape == (1,)


def test_float64_and_bfloat16(x64):
    x = jnp.linspace(-1.0, 1.0, 40)
    for dtype, expected in ((jnp.float64, jnp.float64), (jnp.bfloat16, jnp.float32)):
        data = x.astype(dtype)
        null = permutation_null(lambda x, y: jnp.mean(x * y), data, data, key=jax.random.key(0), num_permutations=9)
        assert null.p_value.dtype == null.null.dtype == expected
        interval = subsampling_interval(
            lambda x, y: jnp.mean(x * y), data, data, key=jax.random.key(0), num_subsets=(5,), num_repeats=2
        )
        assert all(array.dtype == expected for array in interval)


DATA = {"x": jnp.zeros((10, 2)), "y": jnp.zeros(10), "key": jax.random.key(0)}


@pytest.mark.parametrize("function", [permutation_null, subsampling_interval])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": "no"}, "x is"),
        ({"x": 1.0}, r"x has shape \(\); expected at least 2 rows"),
        ({"x": jnp.zeros((1, 2))}, r"x has shape \(1, 2\)"),
        ({"y": jnp.zeros(9)}, "y has 9 rows; expected the 10 rows of x"),
        ({"y": None}, "y is None"),
        ({"y": jnp.zeros(10, bool)}, "y has dtype bool"),
        ({"key": 0}, "key is 0"),
        ({"estimator_fn": 3}, "estimator_fn is 3; expected a callable"),
        ({"estimator_fn": lambda x, y: x}, "what estimator_fn returns has shape"),
        ({"estimator_fn": lambda x, y: 3}, "what estimator_fn returns has dtype int32"),
        ({"estimator_fn": lambda x, y: None}, "what estimator_fn returns is None"),
    ],
)
def test_bad_arguments_are_named(function, changes, message):
    arguments = {"estimator_fn": lambda x, y: jnp.sum(x), **DATA, **changes}
    with pytest.raises(ValueError, match=f"^{function.__name__}: {message}"):
        function(arguments.pop("estimator_fn"), arguments.pop("x"), arguments.pop("y"), **arguments, **SMALL[function])


SMALL = {permutation_null: {"num_permutations": 2}, subsampling_interval: {"num_subsets": (2,)}}


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (permutation_null, {"num_permutations": 0}, "num_permutations is 0"),
        (permutation_null, {"num_permutations": 2.0}, "num_permutations is 2.0"),
        (permutation_null, {"batch_size": 0}, "batch_size is 0"),
        (subsampling_interval, {"num_subsets": ()}, r"num_subsets is \(\)"),
        (subsampling_interval, {"num_subsets": 5}, "num_subsets is 5; expected a sequence"),
        (subsampling_interval, {"num_subsets": (1,)}, "num_subsets is 1"),
        (subsampling_interval, {"num_subsets": (6,)}, "num_subsets is 6; expected a number in"),
        (subsampling_interval, {"num_repeats": 0}, "num_repeats is 0"),
        (subsampling_interval, {"level": 1.0}, "level is 1.0"),
    ],
)
def test_bad_options_are_named(function, options, message):
    with pytest.raises(ValueError, match=f"^{function.__name__}: {message}"):
        function(lambda x, y: jnp.sum(x), DATA["x"], DATA["y"], key=DATA["key"], **options)


def test_pairs_keep_integers():
    x, y = paired_rows("f", np.zeros((4, 2), np.float16), np.arange(4))
    assert x.dtype == jnp.float16 and y.dtype == jnp.int32

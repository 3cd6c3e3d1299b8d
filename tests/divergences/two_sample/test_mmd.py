"""MMD, energy and Cauchy-Schwarz against brute force, scipy, closed forms of Gaussians, and enumeration."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxdiv.divergences import two_sample as ts
from tests.divergences.two_sample import reference
from tests.divergences.two_sample.reference import KERNELS, POSITIVE, central_differences, samples

P, Q = samples(0, 13, 8, 4)
STATIC = ("estimator", "chunk_size")
squared_mmd = jax.jit(ts.squared_mmd, static_argnames=STATIC)
energy_distance = jax.jit(ts.energy_distance, static_argnames=(*STATIC, "exponent"))
kernel_cauchy_schwarz = jax.jit(ts.kernel_cauchy_schwarz, static_argnames=STATIC)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("name", KERNELS)
def test_squared_mmd_by_brute_force(name, estimator, x64):
    kernel, k = KERNELS[name]
    expected = reference.mmd(k, P, Q, estimator == "unbiased")
    for chunk_size in (5, 100) if name == "gaussian" else (5,):
        value = squared_mmd(p_samples=P, q_samples=Q, kernel=kernel, estimator=estimator, chunk_size=chunk_size)
        np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
@pytest.mark.parametrize("name", POSITIVE)
def test_cauchy_schwarz_by_brute_force(name, estimator, x64):
    kernel, k = KERNELS[name]
    expected = reference.cauchy_schwarz(k, P, Q, estimator == "unbiased")
    value = kernel_cauchy_schwarz(p_samples=P, q_samples=Q, kernel=kernel, estimator=estimator, chunk_size=4)
    np.testing.assert_allclose(value, expected, rtol=1e-9, atol=1e-12)


def test_cauchy_schwarz_is_that_of_kernel_density_estimates(x64):
    p, q = samples(1, 5, 6, 1)
    x, h = np.linspace(-15, 15, 20001), 0.7 / math.sqrt(2)
    density_p, density_q = (scipy.stats.norm.pdf(x[:, None], s[:, 0], h).mean(axis=1) for s in (p, q))
    inner = [
        np.trapezoid(a * b, x) for a, b in ((density_p, density_p), (density_q, density_q), (density_p, density_q))
    ]
    expected = np.log(inner[0]) + np.log(inner[1]) - 2 * np.log(inner[2])
    value = kernel_cauchy_schwarz(p_samples=p, q_samples=q, kernel=ts.gaussian_kernel(0.7))
    np.testing.assert_allclose(value, expected, rtol=1e-8)


@pytest.mark.parametrize("gap", [20.0, 100.0])
def test_cauchy_schwarz_of_samples_far_apart(gap):
    p = jnp.array([[0.0], [0.1]])
    value = kernel_cauchy_schwarz(p_samples=p, q_samples=p + gap, kernel=ts.rational_quadratic_kernel(0.3))
    x = np.array([[0.0], [0.1]])
    expected = reference.cauchy_schwarz(lambda a, b: 1 / (1 + reference.distances(a, b) ** 2 / 0.18), x, x + gap, False)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert kernel_cauchy_schwarz(p_samples=p, q_samples=p + 1e3, kernel=ts.gaussian_kernel(1.0)) == np.inf


@pytest.mark.parametrize("estimator", ["biased", "unbiased"])
def test_cauchy_schwarz_is_infinite_with_gradient_0_where_no_kernel_value_is_left(estimator):
    p = jnp.array([[0.0], [1e3]])
    fn = functools.partial(kernel_cauchy_schwarz, kernel=ts.gaussian_kernel(1.0), estimator=estimator)
    value, gradient = jax.value_and_grad(lambda p: fn(p_samples=p, q_samples=p + 1e5))(p)
    assert value == np.inf and not np.any(gradient)


def test_biased_statistics_of_more_points_than_the_root_of_int32():
    many = jax.ShapeDtypeStruct((46_341, 1), jnp.float32)
    biased = functools.partial(ts.squared_mmd, estimator="biased", kernel=ts.gaussian_kernel(1.0))
    for fn in (biased, ts.energy_distance):
        assert jax.eval_shape(lambda x, fn=fn: fn(p_samples=x, q_samples=x), many).shape == ()


@pytest.mark.parametrize("sizes", [(20, 20), (31, 12)])
def test_energy_distance_is_the_square_of_scipys(sizes, x64):
    p, q = samples(2, *sizes, 1)
    expected = scipy.stats.energy_distance(p[:, 0], q[:, 0]) ** 2
    np.testing.assert_allclose(energy_distance(p_samples=p, q_samples=q, chunk_size=7), expected, rtol=1e-10)


def test_energy_distance_by_brute_force(x64):
    for exponent, unbiased in itertools.product((0.5, 1.0, 1.7), (False, True)):
        expected = reference.mmd(lambda x, y, e=exponent: -(reference.distances(x, y) ** e), P, Q, unbiased)
        estimator = "unbiased" if unbiased else "biased"
        value = energy_distance(p_samples=P, q_samples=Q, exponent=exponent, estimator=estimator)
        np.testing.assert_allclose(value, expected, rtol=1e-9)


def replicates(statistic, law_p, law_q, n, m, d, count=2000):
    """Mean and standard error of a statistic over fresh samples."""

    def one(key):
        left, right = jax.random.split(key)
        p = law_p[0] + law_p[1] * jax.random.normal(left, (n, d))
        q = law_q[0] + law_q[1] * jax.random.normal(right, (m, d))
        return statistic(p_samples=p, q_samples=q)

    values = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), count)), np.float64)
    return values.mean(), values.std() / math.sqrt(count)


def test_unbiased_mmd_of_gaussians_in_closed_form():
    h, d, shift, scale = 1.5, 3, 0.4, 1.3

    def mean_kernel(variance, gap):
        total = h * h + variance
        return (h * h / total) ** (d / 2) * math.exp(-d * gap * gap / (2 * total))

    expected = mean_kernel(2.0, 0) + mean_kernel(2 * scale**2, 0) - 2 * mean_kernel(1 + scale**2, shift)
    statistic = functools.partial(squared_mmd, kernel=ts.gaussian_kernel(h))
    mean, error = replicates(statistic, (0.0, 1.0), (shift, scale), 9, 6, d)
    assert abs(mean - expected) < 4 * error < 0.2 * expected


def test_unbiased_energy_distance_of_gaussians_in_closed_form():
    def mean_distance(variance, gap):
        std = math.sqrt(variance)
        folded = std * math.sqrt(2 / math.pi) * math.exp(-gap * gap / (2 * variance))
        return folded + gap * (1 - 2 * scipy.stats.norm.cdf(-gap / std))

    expected = 2 * mean_distance(1 + 1.44, 0.8) - mean_distance(2.0, 0) - mean_distance(2.88, 0)
    statistic = functools.partial(energy_distance, estimator="unbiased")
    mean, error = replicates(statistic, (0.0, 1.0), (0.8, 1.2), 9, 6, 1)
    assert abs(mean - expected) < 4 * error < 0.2 * expected


@pytest.mark.parametrize("name", ["gaussian", "distance", "polynomial"])
def test_unbiased_over_all_subsets(name, x64):
    """Drawn without replacement from finite populations, the U-statistic's mean is that of the populations."""
    p, q = samples(3, 6, 5, 2)
    subsets_p = np.array([p[list(s)] for s in itertools.combinations(range(6), 3)])
    subsets_q = np.array([q[list(s)] for s in itertools.combinations(range(5), 2)])
    kernel, _ = KERNELS[name]

    def one(a, b, estimator):
        return squared_mmd(p_samples=a, q_samples=b, kernel=kernel, estimator=estimator)

    def average(estimator):
        each = functools.partial(one, estimator=estimator)
        return float(jnp.mean(jax.vmap(lambda a: jax.vmap(lambda b: each(a, b))(subsets_q))(subsets_p)))

    assert average("unbiased") == pytest.approx(float(one(p, q, "unbiased")), rel=1e-10)
    assert average("biased") != pytest.approx(float(one(p, q, "biased")), rel=1e-2)


def test_laws():
    same = {"p_samples": P, "q_samples": P}
    swapped = {"p_samples": Q, "q_samples": P}
    for statistic in (squared_mmd, energy_distance, kernel_cauchy_schwarz):
        biased = functools.partial(statistic, estimator="biased")
        assert abs(float(biased(**same))) < 1e-6
        forward, back = float(biased(p_samples=P, q_samples=Q)), float(biased(**swapped))
        assert forward > 0.01 and forward == pytest.approx(back, rel=1e-5)
        moved = float(biased(p_samples=P + 3.0, q_samples=Q + 3.0))
        assert moved == pytest.approx(forward, rel=1e-4)


def test_linear_mmd_is_the_distance_of_means(x64):
    expected = np.sum((P.mean(0) - Q.mean(0)) ** 2)
    value = squared_mmd(p_samples=P, q_samples=Q, kernel=ts.linear_kernel(), estimator="biased")
    np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_default_kernel_has_the_median_bandwidth():
    kernel = ts.gaussian_kernel(ts.median_bandwidth(P, Q))
    for statistic in (squared_mmd, kernel_cauchy_schwarz):
        with_default, given = statistic(p_samples=P, q_samples=Q), statistic(p_samples=P, q_samples=Q, kernel=kernel)
        assert float(with_default) == pytest.approx(float(given), rel=1e-5)


def test_float32_error_is_far_below_the_null_width():
    """At n = m = 2000, d = 64, p = q with an offset of 10: relative to the statistic's standard deviation."""
    rng = np.random.default_rng(0)
    p, q = (10 + rng.normal(size=(2, 2000, 64))).astype(np.float32)
    h = 11.3

    def k(x, y):
        squared = np.sum(x * x, axis=1)[:, None] + np.sum(y * y, axis=1) - 2 * x @ y.T
        return np.exp(-squared / (2 * h * h))

    exact = [a.astype(float) - 10 for a in (p, q)]
    expected = reference.mmd(k, *exact, True)
    value = float(squared_mmd(p_samples=p, q_samples=q, kernel=ts.gaussian_kernel(h), chunk_size=600))
    between = k(*exact)
    centred = between - between.mean(0) - between.mean(1)[:, None] + between.mean()
    width = math.sqrt(8) / 2000 * centred.std()
    assert abs(value - expected) < 2e-3 * width
    expected = reference.cauchy_schwarz(k, *exact, True)
    value = kernel_cauchy_schwarz(p_samples=p, q_samples=q, kernel=ts.gaussian_kernel(h), estimator="unbiased")
    assert abs(float(value) - expected) < 5e-3 * width / between.mean()


@pytest.mark.parametrize("chunk_size", [3, 100])
@pytest.mark.parametrize(
    "statistic",
    [
        squared_mmd,
        energy_distance,
        kernel_cauchy_schwarz,
        functools.partial(squared_mmd, kernel=ts.laplace_kernel(1.0)),
        functools.partial(squared_mmd, kernel=ts.polynomial_kernel(2), estimator="biased"),
    ],
    ids=["mmd", "energy", "cauchy_schwarz", "laplace", "polynomial"],
)
def test_gradients_by_finite_differences(statistic, chunk_size, x64):
    p, q = samples(4, 5, 4, 2)
    if statistic in (squared_mmd, kernel_cauchy_schwarz):  # the default bandwidth is a constant of the gradient
        statistic = functools.partial(statistic, kernel=ts.gaussian_kernel(0.9))

    def fn(p, q):
        return statistic(p_samples=p, q_samples=q, chunk_size=chunk_size)

    grad_p, grad_q = jax.jit(jax.grad(fn, (0, 1)))(p, q)
    plain = jax.jit(fn)
    np.testing.assert_allclose(grad_p, central_differences(lambda x: plain(x, q), p), rtol=2e-6, atol=1e-9)
    np.testing.assert_allclose(grad_q, central_differences(lambda x: plain(p, x), q), rtol=2e-6, atol=1e-9)


def test_duplicates_have_finite_gradients():
    x = jnp.array([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0]])
    for statistic in (squared_mmd, energy_distance, kernel_cauchy_schwarz):
        gradient = jax.jit(jax.grad(lambda x, f=statistic: f(p_samples=x, q_samples=x[:2] + 0.0)))(x)
        assert np.isfinite(gradient).all()

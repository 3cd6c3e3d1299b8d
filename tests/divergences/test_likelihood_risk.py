"""The risk of maximum likelihood against exact sums over all outcomes, and the bound on the Bayes error."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxdiv.divergences import exponential_family as ef
from jaxdiv.divergences import likelihood_risk as er

estimation_risk = jax.jit(er.estimation_risk, static_argnums=0, static_argnames="num_samples")


def exact_multinomial_risk(p, n):
    """E KL(p || estimate) = sum p_i E[-log(x_i / (n p_i))], x_i binomial; outcomes with an empty class left out."""
    k = np.arange(1, n + 1)
    total = 0.0
    for share in p:
        mass = scipy.stats.binom.pmf(k, n, share)
        total += share * np.sum(mass * -np.log(k / (n * share)))
    return total


def natural(p):
    return jnp.log(jnp.asarray(p[:-1])) - jnp.log(p[-1])


@pytest.mark.parametrize("n", [2000, 8000])
def test_multinomial_risk(x64, n):
    """10 categories: what remains after 1/n and 1/n^2 is of order 1/n^3."""
    p = np.random.default_rng(0).dirichlet(np.full(10, 20.0))
    expected = exact_multinomial_risk(p, n)
    risk = estimation_risk(ef.categorical_log_partition, natural=natural(p), num_samples=n)
    assert float(risk.leading) == 9 / (2 * n)
    assert float(risk.leading) == pytest.approx(expected, rel=40.0 / n)
    # For categories the second term is (5/12 sum 1/p - k/2 + 1/12) / n^2, k = 10.
    closed = (5 / 12 * np.sum(1 / p) - 5 + 1 / 12) / n**2
    assert float(risk.second) == pytest.approx(closed, rel=1e-9)
    assert float(risk.leading + risk.second) == pytest.approx(expected, rel=3000.0 / n**2)


def test_the_uniform_case_of_ten_categories(x64):
    """2 n / p * risk at n = 2000 is 1.00408 in truth; a simulation's .9985 lies within its own noise of that."""
    exact = exact_multinomial_risk(np.full(10, 0.1), 2000)
    risk = estimation_risk(ef.categorical_log_partition, natural=jnp.zeros(9), num_samples=2000)
    assert 2 * 2000 / 9 * exact == pytest.approx(1.0041, abs=1e-4)
    assert float(risk.leading + risk.second) == pytest.approx(exact, rel=1e-4)


def test_poisson_risk(x64):
    """E[lambda log(lambda / m) - lambda + m] over the sum of n draws, itself Poisson."""
    n, rate = 400, 2.5
    k = np.arange(1, 3000)
    mass = scipy.stats.poisson.pmf(k, n * rate)
    exact = np.sum(mass * (rate * np.log(rate * n / k) - rate + k / n))
    risk = estimation_risk(ef.poisson_log_partition, natural=jnp.log(jnp.array([rate])), num_samples=n)
    assert float(risk.second) == pytest.approx(5 / 12 / rate / n**2, rel=1e-9)
    assert float(risk.leading + risk.second) == pytest.approx(exact, rel=1e-4)


def test_exponential_risk(x64):
    """Rate 1: the estimate's mean is a Gamma(n) / n, E KL = E[log m + 1 / m - 1] = digamma(n) - log n + n/(n-1) - 1."""
    n = 300
    exact = scipy.special.digamma(n) - math.log(n) + n / (n - 1) - 1
    risk = estimation_risk(ef.exponential_log_partition, natural=jnp.array([-1.0]), num_samples=n)
    assert float(risk.leading) != pytest.approx(exact, rel=1e-3)
    assert float(risk.leading + risk.second) == pytest.approx(exact, rel=1e-4)


def test_misspecified_risk(x64):
    """A Poisson family for data that are 1 or 5 with even odds: G = 4, H = 3; the sum is binomial."""
    n = 2000
    k = np.arange(n + 1)
    sample_mean = 1 + 4 * k / n
    exact = np.sum(scipy.stats.binom.pmf(k, n, 0.5) * (3 * np.log(3 / sample_mean) - 3 + sample_mean))
    fn, eta = ef.poisson_log_partition, jnp.log(jnp.array([3.0]))
    risk = estimation_risk(fn, natural=eta, num_samples=n, statistics_covariance=jnp.array([[4.0]]))
    assert risk.second is None
    assert float(risk.leading) == pytest.approx(4 / 3 / (2 * n), rel=1e-12)
    assert float(risk.leading) == pytest.approx(exact, rel=2 / n)
    own = jax.hessian(fn)(eta)
    specified = estimation_risk(fn, natural=eta, num_samples=n, statistics_covariance=own)
    assert float(specified.leading) == pytest.approx(1 / (2 * n), rel=1e-12)


def test_batches_and_gradients(x64):
    eta = jnp.array([[0.1, -0.4], [0.7, 0.2], [0.0, 0.0]])

    @jax.jit
    def second(t):
        return estimation_risk(ef.categorical_log_partition, natural=eta + t, num_samples=50).second

    value, slope = jax.jit(lambda t: jax.jvp(second, (t,), (1.0,)))(0.0)
    assert value.shape == slope.shape == (3,)
    one = estimation_risk(ef.categorical_log_partition, natural=eta[0], num_samples=50)
    np.testing.assert_allclose(value[0], one.second, rtol=1e-12)
    step = 1e-5
    np.testing.assert_allclose(slope, (second(step) - second(-step)) / (2 * step), rtol=1e-7, atol=1e-12)


def test_bayes_error_bound_is_one_and_meets_gaussians(x64):
    """The best error between N(0, 1) and N(d, 1) is Phi(-d / 2), with KL d^2 / 2."""
    d = np.array([1e-3, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0])
    bound = np.asarray(er.bayes_error_bound(d**2 / 2))
    best = scipy.stats.norm.cdf(-d / 2)
    assert (bound <= best).all() and (bound >= 0).all() and (np.diff(bound) < 0).all()
    assert bound[0] == pytest.approx(best[0], rel=1e-3)
    np.testing.assert_allclose(bound[:4], 0.5 - d[:4] / 4, rtol=1e-12)  # Pinsker
    np.testing.assert_allclose(bound[5:], (1 - np.sqrt(-np.expm1(-(d[5:] ** 2) / 2))) / 2, rtol=1e-9)
    np.testing.assert_array_equal(er.bayes_error_bound(jnp.array([0.0, jnp.inf])), [0.5, 0.0])
    assert np.isnan(er.bayes_error_bound(jnp.array(-1.0)))


def test_the_criterion_as_a_user_states_it(x64):
    """d = 9 at an error rate of .45 asks KL <= .02: about 225 samples."""
    enough = []
    for n in (220, 240):
        risk = er.estimation_risk(ef.categorical_log_partition, natural=jnp.zeros(9), num_samples=n)
        enough.append(bool(er.bayes_error_bound(risk.leading + risk.second) >= 0.45))
    assert enough == [False, True]


def test_bad_arguments_are_refused():
    fn, eta = ef.categorical_log_partition, np.zeros(2, np.float32)
    for n in (0, 1.5, None, "9", True):
        with pytest.raises(ValueError, match="estimation_risk: num_samples"):
            er.estimation_risk(fn, natural=eta, num_samples=n)
    for covariance in (np.eye(3), np.ones(2), np.eye(2, dtype=int), "eye", [[None]]):
        with pytest.raises(ValueError, match="estimation_risk: statistics_covariance"):
            er.estimation_risk(fn, natural=eta, num_samples=9, statistics_covariance=covariance)
    with pytest.raises(ValueError, match="estimation_risk: natural"):
        er.estimation_risk(fn, natural=1.0, num_samples=9)
    with pytest.raises(ValueError, match="estimation_risk: log_partition_fn"):
        er.estimation_risk(None, natural=eta, num_samples=9)
    for bad in (None, "x", 1, [None]):
        with pytest.raises(ValueError, match="bayes_error_bound: divergence"):
            er.bayes_error_bound(bad)

"""Laws of the noise level against their closed forms."""

import jax
import numpy as np
import pytest
import scipy.stats

from jaxdiv.distillation import KarrasUniform, LogNormal

NUM = 20000


def draws(law, seed=0):
    return np.asarray(jax.jit(jax.vmap(law))(jax.random.split(jax.random.key(seed), NUM)))


def karras(u, law):
    low, high = law.sigma_min ** (1 / law.rho), law.sigma_max ** (1 / law.rho)
    return (low + u * (high - low)) ** law.rho


@pytest.mark.parametrize("law", [LogNormal(), LogNormal(mean=0.5, std=0.3)])
def test_log_normal(law):
    sigma = draws(law)
    wanted = scipy.stats.lognorm(s=law.std, scale=np.exp(law.mean))
    assert scipy.stats.kstest(sigma, wanted.cdf).pvalue > 1e-3
    assert np.mean(np.log(sigma)) == pytest.approx(law.mean, abs=4.5 * law.std / np.sqrt(NUM))
    assert np.std(np.log(sigma)) == pytest.approx(law.std, abs=4.5 * law.std / np.sqrt(2 * NUM))


LAWS = [
    KarrasUniform(),
    KarrasUniform(0.02, 0.98),
    KarrasUniform(0.1, 0.5, sigma_min=0.01, sigma_max=10.0, rho=3.0),
]


@pytest.mark.parametrize("law", LAWS)
def test_karras_uniform(law):
    """Uniform in u: sigma^(1/rho) is uniform between the images of low and high."""
    sigma = draws(law)
    ends = karras(np.array([law.low, law.high]), law)
    assert ends[0] * (1 - 1e-5) <= sigma.min() and sigma.max() <= ends[1] * (1 + 1e-5)
    root = ends ** (1 / law.rho)
    uniform = scipy.stats.uniform(root[0], root[1] - root[0])
    assert scipy.stats.kstest(sigma ** (1 / law.rho), uniform.cdf).pvalue > 1e-3
    quantiles = np.quantile(sigma, [0.1, 0.5, 0.9])
    wanted = karras(law.low + np.array([0.1, 0.5, 0.9]) * (law.high - law.low), law)
    np.testing.assert_allclose(quantiles, wanted, rtol=0.12)


def test_the_published_ranges():
    """SiD's largest level is 24.41; a range of one point is that point."""
    assert draws(KarrasUniform()).max() == pytest.approx(24.41, rel=1e-2)
    np.testing.assert_allclose(draws(KarrasUniform(0.5, 0.5)), karras(0.5, KarrasUniform()), rtol=1e-5)
    np.testing.assert_allclose(karras(0.8, KarrasUniform()), 24.41, atol=5e-3)


def test_laws_are_values():
    assert LogNormal(-1.2, 1.2) == LogNormal() and hash(KarrasUniform(0.0, 0.8)) == hash(KarrasUniform())
    assert LogNormal() != LogNormal(std=1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogNormal(std=0.0), "LogNormal: std"),
        (lambda: KarrasUniform(low=-0.1), "KarrasUniform: low"),
        (lambda: KarrasUniform(low=0.9, high=0.8), "KarrasUniform: high"),
        (lambda: KarrasUniform(high=1.1), "KarrasUniform: high"),
        (lambda: KarrasUniform(sigma_min=0.0), "KarrasUniform: sigma_min"),
        (lambda: KarrasUniform(sigma_min=90.0), "KarrasUniform: sigma_min"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=rf"^{message}.*expected"):
        make()

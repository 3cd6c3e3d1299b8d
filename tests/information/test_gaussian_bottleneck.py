"""The Gaussian bottleneck against log-determinants, the eigenvalue form of its source, and random competitors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.information import gaussian_information_bottleneck
from jaxdiv.information.gaussian_bottleneck import GaussianBottleneck

pytestmark = pytest.mark.usefixtures("x64")
bottleneck = jax.jit(gaussian_information_bottleneck)


def covariances(d_x, d_y, seed=0):
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(d_x + d_y, d_x + d_y)) / 2 + np.eye(d_x + d_y)
    joint = factor @ factor.T
    return joint[:d_x, :d_x], joint[:d_x, d_x:], joint[d_x:, d_x:]


def log_det_informations(projection, cov_x, cross, cov_y):
    """I(X; T) and I(T; Y) of T = projection X + N(0, I) by numpy's determinants."""
    given_y = cov_x - cross @ np.linalg.solve(cov_y, cross.T)
    eye = np.eye(len(projection))
    total = np.linalg.slogdet(projection @ cov_x @ projection.T + eye)[1]
    return total / 2, (total - np.linalg.slogdet(projection @ given_y @ projection.T + eye)[1]) / 2


@pytest.mark.parametrize("d_x, d_y", [(1, 1), (3, 2), (2, 4), (5, 1)])
def test_informations_are_those_of_its_projection(d_x, d_y):
    given = covariances(d_x, d_y)
    betas = jnp.array([0.0, 1.0, 1.5, 2.4, 5.0, 20.0, 1e4])
    out = jax.jit(jax.vmap(lambda b: gaussian_information_bottleneck(*given, tishby_beta=b)))(betas)
    expected = [log_det_informations(np.asarray(a), *given) for a in out.projection]
    np.testing.assert_allclose(np.stack([out.information_x, out.information_y], 1), expected, rtol=1e-12, atol=1e-13)
    assert np.all(np.diff(out.information_x) >= 0) and np.all(np.diff(out.information_y) >= 0)
    # All of I(X; Y), and no more.
    joint = np.block([[given[0], given[1]], [given[1].T, given[2]]])
    log_det = [np.linalg.slogdet(c)[1] for c in (given[0], given[2], joint)]
    total = (log_det[0] + log_det[1] - log_det[2]) / 2
    assert float(out.information_y[-1]) <= total
    np.testing.assert_allclose(out.information_y[-1], total, atol=3e-4)  # each component lacks about 1 / (2 beta)


def test_the_eigenvalue_form_of_the_source():
    """Left eigenvectors of C_{x|y} C_x^{-1} with lambda, r and alpha as Chechik et al. write them."""
    cov_x, cross, cov_y = covariances(4, 3, seed=1)
    beta = 6.0
    out = bottleneck(cov_x, cross, cov_y, tishby_beta=beta)
    given_y = cov_x - cross @ np.linalg.solve(cov_y, cross.T)
    values, vectors = np.linalg.eig((given_y @ np.linalg.inv(cov_x)).T)
    order = np.argsort(values.real)
    values, vectors = values.real[order], vectors.real[:, order]
    np.testing.assert_allclose(1 - np.square(out.correlations), values, atol=1e-12)
    active = beta * (1 - values) > 1
    assert 0 < active.sum() < 4
    rates = np.log((beta - 1) * (1 - values[active]) / values[active]) / 2
    np.testing.assert_allclose(out.information_x, rates.sum(), rtol=1e-12)
    np.testing.assert_allclose(out.information_y, (rates - np.log(beta * (1 - values[active])) / 2).sum(), rtol=1e-12)
    r = np.einsum("di,de,ei->i", vectors, cov_x, vectors)
    for i in range(4):
        alpha = np.sqrt(max(beta * (1 - values[i]) - 1, 0) / (values[i] * r[i]))
        row = alpha * vectors[:, i]
        np.testing.assert_allclose(np.outer(out.projection[i], out.projection[i]), np.outer(row, row), atol=1e-10)


def test_no_random_projection_does_better():
    cov_x, cross, cov_y = covariances(3, 2, seed=2)
    rng = np.random.default_rng(3)
    for beta in (1.5, 3.0, 30.0):
        out = bottleneck(cov_x, cross, cov_y, tishby_beta=beta)
        best = float(out.information_x - beta * out.information_y)
        for trial in range(300):
            near = np.asarray(out.projection) if trial % 2 else 0.0
            other = near + rng.normal(size=(3, 3)) * 10 ** rng.uniform(-3, 1)
            i_x, i_y = log_det_informations(other, cov_x, cross, cov_y)
            assert i_x - beta * i_y >= best - 1e-12


def test_the_scalar_case_by_hand():
    rho = 0.75
    cross = np.array([[2.0 * 3.0 * rho]])

    def solve(beta):
        return bottleneck(np.array([[4.0]]), cross, np.array([[9.0]]), tishby_beta=beta)

    np.testing.assert_allclose(solve(2.0).critical_betas, [1 / rho**2], rtol=1e-14)
    below = solve(1.7777)
    assert float(below.information_x) == float(below.information_y) == float(below.projection[0, 0]) == 0.0
    np.testing.assert_allclose(solve(4.0).information_x, np.log(3.0 * rho**2 / (1 - rho**2)) / 2, rtol=1e-14)
    np.testing.assert_allclose(solve(1e12).information_y, -np.log(1 - rho**2) / 2, rtol=1e-10)


def test_invariance_and_slope():
    """Invertible maps of X or Y change nothing; dI_Y / dI_X along the curve is 1 / tishby_beta."""
    cov_x, cross, cov_y = covariances(3, 3, seed=4)
    a, b = np.random.default_rng(5).normal(size=(2, 3, 3))

    @jax.jit
    def informations(beta, *given):
        return jnp.stack(gaussian_information_bottleneck(*given, tishby_beta=beta)[1:3])

    plain = informations(7.0, cov_x, cross, cov_y)
    mapped = informations(7.0, a @ cov_x @ a.T, a @ cross @ b.T, b @ cov_y @ b.T)
    np.testing.assert_allclose(mapped, plain, rtol=1e-9)
    slope = jax.jit(jax.jacfwd(informations))(jnp.float64(7.0), cov_x, cross, cov_y)
    np.testing.assert_allclose(slope[1] / slope[0], 1 / 7.0, rtol=1e-12)


def test_gradients_survive_equal_correlations():
    """Four inputs and one output: three correlations are 0, and their eigenvectors have no derivative."""
    cov_x, cross, cov_y = covariances(4, 1, seed=6)

    @jax.jit
    def rate(c):
        return gaussian_information_bottleneck(cov_x, c, cov_y, tishby_beta=30.0).information_x

    gradient = jax.jit(jax.grad(rate))(jnp.asarray(cross))
    step = 1e-6 * np.eye(4)[:, :, None]
    differences = [(rate(cross + h) - rate(cross - h)) / 2e-6 for h in step]
    np.testing.assert_allclose(gradient[:, 0], differences, rtol=1e-6, atol=1e-9)


def test_limits_and_dtypes():
    eye = np.eye(2)
    independent = bottleneck(eye, 0 * eye, eye, tishby_beta=1e6)
    assert float(independent.information_x) == 0.0 and np.all(np.isinf(independent.critical_betas))
    copy = bottleneck(eye, eye, eye, tishby_beta=2.0)
    assert np.isposinf(copy.information_x) and np.isposinf(copy.information_y)
    assert np.isnan(bottleneck(-eye, eye, eye, tishby_beta=2.0).information_x)
    assert np.isnan(bottleneck(eye, np.nan * eye, eye, tishby_beta=2.0).information_x)
    small = gaussian_information_bottleneck(*(jnp.asarray(m, jnp.bfloat16) for m in (eye, eye / 2, eye)), tishby_beta=8)
    assert isinstance(small, GaussianBottleneck) and {leaf.dtype for leaf in small} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "change, match",
    [
        ({"cross_covariance": np.ones(2)}, r"cross_covariance has shape \(2,\)"),
        ({"cross_covariance": np.ones((0, 2))}, "cross_covariance has shape"),
        ({"covariance_x": np.eye(3)}, r"covariance_x has shape \(3, 3\); expected shape \(2, 2\)"),
        ({"covariance_y": np.eye(2)[0]}, r"covariance_y has shape \(2,\)"),
        ({"covariance_y": np.eye(2, dtype=int)}, "covariance_y has dtype"),
        ({"covariance_x": "eye"}, "covariance_x is 'eye'"),
        ({"tishby_beta": -1.0}, r"tishby_beta is -1.0; expected a number in \[0"),
        ({"tishby_beta": np.ones(2)}, r"tishby_beta has shape \(2,\)"),
        ({"tishby_beta": None}, "tishby_beta is None"),
    ],
)
def test_bad_arguments(change, match):
    eye = np.eye(2)
    given = {"covariance_x": eye, "cross_covariance": eye / 2, "covariance_y": eye, "tishby_beta": 2.0} | change
    arrays = [given.pop(name) for name in ("covariance_x", "cross_covariance", "covariance_y")]
    with pytest.raises(ValueError, match=f"gaussian_information_bottleneck: {match}"):
        gaussian_information_bottleneck(*arrays, **given)

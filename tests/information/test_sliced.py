"""Sliced and k-sliced mutual information of Gaussians against closed forms, quadrature and other random frames."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from jaxdiv.information import ksg, sliced_mutual_information

gaussian = jax.jit(
    functools.partial(sliced_mutual_information, base="gaussian", num_projections=20_000), static_argnames=("dim",)
)
by_ksg = jax.jit(functools.partial(sliced_mutual_information, num_projections=8), static_argnames=("dim", "k", "tile"))


def exact_sample(covariance, count, seed=0):
    """Samples whose empirical covariance (with N) is the one given, to rounding."""
    raw = np.random.default_rng(seed).normal(size=(count, len(covariance)))
    raw = np.linalg.svd(raw - raw.mean(axis=0), full_matrices=False)[0] * count**0.5
    return raw @ np.linalg.cholesky(covariance).T


def paired(d, rho, count=200):
    """X and Y of d dimensions with unit covariance, each coordinate correlated with its partner."""
    both = exact_sample(np.kron([[1.0, rho], [rho, 1.0]], np.eye(d)), count)
    return both[:, :d], both[:, d:]


@pytest.mark.parametrize("rho", [0.3, 0.95])
def test_two_dimensions_in_closed_form(x64, rho):
    """The angle between projections is uniform, and the mean of log(1 - rho^2 cos^2) is elementary."""
    found = gaussian(*paired(2, rho), key=jax.random.key(0))
    wanted = -np.log((1 + (1 - rho**2) ** 0.5) / 2)
    assert abs(float(found) - wanted) < 4 * float(found.stderr) < 0.05 * wanted + 0.002
    assert found.kind == "not MI" and found.info["local"].shape == (20_000,)


@pytest.mark.parametrize("d", [3, 6])
def test_quadrature(x64, d):
    """The cosine t between uniform directions has a density proportional to (1 - t^2)^((d - 3) / 2)."""
    rho = 0.9
    weight = integrate.quad(lambda t: (1 - t * t) ** ((d - 3) / 2), -1, 1)[0]
    wanted = integrate.quad(lambda t: -0.5 * np.log1p(-((rho * t) ** 2)) * (1 - t * t) ** ((d - 3) / 2), -1, 1)[0]
    found = gaussian(*paired(d, rho), key=jax.random.key(1))
    assert abs(float(found) - wanted / weight) < 4 * float(found.stderr)


def test_k_sliced(x64):
    """Two of three dimensions: against scipy's orthogonal group and determinants; three of three: the MI."""
    mix = np.random.default_rng(2).normal(size=(6, 6))
    covariance = mix @ mix.T + 0.5 * np.eye(6)
    both = exact_sample(covariance, 100)
    found = gaussian(both[:, :3], both[:, 3:], key=jax.random.key(2), dim=2)
    frames = stats.ortho_group.rvs(3, size=8000, random_state=0)[:, :, :2].reshape(4000, 2, 3, 2)
    blocks = np.zeros((4000, 6, 4))
    blocks[:, :3, :2], blocks[:, 3:, 2:] = frames[:, 0], frames[:, 1]
    joint = blocks.swapaxes(1, 2) @ covariance @ blocks
    logs = [np.linalg.slogdet(m)[1] for m in (joint[:, :2, :2], joint[:, 2:, 2:], joint)]
    terms = 0.5 * (logs[0] + logs[1] - logs[2])
    assert abs(float(found) - terms.mean()) < 4 * np.hypot(float(found.stderr), terms.std() / 4000**0.5)
    whole = gaussian(both[:, :3], both[:, 3:], key=jax.random.key(2), dim=3)
    logs = [np.linalg.slogdet(m)[1] for m in (covariance[:3, :3], covariance[3:, 3:], covariance)]
    np.testing.assert_allclose(whole.info["local"], 0.5 * (logs[0] + logs[1] - logs[2]), rtol=1e-9)
    assert float(found) < float(whole)


def test_base_ksg(x64):
    """Scalars have one projection; in more dimensions the bases agree on Gaussian data, projection by projection."""
    x, y = paired(1, 0.8)
    np.testing.assert_allclose(by_ksg(x, y, key=jax.random.key(0)).info["local"], float(jax.jit(ksg)(x, y)), rtol=1e-9)
    x, y = paired(3, 0.9, 1000)
    found = by_ksg(x, y, key=jax.random.key(3))
    plain = jax.jit(functools.partial(sliced_mutual_information, num_projections=8, base="gaussian"))
    other = plain(x, y, key=jax.random.key(3))
    np.testing.assert_allclose(found.info["local"], other.info["local"], atol=0.12)
    assert abs(float(found) - float(other)) < 0.04


def test_independent_and_constant(x64):
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(2, 1000, 3))
    constant = np.full((1000, 3), 7.3)
    key = jax.random.key(4)
    assert abs(float(by_ksg(x, y, key=key))) < 0.03
    assert 0 <= float(gaussian(x, y, key=key)) < 0.003
    for call in (by_ksg, gaussian):
        assert abs(float(call(x, constant, key=key))) < 1e-12 and abs(float(call(constant, x, key=key))) < 1e-12
    # Columns that repeat each other leave the projections with the directions that there are.
    twice = np.stack([x[:, 0], x[:, 0], constant[:, 0]], axis=1)
    found = gaussian(twice, x, key=key, dim=2)
    assert np.all(np.isfinite(found.info["local"])) and np.all(found.info["local"] >= 0)
    repeated = np.repeat(x[:500], 2, axis=0)  # duplicates: all pairs are atoms
    assert float(by_ksg(repeated, repeated, key=key, k=1)) > 5.0
    assert float(gaussian(x[:, :1], x[:, :1], key=key)) > 15.0  # infinite in truth


def test_gradient_by_finite_differences(x64):
    x, y = paired(2, 0.5, 20)
    direction = np.random.default_rng(5).normal(size=x.shape)

    @jax.jit
    def value(x):
        return sliced_mutual_information(x, y, key=jax.random.key(5), num_projections=4, base="gaussian").value

    slope = (value(x + 1e-6 * direction) - value(x - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(np.sum(jax.jit(jax.grad(value))(x) * direction), slope, rtol=1e-6)


def test_dtype_nan_vmap():
    x, y = jax.random.normal(jax.random.key(6), (2, 50, 3), jnp.float16)
    key = jax.random.key(7)
    for base in ("ksg", "gaussian"):
        run = functools.partial(sliced_mutual_information, num_projections=2, base=base)
        spoiled = jnp.stack([x, x.at[0, 0].set(jnp.nan)])
        found = jax.jit(jax.vmap(lambda x, run=run: run(x, y, key=key)))(spoiled)
        assert found.value.dtype == jnp.float32
        assert np.isfinite(found.value[0]) and np.isnan(found.value[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"key": 0}, "sliced_mutual_information: key is 0; expected a typed key"),
        ({"num_projections": 0}, "sliced_mutual_information: num_projections is 0"),
        ({"dim": 3}, r"sliced_mutual_information: dim is 3; expected a number in \[1, 2\]"),
        ({"base": "mine"}, "sliced_mutual_information: base is 'mine'; expected one of 'ksg', 'gaussian'"),
        ({"k": 6}, "sliced_mutual_information: x has 6 rows; expected more than k = 6"),
        ({"y": jnp.ones((5, 2))}, "sliced_mutual_information: y has 5 rows"),
    ],
    ids=["key", "projections", "dim", "base", "k", "rows"],
)
def test_bad_arguments(change, message):
    arguments = {"x": jnp.ones((6, 3)), "y": jnp.ones((6, 2)), "key": jax.random.key(0), "k": 2} | change
    with pytest.raises(ValueError, match=message):
        sliced_mutual_information(**arguments)

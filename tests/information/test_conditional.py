"""Conditional mutual information against brute force and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma

from jaxdiv.information import frenzel_pompe, ksg

estimate = jax.jit(frenzel_pompe, static_argnames=("k", "tile"))


def far(x):
    """All pairwise distances in the maximum norm."""
    x = np.asarray(x, float).reshape(len(x), -1)
    return np.max(np.abs(x[:, None] - x[None]), axis=-1)


def brute(x, y, z, k):
    """By the definition, one point at a time."""
    near = [far(part) for part in (x, y, z)]
    joint, terms = np.maximum.reduce(near), []
    for i, row in enumerate(joint):
        radius = np.sort(np.delete(row, i))[k - 1]
        closed = radius == 0 or np.sum(row <= radius) > k + 1
        held = np.sum(row <= radius) if closed else k
        counts = []
        for part in (np.maximum(near[0], near[2]), np.maximum(near[1], near[2]), near[2]):
            counts.append(max(np.sum((part[i] <= radius) if closed else (part[i] < radius)), held))
        terms.append(digamma(held) - digamma(counts[0]) - digamma(counts[1]) + digamma(counts[2]))
    return np.mean(terms)


@pytest.mark.parametrize("k", [1, 5])
def test_brute_force(x64, k):
    rng = np.random.default_rng(0)
    sets = []
    for _ in range(4):
        z = rng.normal(size=(80, 2))
        sets.append((rng.normal(size=(80, 2)) + z, z[:, :1] + rng.normal(size=(80, 1)), z))
        lattice = rng.integers(0, 4, size=(80, 2))
        sets.append((lattice + 0.0, lattice[:, :1] + rng.integers(0, 2, (80, 1)) + 0.0, lattice * 1.0))
        repeated = np.repeat(rng.normal(size=(40, 4)), 2, 0)
        sets.append((repeated[:, :2], repeated[:, 2:3], z))
    found = jax.jit(jax.vmap(functools.partial(frenzel_pompe, k=k)))(
        *(np.stack(part) for part in zip(*sets, strict=True))
    )
    np.testing.assert_allclose(found.value, [brute(*parts, k) for parts in sets], rtol=0, atol=1e-12)
    assert found.kind == "plug-in" and found.info["num_tied"].shape == (12,)
    np.testing.assert_array_equal(found.info["num_tied"][::3], 0)


@pytest.mark.parametrize("partial", [0.0, 0.5, 0.7])
def test_gaussian_partial_correlation(x64, partial):
    """Given Z, X and Y have the correlation rho: -1/2 log(1 - rho^2), however strongly both follow Z."""
    rng = np.random.default_rng(1)
    z = rng.normal(size=(3, 1000))
    x, noise = rng.normal(size=(2, 3, 1000))
    y = partial * x + (1 - partial**2) ** 0.5 * noise
    values = [float(estimate(x[i] + z[i], y[i] - z[i], z[i])) for i in range(3)]
    assert abs(np.mean(values) + 0.5 * np.log(1 - partial**2)) < 0.07
    without = [float(estimate(x[i] + z[i], y[i] - z[i], np.zeros(1000))) for i in range(3)]
    rho = (partial - 1) / 2  # and without Z it is another number
    assert abs(np.mean(without) + 0.5 * np.log(1 - rho**2)) < 0.05


def test_a_constant_condition_leaves_ksg(x64):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 2))
    y = x[:, 0] + rng.normal(size=200)
    assert abs(float(estimate(x, y, np.full(200, 3.0))) - float(jax.jit(ksg)(x, y))) < 1e-13


def test_exact_zeros(x64):
    """A constant tells nothing, and neither does a function of the condition."""
    rng = np.random.default_rng(3)
    x, z = rng.normal(size=(2, 300))
    constant = np.ones(300)
    for found in (estimate(x, constant, z), estimate(constant, x, z), estimate(constant, constant, constant)):
        assert abs(float(found)) < 1e-13
    assert abs(float(estimate(x, z, z))) < 1e-13
    assert abs(float(estimate(x, rng.normal(size=300), z))) < 0.1


def test_discrete_variables(x64):
    """Exclusive or: X and Y independent, but given Z = X xor Y each tells the other: log 2."""
    x = np.tile([0.0, 0.0, 1.0, 1.0], 500)
    y = np.tile([0.0, 1.0, 0.0, 1.0], 500)
    z = np.abs(x - y)
    found = float(estimate(x, y, z))
    assert abs(found - (digamma(1000) - digamma(500))) < 1e-12  # 500 of each triple, 1000 of each z
    assert abs(found - np.log(2)) < 1e-3
    assert abs(float(estimate(x, y, np.zeros(2000)))) < 1e-3


def test_dtype_nan_grad():
    x, y, z = np.random.default_rng(0).normal(size=(3, 60)).astype(np.float16)
    found = estimate(x, y, z)
    assert found.value.dtype == jnp.float32 and found.info["local"].shape == (60,) and np.isfinite(found.stderr)
    np.testing.assert_allclose(np.mean(found.info["local"]), found.value, rtol=1e-6)
    for at in range(3):
        broken = [a.copy() for a in (x, y, z)]
        broken[at][0] = np.nan
        assert np.isnan(estimate(*broken).value)
    x, y, z = (a.astype(np.float32) for a in (x, y, z))
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda x: frenzel_pompe(x, y, z).value))(x), 0.0)
    np.testing.assert_allclose(estimate(x, y, z, tile=7).value, estimate(x, y, z).value, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": jnp.ones(5)}, "frenzel_pompe: z has 5 rows; expected the 6 rows of x"),
        ({"y": jnp.ones((6, 0))}, r"frenzel_pompe: y has shape \(6, 0\)"),
        ({"x": jnp.arange(6)}, "frenzel_pompe: x has dtype int32"),
        ({"k": 6}, "frenzel_pompe: x has 6 rows; expected more than k = 6"),
        ({"k": True}, "frenzel_pompe: k is True; expected an integer"),
    ],
    ids=["rows", "empty", "dtype", "k", "bool"],
)
def test_bad_arguments(change, message):
    arguments = {name: jnp.arange(6.0) for name in "xyz"} | {"k": 2} | change
    with pytest.raises(ValueError, match=message):
        frenzel_pompe(**arguments)

"""Estimators for classes, atoms and mixtures against brute force, scikit-learn and closed forms."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma
from sklearn.feature_selection import mutual_info_classif

from jaxdiv.information import ksg, mixed_ksg, ross

jit_ross = jax.jit(ross, static_argnames=("k", "tile"))
jit_ksg = jax.jit(ksg, static_argnames="k")
jit_mixed = jax.jit(mixed_ksg, static_argnames=("k", "tile"))


def far(x):
    """All pairwise distances in the maximum norm."""
    x = np.asarray(x, float).reshape(len(x), -1)
    return np.max(np.abs(x[:, None] - x[None]), axis=-1)


def brute_ross(x, labels, k):
    """By the definition, one point at a time; the point itself is counted by its distance of 0."""
    x = x[[np.sum(labels == c) > 1 for c in labels]]
    labels = labels[[np.sum(labels == c) > 1 for c in labels]]
    distances, terms = far(x), []
    for i, row in enumerate(distances):
        own = np.sort(row[labels == labels[i]])[1:]
        near = min(k, len(own))
        radius = own[near - 1]
        if radius == 0 or np.sum(own <= radius) > near:
            held, around = 1 + np.sum(own <= radius), np.sum(row <= radius)
        else:
            held, around = near, max(np.sum(row < radius), near)
        terms.append(digamma(len(x)) + digamma(held) - digamma(len(own) + 1) - digamma(around))
    return np.mean(terms)


def brute_mixed(x, y, k):
    """By the definition, one point at a time."""
    near_x, near_y, terms = far(x), far(y), []
    joint = np.maximum(near_x, near_y)
    for i, row in enumerate(joint):
        radius = np.sort(np.delete(row, i))[k - 1]
        closed = radius == 0 or np.sum(row <= radius) > k + 1
        held = np.sum(row <= radius) if closed else k
        sides = [max(np.sum((s[i] <= radius) if closed else (s[i] < radius)), held) for s in (near_x, near_y)]
        terms.append(digamma(held) + digamma(len(row)) - digamma(sides[0]) - digamma(sides[1]))
    return np.mean(terms)


def samples(kind, seed, count=90):
    rng = np.random.default_rng(seed)
    if kind == "continuous":
        x = rng.normal(size=(count, 2))
        return x, x[:, :1] + rng.normal(size=(count, 1))
    if kind == "lattice":
        x = rng.integers(0, 9, size=(count, 1)).astype(float)
        return x, x + rng.integers(0, 3, size=(count, 1))
    if kind == "mixture":
        x = rng.normal(size=(count, 1))
        return np.where(rng.random((count, 1)) < 0.4, 0.0, x), np.where(rng.random((count, 1)) < 0.3, 1.0, x)
    return np.repeat(rng.normal(size=(count // 3, 2)), 3, 0), np.repeat(rng.normal(size=(count // 3, 1)), 3, 0)


KINDS = ("continuous", "lattice", "mixture", "duplicates")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 4])
def test_brute_force(x64, kind, k):
    data = [samples(kind, seed) for seed in range(5)]
    x, y = (np.stack(part) for part in zip(*data, strict=True))
    found = jax.jit(jax.vmap(functools.partial(mixed_ksg, k=k)))(x, y)
    np.testing.assert_allclose(found.value, [brute_mixed(*pair, k) for pair in data], rtol=0, atol=1e-12)
    labels = np.stack([np.random.default_rng(seed).zipf(1.7, len(x[0])).clip(0, 12) for seed in range(5)])
    found = jax.jit(jax.vmap(functools.partial(ross, k=k)))(x, labels)
    wanted = [brute_ross(*pair, k) for pair in zip(x, labels, strict=True)]
    np.testing.assert_allclose(found.value, wanted, rtol=0, atol=1e-12)
    single = [np.sum([np.sum(row == c) == 1 for c in row]) for row in labels]
    np.testing.assert_array_equal(found.info["num_skipped"], single)


def test_without_ties_it_is_ksg(x64):
    x, y = samples("continuous", 7, 300)
    assert abs(float(jit_mixed(x, y, k=3)) - float(jit_ksg(x, y, k=3))) < 1e-13
    assert abs(float(jit_mixed(jnp.float32(x), jnp.float32(y), k=3)) - float(jit_ksg(x, y, k=3))) < 1e-5


@pytest.mark.parametrize("k", [3, 7])
def test_ross_is_scikit_learns(x64, k):
    """It scales x and adds noise of 1e-10, neither of which changes an order; it clips at 0, so classes must tell.

    For classes of at most 2 k points its radii come from squared norms, whose rounding may count the k-th too.
    """
    for seed in range(3):
        rng = np.random.default_rng(seed)
        labels = np.append(rng.integers(0, 4, 200), 7)  # and a class of one
        x = rng.normal(size=201) + 0.8 * labels
        wanted = mutual_info_classif(x[:, None], labels, n_neighbors=k, discrete_features=False, random_state=0)[0]
        assert wanted > 0.1
        assert abs(float(jit_ross(x, labels, k=k)) - wanted) < 1e-9


@pytest.mark.parametrize("value", [0.0, -3.0, 1e-30, 1e12])
def test_a_constant_tells_nothing_beside_a_class_of_one_point(value):
    """The point that is left out is at a distance of 0 from all others, and must not be counted for it."""
    found = jit_ross(np.full(10, value, np.float32), np.array([0] * 5 + [1] * 4 + [2]), k=2)
    assert float(found) == 0.0 and int(found.info["num_skipped"]) == 1


def test_a_class_against_overlapping_uniforms(x64):
    """X uniform on {0..m-1}, Y uniform on [X, X + 2]: I = log m - (m - 1) log(2) / m (Gao et al., experiment I)."""
    m, count = 5, 2000
    rng = np.random.default_rng(0)
    x = rng.integers(0, m, count)
    y = x + 2.0 * rng.random(count)
    truth = math.log(m) - (m - 1) * math.log(2) / m
    for found in (jit_mixed(x.astype(float), y), jit_ross(y, x)):
        assert abs(float(found) - truth) < 3.5 * float(found.stderr) < 0.1
        assert found.kind == "plug-in" and np.isinf(found.ceiling)


def test_zero_inflated_counts(x64):
    """X exponential, Y = 0 with probability p, else Poisson(X)."""
    p, count = 0.15, 2000
    rng = np.random.default_rng(1)
    x = rng.exponential(size=count)
    y = np.where(rng.random(count) < p, 0, rng.poisson(x)).astype(float)
    # Quadrature over x = -log(u) of sum_y P(y | x) log P(y | x) / P(y), with P(y) = 2^-(y+1) of the Poisson mixture.
    u = (np.arange(200_000) + 0.5) / 200_000
    rate, truth = -np.log(u), 0.0
    for j in range(40):
        given = (1 - p) * np.exp(-rate + j * np.log(rate) - math.lgamma(j + 1)) + p * (j == 0)
        prior = (1 - p) * 2.0 ** -(j + 1) + p * (j == 0)
        truth += np.mean(given * np.log(given / prior))
    found = jit_mixed(x, y)
    assert abs(float(found) - truth) < 0.05


def test_a_discrete_variable_with_itself_has_its_entropy(x64):
    probabilities = np.array([0.5, 0.3, 0.2])
    counts = (2000 * probabilities).astype(int)
    x = np.repeat(np.arange(3.0), counts)
    exact = digamma(2000) - np.sum(probabilities * digamma(counts))
    entropy = -np.sum(probabilities * np.log(probabilities))
    assert abs(exact - entropy) < 1e-3
    for found in (jit_mixed(x, x), jit_ross(x, x.astype(int))):
        assert abs(float(found) - exact) < 1e-12


def test_independent_and_constant(x64):
    """Constants give 0 exactly; independent data, lattices among them, nearly."""
    rng = np.random.default_rng(3)
    x, labels = rng.normal(size=2000), rng.integers(0, 3, 2000)
    assert abs(float(jit_mixed(x, rng.normal(size=2000)))) < 0.05
    assert abs(float(jit_ross(x, labels))) < 0.05
    lattice = rng.integers(0, 10, size=(2, 2000)).astype(float)
    assert abs(float(jit_mixed(*lattice))) < 0.05
    constant = np.ones(2000)
    for found in (
        jit_mixed(x, constant),
        jit_mixed(constant, x),
        jit_mixed(constant, constant),
        jit_ross(constant, labels),
        jit_ross(x, np.zeros(2000, int)),
    ):
        assert abs(float(found)) < 1e-13
    wide = np.stack([x, constant], axis=1)
    assert float(jit_mixed(wide, labels.astype(float))) == float(jit_mixed(x, labels.astype(float)))


def test_a_sparse_lattice(x64):
    """Two points in a cell on average: neighbours tie at distance 1, where open balls would give more than 1 nat."""
    lattice = np.random.default_rng(3).integers(0, 7, size=(2, 90)).astype(float)
    assert abs(float(jit_mixed(*lattice, k=4))) < 0.15


def test_duplicates_of_all_samples(x64):
    """Each pair three times: every pair is an atom, so the estimate is the entropy of the atoms."""
    x, y = samples("duplicates", 0)
    assert abs(float(jit_mixed(x, y, k=2)) - (digamma(90) - digamma(3))) < 1e-12


def test_half_precision_nan_jit_vmap_grad():
    x, y = (jnp.asarray(a, jnp.bfloat16) for a in samples("continuous", 0))
    labels = jnp.arange(90) % 3
    for found in (jit_mixed(x, y), jit_ross(x, labels)):
        assert found.value.dtype == found.stderr.dtype == jnp.float32 and np.isfinite(found.value)
        assert found.info["local"].shape == (90,)
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    for bad in (jnp.nan, jnp.inf):
        assert np.isnan(jit_mixed(x.at[4, 1].set(bad), y).value) and np.isnan(
            jit_ross(x.at[4, 1].set(bad), labels).value
        )
    assert np.isnan(jit_ross(x, jnp.arange(90)).value)  # no class of two
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda x: mixed_ksg(x, y).value))(x), 0.0)
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda x: ross(x, labels).value))(x), 0.0)
    np.testing.assert_allclose(jit_mixed(x, y, tile=16).value, jit_mixed(x, y).value, rtol=1e-6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ross(x, jnp.zeros(6)), "ross: labels has dtype float32; expected an integer dtype"),
        (lambda x: ross(x, jnp.zeros(5, int)), r"ross: labels has shape \(5,\); expected shape \(6\)"),
        (lambda x: ross(x, jnp.zeros(6, int), k=6), "ross: x has 6 rows; expected more than k = 6"),
        (lambda x: ross(x[None, None], jnp.zeros(1, int)), r"ross: x has shape \(1, 1, 6\)"),
        (lambda x: mixed_ksg(x, x, k=0), "mixed_ksg: k is 0; expected a number in"),
        (lambda x: mixed_ksg(x, x, k=2.0), "mixed_ksg: k is 2.0; expected an integer"),
        (lambda x: mixed_ksg(x, x[:5]), "mixed_ksg: y has 5 rows; expected the 6 rows of x"),
        (lambda x: mixed_ksg(x[:1], x[:1], k=1), "mixed_ksg: x has 1 rows; expected more than k = 1"),
        (lambda x: mixed_ksg(x, "y"), "mixed_ksg: y is 'y'"),
        (lambda x: mixed_ksg(x, x, tile=0, k=1), "tile is 0"),
    ],
    ids=["float labels", "label count", "k", "rank", "no neighbour", "float k", "rows", "one row", "type", "tile"],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(jnp.arange(6.0))

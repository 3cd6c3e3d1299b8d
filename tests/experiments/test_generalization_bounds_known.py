"""Gaps that are known, against simulation of the training itself, quadrature and closed forms of every bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import rel_entr

from experiments.generalization_bounds import known_tables
from experiments.generalization_bounds.config import Config
from experiments.generalization_bounds.known_gaps import (
    draw_weights,
    dropout_layers,
    error_rates,
    gaussian_layers,
    mean_classifier,
)
from experiments.generalization_bounds.known_tables import (
    SIZES,
    as_row,
    format_known,
    known_rows,
    ratio_text,
    violations,
)
from experiments.generalization_bounds.linear_networks import draw_maps, linear_network, lower_factor

KEY = jax.random.key(0)
TRIALS = 4000  # one number for most tests: shapes that recur are compiled once
COMMON = {"dimension": 3, "num_samples": 4, "distance": 0.8}


def simulate(lose, trials=100_000, seed=0):
    """Train the classifier on fresh sets; lose(w, z, rng) is the loss of samples; mean gap and standard error."""
    rng = np.random.default_rng(seed)
    d, n = COMMON["dimension"], COMMON["num_samples"]
    mu = COMMON["distance"] / d**0.5
    z = mu + rng.normal(size=(trials, n, d))
    w = z.mean(1)
    gaps = lose(w, mu + rng.normal(size=(trials, d)), rng) - lose(w, z[:, 0], rng)
    return gaps.mean(), gaps.std() / trials**0.5


@pytest.fixture(scope="module")
def rows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known_tables, "DIMENSIONS", (3, 20))
        patch.setattr(known_tables, "LAYERED", known_tables.LAYERED | {"dimension": 3})
        return list(known_rows(Config(trials=TRIALS)))


def test_weights_come_in_pairs_around_the_mean():
    weights, mu = draw_weights(KEY, dimension=3, num_samples=4, distance=0.8, trials=20_000)
    np.testing.assert_allclose(np.linalg.norm(mu), 0.8, rtol=1e-6)
    np.testing.assert_allclose(weights[:10_000] + weights[10_000:], np.broadcast_to(2 * mu, (10_000, 3)), atol=1e-5)
    np.testing.assert_allclose(np.cov(weights.T), np.eye(3) / 4, atol=0.01)


def test_the_gap_is_that_of_simulated_training():
    found = mean_classifier(KEY, trials=TRIALS, **COMMON)
    gap, error = simulate(lambda w, z, _: (np.sum(w * z, 1) < 0).astype(float))
    assert abs(gap - float(found.gap)) < 4 * np.hypot(error, float(found.stderr))
    assert float(found.gap) > 10 * float(found.stderr)


def test_error_rates_given_the_classifier():
    """Given W = w the training sample is w plus normal noise of variance 1 - 1/n; here by conditional simulation."""
    rng = np.random.default_rng(1)
    w, mu, n = np.array([[0.5, -0.2]]), np.array([0.3, 0.4]), 4
    train, test = error_rates(jnp.asarray(w), jnp.asarray(mu), n)
    z = rng.normal(size=(400_000, n, 2))
    z = z - z.mean(1, keepdims=True) + w  # samples with this mean
    assert np.mean(z[:, 0] @ w[0] < 0) == pytest.approx(float(train[0]), abs=0.004)
    assert np.mean((mu + rng.normal(size=(400_000, 2))) @ w[0] < 0) == pytest.approx(float(test[0]), abs=0.004)


def test_one_dimension_by_quadrature():
    """At d = 1 the mean over W is one integral, of the gap and of each divergence."""
    n, mu = 5, 1.0
    found = mean_classifier(KEY, dimension=1, num_samples=n, distance=mu, trials=TRIALS)
    w = np.linspace(mu - 8 / n**0.5, mu + 8 / n**0.5, 200_001)
    w = w[w != 0]
    density = stats.norm.pdf(w, mu, n**-0.5)
    density /= density.sum()
    train = stats.norm.cdf(-np.abs(w) / (1 - 1 / n) ** 0.5)
    test = stats.norm.cdf(-mu * np.sign(w))
    assert float(found.gap) == pytest.approx(density @ (test - train), abs=4 * float(found.stderr))
    # A linear layer of one dimension can be undone, so that it lets everything through.
    assert float(found.bounds["linear"]) == pytest.approx(float(found.bounds["input"]), rel=0.05)
    kl = density @ (rel_entr(train, test) + rel_entr(1 - train, 1 - test))
    assert float(found.bounds["sign"]) == pytest.approx((kl / 2) ** 0.5, rel=0.05)
    assert float(found.bounds["input"]) == pytest.approx((0.5 * np.log(n / (n - 1)) / 2) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("dimension, n", [(3, 3), (3, 300), (20, 3), (20, 300)])
def test_every_layer_bounds_the_gap_and_later_ones_better(dimension, n):
    found = mean_classifier(KEY, dimension=dimension, num_samples=n, distance=1.0, trials=TRIALS)
    gap, bounds = float(found.gap), [float(found.bounds[name]) for name in ("input", "linear", "sign")]
    assert gap + 3 * float(found.stderr) < bounds[2] < bounds[1] < bounds[0]
    assert bounds[0] == pytest.approx((dimension * np.log(n / (n - 1)) / 4) ** 0.5, rel=1e-4)


def test_the_gap_falls_like_1_over_n_and_the_bound_like_its_root():
    small, large = (mean_classifier(KEY, dimension=3, num_samples=n, distance=1.0, trials=TRIALS) for n in (400, 1600))
    assert float(small.gap / large.gap) == pytest.approx(4.0, rel=0.1)
    for name in ("input", "linear", "sign"):
        assert float(small.bounds[name] / large.bounds[name]) == pytest.approx(2.0, rel=0.05)


def test_dropout_layers_against_dropped_samples():
    probability, depth = 0.4, 2
    found = dropout_layers(KEY, probability=probability, depth=depth, trials=TRIALS, **COMMON)
    for layers in range(depth + 1):

        def lose(w, z, rng, layers=layers):
            for _ in range(layers):
                z = z * (rng.random(z.shape) > probability)
            score = np.sum(w * z, 1)
            return np.where(score == 0, 0.5, score < 0)

        gap, error = simulate(lose, seed=layers)
        assert abs(gap - float(found.gap[layers])) < 4 * np.hypot(error, float(found.stderr[layers]))
    eta = 1 - probability**3
    first = (3 * np.log(4 / 3) / 4) ** 0.5
    np.testing.assert_allclose(found.bounds["contraction"], first * eta ** (np.arange(3) / 2), rtol=1e-4)
    assert (np.asarray(found.gap) < np.asarray(found.bounds["contraction"])).all()


def test_gaussian_layers_against_noisy_samples():
    scale, depth = 0.7, 2
    found = gaussian_layers(KEY, scale=scale, depth=depth, trials=TRIALS, **COMMON)
    for layers in range(depth + 1):

        def lose(w, z, rng, layers=layers):
            for _ in range(layers):
                z = np.tanh(z) + scale * rng.normal(size=z.shape)
            return (np.sum(w * z, 1) < 0).astype(float)

        gap, error = simulate(lose, seed=layers)
        assert abs(gap - float(found.gap[layers])) < 4 * np.hypot(error, float(found.stderr[layers]))
    eta = 2 * stats.norm.cdf(3**0.5 / scale) - 1
    first = (3 * np.log(4 / 3) / 4) ** 0.5
    np.testing.assert_allclose(found.bounds["contraction"], first * eta ** (np.arange(3) / 2), rtol=1e-4)


def test_the_factor_of_a_wide_matrix():
    matrix = np.random.default_rng(2).normal(size=(3, 5)).astype(np.float32)
    lower = np.asarray(lower_factor(jnp.asarray(matrix)))
    np.testing.assert_allclose(lower @ lower.T, matrix @ matrix.T, atol=1e-5)
    assert (np.triu(lower, 1) == 0).all() and (np.diag(lower) > 0).all()
    with pytest.raises(ValueError, match=r"lower_factor: matrix has shape \(5, 3\)"):
        lower_factor(jnp.asarray(matrix.T))


def test_the_linear_network_against_simulation_and_closed_form():
    n, trials = 4, 100_000
    maps = draw_maps(KEY, widths=(8, 8, 2), gain=1.5)
    assert [matrix.shape for matrix in maps] == [(8, 8), (2, 8)]
    run = jax.jit(lambda key, maps: linear_network(key, maps, num_samples=n, trials=TRIALS))
    found = run(jax.random.key(1), maps)
    rng = np.random.default_rng(3)
    a, b = (np.asarray(matrix, np.float64) for matrix in maps)
    z = rng.normal(size=(trials, n, 8))
    w = z.mean(1)

    def loss(x):
        return np.abs((x - w) @ a.T @ b.T @ np.full(2, 0.5**0.5))

    gaps = loss(rng.normal(size=(trials, 8))) - loss(z[:, 0])
    assert abs(gaps.mean() - float(found.gap)) < 4 * gaps.std() / trials**0.5

    # Both covariances are multiples of A A': W_2^2 = |A (W - mu)|^2 + tr(A A') (1 - sqrt(1 - 1/n))^2.
    expected, steps = [], (np.eye(8), a, b @ a)
    for factor in steps:
        shift = np.sum((w @ factor.T) ** 2, 1) + np.sum(factor**2) * (1 - (1 - 1 / n) ** 0.5) ** 2
        expected.append(np.mean(np.sqrt(shift)))
    norms = [np.linalg.norm(a, 2), np.linalg.norm(b, 2)]
    factors = [max(1, norms[0] * norms[1]), max(1, norms[1]), 1]
    np.testing.assert_allclose(found.bounds["layers"], np.multiply(expected, factors), rtol=0.02)
    assert float(found.gap) < float(found.bounds["layers"][-1])


@jax.jit
def layer_bounds(key, gain):
    maps = draw_maps(key, widths=(8, 8, 8, 2), gain=gain)
    return linear_network(key, maps, num_samples=10, trials=TRIALS).bounds["layers"]


@pytest.mark.parametrize("gain", [0.3, 1.0, 3.0])
def test_the_last_layer_has_the_least_bound(gain):
    for seed in range(3):
        bounds = np.asarray(layer_bounds(jax.random.key(seed), gain))
        assert (np.diff(bounds) <= 1e-4 * bounds[:-1]).all()


def test_no_gap_is_above_its_bound(rows):
    assert len(rows) == 2 * len(SIZES) + 5 * 5 + 3
    assert violations(rows) == []
    broken = rows[0] | {"gap": 10.0, "stderr": 0.1}
    assert violations([*rows, broken]) == [broken]
    assert violations([broken | {"stderr": 4.0}]) == []


def test_the_table_has_every_problem(rows):
    table = format_known(rows)
    assert table.count("\n") > len(rows)
    for word in ("| 20 | 1000 |", "| dropout 0.9 | 4 |", "| normal noise 4 | 0 |", "| 2.0 |", "sign / gap", "layer 4"):
        assert word in table
    row = rows[0]
    assert f"{row['gap']:.5f}" in table and f"{row['bounds']['input']:.4f}" in table


def test_a_ratio_needs_a_gap():
    row = {"gap": 0.01, "stderr": 0.001, "bounds": {"input": 0.25}}
    assert ratio_text(row, "input") == "25"
    assert ratio_text(row | {"stderr": 0.004}, "input") == ""
    assert ratio_text(row | {"gap": np.nan}, "input") == ""
    known = mean_classifier(KEY, trials=TRIALS, **COMMON)
    kept = as_row(known)
    assert kept["gap"] == float(known.gap) and set(kept["bounds"]) == {"input", "linear", "sign"}

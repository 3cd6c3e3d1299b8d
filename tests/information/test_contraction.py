"""Contraction coefficients by enumeration of binary inputs through the layers, and by quadrature for the Gaussian."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import rel_entr
from scipy.stats import norm

from jaxdiv.information import (
    dobrushin_coefficient,
    dropconnect_contraction,
    dropout_contraction,
    gaussian_contraction,
)

RNG = np.random.default_rng(0)


def kl(p, q):
    return rel_entr(p, q).sum()


def as_channel(inputs, layer, num_masks, delta):
    """p(output | input) of a layer whose 0/1 masks drop with probability delta, and the outputs, by enumeration."""
    outputs, table = {}, {}
    for mask in itertools.product((0, 1), repeat=num_masks):
        weight = delta ** mask.count(0) * (1 - delta) ** mask.count(1)
        for row, x in enumerate(inputs):
            column = outputs.setdefault(tuple(np.round(layer(np.array(x), np.array(mask)), 9)), len(outputs))
            table[row, column] = table.get((row, column), 0.0) + weight
    channel = np.zeros((len(inputs), len(outputs)))
    for place, weight in table.items():
        channel[place] = weight
    np.testing.assert_allclose(channel.sum(1), 1.0, atol=1e-12)
    return channel, list(outputs)


def worst_ratio(channel, trials=300):
    """The largest KL ratio over random pairs, near ones included, where the supremum often lies."""
    worst = 0.0
    for _ in range(trials):
        p, q = RNG.dirichlet(np.full(len(channel), 10 ** RNG.uniform(-1.5, 0.5)), size=2) + 1e-12
        p, q = p / p.sum(), q / q.sum()
        p = q + (p - q) * 10 ** RNG.uniform(-2, 0)
        if kl(p, q) > 1e-9:
            worst = max(worst, kl(p @ channel, q @ channel) / kl(p, q))
    return worst


SIGNS = {d: list(itertools.product((-1.0, 1.0), repeat=d)) for d in (1, 2, 3)}


@pytest.mark.parametrize("width, delta", [(1, 0.3), (2, 0.5), (3, 0.2), (3, 0.8)])
def test_dropout_by_enumeration(width, delta):
    eta = float(dropout_contraction(probability=delta, width=width))
    channel, _ = as_channel(SIGNS[width], lambda x, m: m * x, width, delta)
    assert 0.5 * eta < worst_ratio(channel) <= eta + 1e-6
    copies = channel[[0, -1]]  # of one bit: the bound is attained, by every pair of distributions
    p, q = np.array([0.9, 0.1]), np.array([0.3, 0.7])
    np.testing.assert_allclose(kl(p @ copies, q @ copies), eta * kl(p, q), rtol=1e-6)
    np.testing.assert_allclose(dobrushin_coefficient(channel), eta, rtol=1e-6)


@pytest.mark.parametrize("d_in, d_out, delta", [(2, 1, 0.4), (2, 2, 0.6), (1, 2, 0.3)])
def test_dropconnect_by_enumeration(d_in, d_out, delta):
    """Generic weights, then a tanh, which can only lose."""
    weights = RNG.normal(size=(d_out, d_in))
    eta = float(dropconnect_contraction(probability=delta, num_inputs=d_in, num_outputs=d_out))

    def layer(x, mask):
        return np.tanh((weights * mask.reshape(d_out, d_in)) @ x)

    channel, _ = as_channel(SIGNS[d_in], layer, d_in * d_out, delta)
    assert worst_ratio(channel) <= eta + 1e-6
    np.testing.assert_allclose(dobrushin_coefficient(channel), eta, rtol=1e-6)  # opposite inputs share only the 0
    opposite, p, q = channel[[0, -1]], np.array([0.8, 0.2]), np.array([0.5, 0.5])
    np.testing.assert_allclose(kl(p @ opposite, q @ opposite), eta * kl(p, q), rtol=1e-6)


def test_layers_in_a_row_multiply():
    one, outputs = as_channel(SIGNS[2], lambda x, m: m * x, 2, 0.5)
    two, _ = as_channel(outputs, lambda x, m: m * x, 2, 0.5)
    assert worst_ratio(one @ two) <= float(dropout_contraction(probability=0.5, width=2)) ** 2 + 1e-6


@pytest.mark.parametrize("radius, scale", [(2.0, 2.0), (0.3, 1.0), (3.0, 1.0)])
def test_the_gaussian_layer_by_quadrature(radius, scale):
    eta = float(gaussian_contraction(radius=radius, scale=scale))
    np.testing.assert_allclose(eta, 1 - 2 * norm.sf(radius / scale), rtol=1e-6)
    grid = np.linspace(-radius - 9 * scale, radius + 9 * scale, 4001)
    cells = norm.pdf(grid, np.linspace(-radius, radius, 5)[:, None], scale) * (grid[1] - grid[0])
    np.testing.assert_allclose(cells.sum(1), 1.0, atol=1e-9)
    np.testing.assert_allclose(dobrushin_coefficient(cells), eta, rtol=1e-4)
    assert 0.0 < worst_ratio(cells, 150) <= eta


def test_limits_gradients_and_dtypes(x64):
    assert float(dropout_contraction(probability=0.0, width=4)) == 1.0
    assert float(dropout_contraction(probability=1.0, width=4)) == 0.0
    assert float(gaussian_contraction(radius=0.0, scale=1.0)) == 0.0
    assert float(gaussian_contraction(radius=1.0, scale=0.0)) == 1.0
    assert float(dobrushin_coefficient(np.eye(3))) == 1.0 and float(dobrushin_coefficient(np.ones((2, 1)))) == 0.0

    def total(v):
        return (
            dropout_contraction(probability=v[0], width=3)
            + dropconnect_contraction(probability=v[1], num_inputs=2, num_outputs=3)
            + gaussian_contraction(radius=v[2], scale=v[3])
        )

    point, eye = jnp.array([0.3, 0.8, 1.2, 0.9]), 1e-6 * np.eye(4)
    differences = [(total(point + h) - total(point - h)) / 2e-6 for h in eye]
    np.testing.assert_allclose(jax.jit(jax.grad(total))(point), differences, rtol=1e-7)
    assert dropout_contraction(probability=jnp.bfloat16(0.5), width=2).dtype == jnp.float32
    assert jax.vmap(lambda s: gaussian_contraction(radius=1.0, scale=s))(jnp.ones(3)).shape == (3,)
    assert np.isnan(dobrushin_coefficient([[np.nan, 0.5], [0.5, 0.5]]))


BAD = [
    (dropout_contraction, {"probability": 1.5, "width": 2}, r"probability is 1.5; expected a number in \[0.0, 1.0\]"),
    (dropout_contraction, {"probability": np.ones(2), "width": 2}, r"probability has shape \(2,\)"),
    (dropout_contraction, {"probability": 0.5, "width": 0}, "width is 0"),
    (dropout_contraction, {"probability": 0.5, "width": 2.0}, "width is 2.0"),
    (dropconnect_contraction, {"probability": "a", "num_inputs": 1, "num_outputs": 1}, "probability is 'a'"),
    (dropconnect_contraction, {"probability": 0.5, "num_inputs": 0, "num_outputs": 1}, "num_inputs is 0"),
    (dropconnect_contraction, {"probability": 0.5, "num_inputs": 1, "num_outputs": True}, "num_outputs is True"),
    (gaussian_contraction, {"radius": -1.0, "scale": 1.0}, "radius is -1.0"),
    (gaussian_contraction, {"radius": 1.0, "scale": np.array(1)}, "scale has dtype int"),
    (dobrushin_coefficient, {"channel": np.ones(3)}, r"channel has shape \(3,\)"),
]


@pytest.mark.parametrize("function, given, match", BAD, ids=range(len(BAD)))
def test_bad_arguments(function, given, match):
    with pytest.raises(ValueError, match=f"{function.__name__}: {match}"):
        function(**given)

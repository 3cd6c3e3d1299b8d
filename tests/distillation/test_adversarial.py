"""The discriminator's losses: values, minimiser, penalties, and what the generator's loss is a divergence of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.distillation import (
    approximate_r1_penalty,
    discriminator_accuracy,
    discriminator_loss,
    generator_loss,
    r1_penalty,
)
from tests.distillation.fixtures import ONE, TWO, divergence_gradient, law, loss_gradient, scores_fn

LOGITS = np.array([-30.0, -2.0, 0.0, 0.5, 30.0])


def test_values_are_cross_entropies():
    real, fake = LOGITS, LOGITS[::-1].copy()
    wanted = np.log1p(np.exp(-real)) + np.log1p(np.exp(fake))
    np.testing.assert_allclose(discriminator_loss(jnp.array(real), jnp.array(fake)), wanted, rtol=1e-6)
    np.testing.assert_allclose(generator_loss(jnp.array(fake)), np.log1p(np.exp(-fake)), rtol=1e-6)


@pytest.mark.parametrize("size", [1e3, 1e30])
def test_extreme_logits_stay_finite(size):
    real, fake = jnp.array([size, -size]), jnp.array([-size, size])
    np.testing.assert_allclose(discriminator_loss(real, fake), [0.0, 2 * size], rtol=1e-6)
    slope = jax.grad(lambda x: jnp.sum(discriminator_loss(x, -x)))(real)
    np.testing.assert_allclose(slope, [0.0, -2.0])


def test_the_expected_loss_is_least_at_the_log_ratio():
    """q softplus(-l) + p softplus(l) is convex in l with its minimum where l = log q/p."""
    q, p = jnp.array([0.2, 0.5, 0.3]), jnp.array([0.6, 0.1, 0.3])

    def expected(logits):
        zero = jnp.zeros(3)
        both = discriminator_loss(logits, zero) - jnp.log(2.0), discriminator_loss(zero, logits) - jnp.log(2.0)
        return jnp.sum(q * both[0] + p * both[1])

    best = jnp.log(q / p)
    np.testing.assert_allclose(jax.grad(expected)(best), 0, atol=1e-7)
    assert float(expected(best)) < min(float(expected(best + 0.1)), float(expected(best - 0.1)))


@pytest.mark.parametrize(("problem", "dim"), [(ONE, 1), (TWO, 2)])
def test_the_generators_gradient_is_that_of_softened_reverse_kl(problem, dim, x64):
    """With the exact logit, E_p[softplus(-l)] has the gradient of softened_reverse_kl: its weight is sigmoid(-l)."""
    scores = scores_fn(problem.teacher, law(problem.student))

    def loss_fn(x0, noise, sigma):
        return generator_loss(scores(x0 + sigma[:, None] * noise, sigma).log_ratio)

    found = loss_gradient(loss_fn, problem)
    np.testing.assert_allclose(found, divergence_gradient("softened_reverse_kl", dim), atol=1e-7)
    if dim == 1:
        np.testing.assert_allclose(found, (0.02073129, -0.14024723), atol=1e-8)


def test_accuracy():
    assert float(discriminator_accuracy(jnp.ones(4), -jnp.ones(4))) == 1.0
    assert float(discriminator_accuracy(-jnp.ones(4), jnp.ones(4))) == 0.0
    assert float(discriminator_accuracy(jnp.ones(4), jnp.ones(4))) == 0.5


def _logit(x):
    return jnp.sum(jnp.sin(x[..., 0]) * x[..., 1] ** 2, axis=1)


def _slopes(x):
    return np.stack([np.cos(x[..., 0]) * x[..., 1] ** 2, 2 * np.sin(x[..., 0]) * x[..., 1]], axis=-1)


X = np.random.default_rng(0).normal(size=(3, 4, 2))


def test_r1_is_the_squared_input_gradient():
    np.testing.assert_allclose(r1_penalty(_logit, jnp.array(X)), np.sum(_slopes(X) ** 2, axis=(1, 2)), rtol=1e-5)


def test_r1_is_differentiable_in_the_discriminator():
    slope = jax.grad(lambda c: jnp.sum(r1_penalty(lambda x: c * x.sum(axis=1), jnp.zeros((5, 3)))))(2.0)
    assert float(slope) == pytest.approx(5 * 3 * 2 * 2.0)


def test_approximate_r1_is_a_squared_directional_derivative(x64):
    """At a small scale it is (n . grad l)^2, whose mean over n is R1."""
    move = np.random.default_rng(1).normal(size=X.shape)
    found = approximate_r1_penalty(_logit, jnp.array(X), jnp.array(move), scale=1e-6)
    np.testing.assert_allclose(found, np.sum(_slopes(X) * move, axis=(1, 2)) ** 2, rtol=1e-4)
    axes = np.eye(8).reshape(8, 4, 2)
    total = sum(approximate_r1_penalty(_logit, jnp.array(X), jnp.array([n] * 3), scale=1e-6) for n in axes)
    np.testing.assert_allclose(total, r1_penalty(_logit, jnp.array(X)), rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: discriminator_loss(jnp.zeros(3), jnp.zeros((3, 1))), "discriminator_loss: fake_logits"),
        (lambda: approximate_r1_penalty(_logit, jnp.zeros((1, 4, 2)), jnp.zeros((1, 4)), scale=0.1), "approx.*: move"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=rf"^{message}.*expected"):
        call()

"""Critics: every score is the network at one pair, whatever the batch around it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.information import bilinear_critic, concatenated_critic, separable_critic


def layers(params, x):
    for weight, offset in params[:-1]:
        x = np.maximum(x @ np.asarray(weight) + np.asarray(offset), 0.0)
    return x @ np.asarray(params[-1][0]) + np.asarray(params[-1][1])


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(0)
    return rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=(4, 2)).astype(np.float32)


def shifted(params):
    """Offsets start at 0, which would hide a mistake with them."""
    return jax.tree.map(lambda p: p + 0.1, params)


def test_separable_is_the_product_of_two_networks(batches):
    x, y = batches
    critic = separable_critic(widths=(7, 6), num_features=9)
    params = shifted(critic.init(jax.random.key(0), 3, 2))
    assert [w.shape for w, _ in params["x"]] == [(3, 7), (7, 6), (6, 9)]
    assert [w.shape for w, _ in params["y"]] == [(2, 7), (7, 6), (6, 9)]
    expected = layers(params["x"], x) @ layers(params["y"], y).T / 3.0
    np.testing.assert_allclose(critic.apply(params, x, y), expected, rtol=2e-5, atol=1e-5)
    assert np.abs(np.asarray(params["x"][0][0])).max() != np.abs(np.asarray(params["y"][0][0])).max()


def test_concatenated_is_one_network_of_each_pair(batches):
    x, y = batches
    critic = concatenated_critic(widths=(7, 6))
    params = shifted(critic.init(jax.random.key(0), 3, 2))
    scores = critic.apply(params, x, y)
    assert scores.shape == (5, 4)
    for i in range(5):
        for j in range(4):
            expected = layers(params, np.concatenate([x[i], y[j]])[None])
            np.testing.assert_allclose(scores[i, j], expected[0, 0], rtol=2e-5, atol=1e-5)


def test_bilinear(batches):
    x, y = batches
    params = jnp.arange(6.0).reshape(3, 2)
    np.testing.assert_allclose(bilinear_critic().apply(params, x, y), x @ np.arange(6).reshape(3, 2) @ y.T, rtol=1e-5)
    assert bilinear_critic().init(jax.random.key(0), 3, 2).shape == (3, 2)


def test_equal_arguments_make_the_same_object_and_float32():
    assert separable_critic() is separable_critic(widths=[128, 128])
    assert concatenated_critic(widths=(3,)) is concatenated_critic(widths=[3])
    assert concatenated_critic(widths=(3,)) is not concatenated_critic(widths=(4,))
    params = separable_critic(widths=()).init(jax.random.key(0), 3, 2)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("make", [bilinear_critic, separable_critic, concatenated_critic])
def test_scores_start_at_independence_and_move(make, batches):
    x, y = batches
    critic = make()
    params = critic.init(jax.random.key(0), 3, 2)
    np.testing.assert_array_equal(critic.apply(params, x, y), np.zeros((5, 4)))
    slope = jax.grad(lambda p: jnp.sum(critic.apply(p, x, y)[0, 0]))(params)
    assert max(float(jnp.max(jnp.abs(leaf))) for leaf in jax.tree.leaves(slope)) > 0.0


def test_weights_keep_the_size_of_signals():
    (weight, _), *_ = concatenated_critic(widths=(500,)).init(jax.random.key(0), 150, 50)
    assert float(jnp.std(weight)) == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize("make", [separable_critic, concatenated_critic])
@pytest.mark.parametrize("widths", [(0,), (1.5,), "12", 8, None, (True,)])
def test_wrong_widths_are_refused(make, widths):
    with pytest.raises(ValueError, match=f"{make.__name__}: widths is"):
        make(widths=widths)


def test_other_wrong_settings_are_refused():
    with pytest.raises(ValueError, match="separable_critic: num_features is 0"):
        separable_critic(num_features=0)
    with pytest.raises(ValueError, match="concatenated_critic: widths is ()"):
        concatenated_critic(widths=())

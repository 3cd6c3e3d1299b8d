import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiv.networks import MLPConfig, MLPDenoiser, functional

CONFIG = MLPConfig(image_size=3, channels=2, width=16, hidden=24, num_blocks=3, embedding_dim=8, dropout=0.5)


@pytest.fixture(scope="module")
def network():
    """A network with labels whose output is not near zero."""
    apply_fn, params = functional(MLPDenoiser(dataclasses.replace(CONFIG, label_dim=4), rngs=nnx.Rngs(0)))
    params["outputs"]["kernel"] = params["outputs"]["kernel"] * 1e5
    x = jax.random.normal(jax.random.key(1), (5, 3, 3, 2))
    return jax.jit(apply_fn, static_argnames="with_features"), params, x, jnp.linspace(-1.5, 1.1, 5)


def test_default_size_is_the_digits_network():
    model = nnx.eval_shape(lambda: MLPDenoiser(MLPConfig(), rngs=nnx.Rngs(0)))
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model))) == 839_936


def test_output_is_near_zero_at_first():
    apply_fn, params = functional(MLPDenoiser(CONFIG, rngs=nnx.Rngs(0)))
    out = apply_fn(params, jnp.ones((2, 3, 3, 2)), jnp.zeros(2))
    assert out.shape == (2, 3, 3, 2)
    assert 0 < np.abs(out).max() < 1e-3


def test_features_are_the_hidden_states(network):
    apply_fn, params, x, c_noise = network
    out, features = apply_fn(params, x, c_noise, with_features=True)
    np.testing.assert_allclose(out, apply_fn(params, x, c_noise), atol=1e-5)
    assert [f.shape for f in features] == [(5, 16)] * 3
    assert not np.allclose(features[0], features[1])


def test_output_depends_on_noise_level_and_not_on_other_examples(network):
    apply_fn, params, x, c_noise = network
    out = apply_fn(params, x, c_noise)
    assert np.abs(out - apply_fn(params, x, c_noise + 0.3)).max() > 1e-3
    changed = apply_fn(params, x.at[1:].add(1.0), c_noise)
    np.testing.assert_allclose(changed[0], out[0], atol=1e-5)


def test_labels(network):
    apply_fn, params, x, c_noise = network
    labels = jnp.array([0, 1, 2, 3, 0])
    by_number = apply_fn(params, x, c_noise, labels)
    np.testing.assert_allclose(by_number, apply_fn(params, x, c_noise, jax.nn.one_hot(labels, 4)), atol=1e-6)
    unlabelled = apply_fn(params, x, c_noise)
    np.testing.assert_allclose(unlabelled, apply_fn(params, x, c_noise, jnp.zeros((5, 4))), atol=1e-6)
    assert np.abs(by_number - unlabelled).max() > 1e-3


def test_dropout_follows_the_key(network):
    apply_fn, params, x, c_noise = network
    first, again, other = (apply_fn(params, x, c_noise, key=jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert np.abs(first - apply_fn(params, x, c_noise)).max() > 1e-3


def test_half_precision_input_is_computed_in_float32(network):
    apply_fn, params, x, c_noise = network
    assert apply_fn(params, x.astype(jnp.bfloat16), c_noise).dtype == jnp.float32


@pytest.mark.parametrize(
    "x_shape, noise_shape, message",
    [((2, 3, 3, 1), (2,), "MLPDenoiser: x"), ((2, 3, 3, 2), (1,), "MLPDenoiser: c_noise"), ((3, 3, 2), (3,), "x")],
)
def test_wrong_shapes_are_refused(x_shape, noise_shape, message):
    model = MLPDenoiser(CONFIG, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=message):
        model(jnp.zeros(x_shape), jnp.zeros(noise_shape))


@pytest.mark.parametrize("field, value", [("width", 0), ("num_blocks", 0), ("label_dim", -1), ("dropout", 1.0)])
def test_config_is_checked(field, value):
    with pytest.raises(ValueError, match=f"MLPConfig: {field}"):
        MLPConfig(**{field: value})

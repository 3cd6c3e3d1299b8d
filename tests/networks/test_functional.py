import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdiv.networks import MLPConfig, MLPDenoiser, functional

CONFIG = MLPConfig(image_size=2, width=8, hidden=8, num_blocks=1, embedding_dim=4)


def test_equal_modules_give_one_static_argument():
    apply_a, params_a = functional(MLPDenoiser(CONFIG, rngs=nnx.Rngs(0)))
    apply_b, params_b = functional(MLPDenoiser(CONFIG, rngs=nnx.Rngs(1)))
    wider, _ = functional(MLPDenoiser(MLPConfig(image_size=2, width=12, num_blocks=1), rngs=nnx.Rngs(0)))
    assert apply_a == apply_b and hash(apply_a) == hash(apply_b) and apply_a != wider
    traces = []

    def forward(apply_fn, params, x, c_noise):
        traces.append(apply_fn)
        return apply_fn(params, x, c_noise)

    forward = jax.jit(forward, static_argnums=0)
    x, c_noise = jnp.ones((1, 2, 2, 1)), jnp.zeros(1)
    first = forward(apply_a, params_a, x, c_noise)
    second = forward(apply_b, params_b, x, c_noise)
    assert len(traces) == 1
    assert not np.array_equal(first, second)


def test_params_are_nested_dicts_of_arrays_that_the_module_does_not_share():
    model = MLPDenoiser(CONFIG, rngs=nnx.Rngs(0))
    apply_fn, params = functional(model)
    assert type(params) is dict and type(params["blocks"]["block0"]) is dict
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
    x, c_noise = jnp.ones((1, 2, 2, 1)), jnp.zeros(1)
    np.testing.assert_array_equal(apply_fn(params, x, c_noise), model(x, c_noise))
    zeros = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_array_equal(apply_fn(zeros, x, c_noise), 0.0)
    assert np.abs(model(x, c_noise)).max() > 0


def test_gradient_has_the_structure_of_params():
    apply_fn, params = functional(MLPDenoiser(CONFIG, rngs=nnx.Rngs(0)))
    gradient = jax.grad(lambda p: apply_fn(p, jnp.ones((1, 2, 2, 1)), jnp.zeros(1)).sum())(params)
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    np.testing.assert_allclose(gradient["outputs"]["bias"], 1.0)

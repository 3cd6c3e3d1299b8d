import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiv.networks import UNet, UNetConfig, functional, small_8x8
from jaxdiv.networks.unet_blocks import UNetBlock

CONFIG = UNetConfig(
    image_size=4,
    channels=2,
    model_channels=8,
    channel_mult=(1, 2),
    num_blocks=1,
    attn_resolutions=(4,),
    dropout=0.5,
    label_dim=3,
    augment_dim=2,
    channel_mult_emb=2,
)
X = jax.random.normal(jax.random.key(1), (3, 4, 4, 2))
C_NOISE = jnp.array([-1.5, 0.0, 1.1])


@pytest.fixture(scope="module")
def fresh():
    """The function and its parameters at first."""
    return functional(UNet(CONFIG, rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def params(fresh):
    """Parameters with no layer near zero."""

    def enlarge(path, leaf):
        names = [entry.key for entry in path]
        quiet = names[-1] == "kernel" and (names[-2] in ("conv1", "proj") or "aux" in names[-2])
        return leaf * 1e5 if quiet else leaf

    return jax.tree_util.tree_map_with_path(enlarge, fresh[1])


@pytest.fixture(scope="module")
def apply_fn(fresh):
    return jax.jit(fresh[0], static_argnames="with_features")


@pytest.fixture(scope="module")
def out(apply_fn, params):
    return apply_fn(params, X, C_NOISE)


def test_output_is_near_zero_at_first(fresh, apply_fn):
    out = apply_fn(fresh[1], X, C_NOISE)
    assert out.shape == X.shape and out.dtype == jnp.float32
    assert 0 < np.abs(out).max() < 1e-3


def test_features_come_with_the_same_output(apply_fn, params, out):
    again, features = apply_fn(params, X, C_NOISE, with_features=True)
    np.testing.assert_allclose(again, out, atol=1e-5)
    assert [f.shape for f in features] == [(3, 4, 4, 8), (3, 2, 2, 16), (3, 2, 2, 16)]


def test_features_need_the_encoder_and_the_bottleneck_alone(apply_fn, params):
    def total(params):
        _, features = apply_fn(params, X, C_NOISE, with_features=True)
        return sum(jnp.sum(f**2) for f in features)

    gradient = jax.jit(jax.grad(total))(params)
    used = {name: any(np.any(leaf) for leaf in jax.tree.leaves(block)) for name, block in gradient["dec"].items()}
    assert [name for name, is_used in used.items() if is_used] == ["2x2_in0"]
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient["enc"]["2x2_block0"]["conv1"]))


def test_small_network_has_one_map_per_resolution_and_the_bottleneck():
    config = small_8x8()
    apply_fn, params = functional(nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0))))
    shapes = jax.eval_shape(lambda p: apply_fn(p, jnp.zeros((2, 8, 8, 1)), jnp.zeros(2), with_features=True), params)
    assert [f.shape for f in shapes[1]] == [(2, 8, 8, 32), (2, 4, 4, 64), (2, 4, 4, 64)]


def test_examples_do_not_mix(apply_fn, params, out):
    changed = apply_fn(params, X.at[1:].add(1.0), C_NOISE.at[1:].add(0.1))
    np.testing.assert_allclose(changed[0], out[0], atol=1e-5)
    assert np.abs(changed[1:] - out[1:]).max() > 1e-3


def test_labels(apply_fn, params, out):
    labels = jnp.array([2, 0, 1])
    by_number = apply_fn(params, X, C_NOISE, labels)
    np.testing.assert_allclose(by_number, apply_fn(params, X, C_NOISE, jax.nn.one_hot(labels, 3)), atol=1e-5)
    np.testing.assert_allclose(out, apply_fn(params, X, C_NOISE, jnp.zeros((3, 3))), atol=1e-5)
    assert np.abs(by_number - out).max() > 1e-3


def test_augment_labels(apply_fn, params, out):
    augmented = apply_fn(params, X, C_NOISE, augment_labels=jnp.ones((3, 2)))
    assert np.abs(augmented - out).max() > 1e-3
    np.testing.assert_allclose(out, apply_fn(params, X, C_NOISE, augment_labels=jnp.zeros((3, 2))), atol=1e-5)


def test_dropout_follows_the_key(apply_fn, params, out):
    first, again, other = (apply_fn(params, X, C_NOISE, key=jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    assert np.abs(first - out).max() > 1e-3


def test_every_block_drops_by_a_key_of_its_own():
    """Blocks of encoder and decoder share their names."""
    seen = []

    def note(self, h, embedding, *, key):
        seen.append(key)
        return call(self, h, embedding, key=key)

    call = UNetBlock.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(UNetBlock, "__call__", note)
        net = UNet(CONFIG, rngs=nnx.Rngs(0))
        net(X, C_NOISE, key=jax.random.key(0))
    assert len({tuple(jax.random.key_data(key).tolist()) for key in seen}) == len(seen) > 4


def test_bfloat16_is_close_to_float32(params, out):
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    apply_fn, _ = functional(nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0))))
    half, features = jax.jit(lambda p: apply_fn(p, X, C_NOISE, with_features=True))(params)
    assert half.dtype == jnp.float32 and features[0].dtype == jnp.bfloat16
    error = np.sqrt(np.mean((half - out) ** 2) / np.mean(out**2))
    assert 0 < error < 0.03


@pytest.mark.slow
def test_gradients_equal_finite_differences(params, x64):
    config = dataclasses.replace(CONFIG, dtype="float64")
    apply_fn, _ = functional(nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0))))
    inputs = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), (params, X, C_NOISE))
    loss = jax.jit(lambda inputs: jnp.sum(jnp.sin(apply_fn(*inputs))))
    gradient = jax.jit(jax.grad(loss))(inputs)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    step = 1e-6
    rng = np.random.default_rng(0)
    direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), inputs)
    for i in range(3):  # parameters, image, noise level
        part = tuple(jax.tree.map(lambda d, keep=(i == j): d * keep, direction[j]) for j in range(3))
        up, down = (loss(jax.tree.map(lambda a, d, s=sign: a + s * step * d, inputs, part)) for sign in (1, -1))
        products = jax.tree.map(lambda g, d: jnp.sum(g * d), gradient[i], part[i])
        np.testing.assert_allclose(sum(jax.tree.leaves(products)), (up - down) / (2 * step), rtol=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"x": jnp.zeros((3, 4, 4, 1))}, "UNet: x has shape"),
        ({"c_noise": jnp.zeros((3, 1))}, "UNet: c_noise has shape"),
        ({"labels": jnp.zeros(2, int)}, "UNet: labels has shape"),
        ({"augment_labels": jnp.zeros((3, 3))}, "UNet: augment_labels has shape"),
    ],
)
def test_wrong_inputs_are_refused(arguments, message, apply_fn, params):
    with pytest.raises(ValueError, match=message):
        apply_fn(params, **({"x": X, "c_noise": C_NOISE} | arguments))


@pytest.mark.parametrize("name", ["labels", "augment_labels"])
def test_conditions_that_the_network_lacks_are_refused(name):
    config = dataclasses.replace(CONFIG, label_dim=0, augment_dim=0)
    model = nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=f"UNet: {name} were given"):
        model(X, C_NOISE, **{name: jnp.zeros((3, 2))})

"""FID's network against a numpy oracle that knows neither the table nor folded norms; pixels against closed forms."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.metrics import (
    convert_inception_state_dict,
    inception_features,
    inception_input,
    load_inception,
    resize_tf1,
    to_uint8,
)
from jaxdiv.metrics.folded_conv import FoldedConv
from jaxdiv.metrics.inception import BLOCKS, apply_block
from jaxdiv.metrics.inception_weights import PINNED_SHA256, InceptionWeights, conv_shapes
from tests.metrics import inception_oracle as oracle
from tests.networks.torch_writer import Saved, write_pth

FIRST_OF_KIND = [("A", "5b"), ("A", "5d"), ("B", "6a"), ("C", "6b"), ("C", "6e"), ("D", "7a"), ("E", "7b"), ("E", "7c")]


@pytest.fixture(scope="module")
def state():
    """Random weights of the full size, as a state_dict."""
    return oracle.random_network(conv_shapes(), seed=0)


def folded(state, dtype=jnp.float64):
    """Our parameters by an independent fold: the norm's output at the kernel and at zero."""
    params = {}
    for name in {key.rsplit(".", 2)[0] for key in state}:
        kernel = np.asarray(state[f"{name}.conv.weight"], np.float64)
        gamma, beta, mean, var = (state[f"{name}.bn.{p}"] for p in ("weight", "bias", "running_mean", "running_var"))
        deviation = np.sqrt(var + 0.001)
        kernel = np.moveaxis(kernel, (0, 1), (3, 2)) / deviation * gamma
        params[name] = FoldedConv(jnp.asarray(kernel, dtype), jnp.asarray(beta - gamma * mean / deviation, dtype))
    return params


@pytest.mark.parametrize("kind, name", FIRST_OF_KIND)
def test_each_block_equals_the_oracle(kind, name, x64):
    state = oracle.random_block(kind, num_in=3, seed=ord(kind))
    x = np.random.default_rng(1).normal(size=(2, 3, 5, 8))
    last = np.max if name == "7c" else np.mean
    expected = oracle.mixed(kind, state, "block.", x, last_pool=last).transpose(0, 2, 3, 1)
    actual = apply_block(folded(state), "block.", BLOCKS[f"Mixed_{name}."], jnp.asarray(x.transpose(0, 2, 3, 1)))
    assert (expected > 0).any((0, 1, 2)).mean() > 0.6  # most channels do something
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-13)


def test_the_last_pools_differ(x64):
    state, x = oracle.random_block("E", 3, seed=0), jnp.asarray(np.random.default_rng(1).normal(size=(1, 4, 4, 3)))
    mean, maximum = (apply_block(folded(state), "block.", BLOCKS[f"Mixed_{name}."], x) for name in ("7b", "7c"))
    width = state["block.branch_pool.conv.weight"].shape[0]
    np.testing.assert_array_equal(mean[..., :-width], maximum[..., :-width])
    assert np.abs(mean[..., -width:] - maximum[..., -width:]).max() > 0.1


def test_stem_equals_the_oracle(x64):
    rng = np.random.default_rng(2)
    shapes = {"Conv2d_1a_3x3": (3, 3), "Conv2d_2a_3x3": (2, 3), "Conv2d_2b_3x3": (4, 2)}
    state = {}
    for name, (num_out, num_in) in (shapes | {"Conv2d_3b_1x1": (3, 4), "Conv2d_4a_3x3": (5, 3)}).items():
        size = 1 if "1x1" in name else 3
        layer = oracle.random_layer(rng, num_in, num_out, size, size)
        state |= {f"{name}.{part}": value for part, value in layer.items()}
    x = rng.normal(size=(2, 3, 43, 38))
    expected = oracle.stem(state, x).transpose(0, 2, 3, 1)
    actual = apply_block(folded(state), "", BLOCKS[""], jnp.asarray(x.transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 5), (4, 5)])
def test_a_mean_pool_does_not_count_the_outside(shape):
    """Constant images stay constant up to the edge."""
    identity = {f"p.{name}": FoldedConv(jnp.ones((*size, 1, 1)), jnp.zeros(1)) for name, size in _sizes("5b").items()}
    out = apply_block(identity, "p.", BLOCKS["Mixed_5b."], jnp.full((1, *shape, 1), 3.0))
    np.testing.assert_allclose(out[..., -1], 3.0, rtol=1e-6)


def _sizes(block):
    start = f"Mixed_{block}."
    return {name.removeprefix(start): shape[2:] for name, shape in conv_shapes().items() if name.startswith(start)}


def test_the_table_is_the_published_network():
    shapes = conv_shapes()
    assert len(shapes) == 94
    # 21.8 million in convolutions and norms, as torchvision counts the network without its classifiers.
    assert sum(np.prod(shape) + 2 * shape[0] for shape in shapes.values()) == 21_785_568
    known = {
        "Conv2d_4a_3x3": (192, 80, 3, 3),
        "Mixed_5b.branch5x5_2": (64, 48, 5, 5),
        "Mixed_5d.branch_pool": (64, 288, 1, 1),
        "Mixed_6c.branch7x7dbl_4": (160, 160, 7, 1),
        "Mixed_6e.branch7x7_3": (192, 192, 7, 1),
        "Mixed_7a.branch7x7x3_2": (192, 192, 1, 7),
        "Mixed_7c.branch3x3dbl_1": (448, 2048, 1, 1),
        "Mixed_7c.branch3x3_2b": (384, 384, 3, 1),
    }
    assert {name: shapes[name] for name in known} == known


def test_whole_network_equals_the_oracle(state):
    """Once, at the smallest image: every block in its place, float32."""
    x = np.random.default_rng(3).normal(size=(1, 3, 75, 75)).astype(np.float32)
    expected = oracle.features({name: value.astype(np.float64) for name, value in state.items()}, x)
    params = convert_inception_state_dict(state)
    actual = jax.jit(inception_features)(params, x.transpose(0, 2, 3, 1))
    assert actual.shape == (1, 2048) and actual.dtype == jnp.float32
    assert expected.std() > 0.3
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_dtype_is_that_of_the_parameters(state, x64):
    params = convert_inception_state_dict(state, dtype=jnp.float64)
    out = jax.eval_shape(inception_features, params, jnp.zeros((2, 299, 299, 3), jnp.float32))
    assert out.shape == (2, 2048) and out.dtype == jnp.float64


@pytest.mark.parametrize(
    "shape, message", [((1, 299, 299), "shape"), ((1, 299, 299, 1), "shape"), ((1, 74, 99, 3), "75")]
)
def test_images_that_do_not_fit(state, shape, message):
    with pytest.raises(ValueError, match=f"inception_features: images .*{message}"):
        inception_features(convert_inception_state_dict(state), jnp.zeros(shape))
    with pytest.raises(ValueError, match="inception_features: images has dtype uint8"):
        inception_features(convert_inception_state_dict(state), jnp.zeros((1, 299, 299, 3), jnp.uint8))


def test_conversion_folds_the_norm(state):
    params = convert_inception_state_dict(state)
    assert set(params) == set(conv_shapes())
    chosen = "Mixed_6b.branch7x7_2"
    own = folded({name: value for name, value in state.items() if name.startswith(chosen)}, jnp.float32)[chosen]
    assert params[chosen].kernel.dtype == jnp.float32 and params[chosen].kernel.shape == (1, 7, 128, 128)
    np.testing.assert_allclose(params[chosen].kernel, own.kernel, rtol=1e-6)
    np.testing.assert_allclose(params[chosen].bias, own.bias, rtol=1e-6, atol=1e-7)


def test_every_misfit_is_listed(state):
    wrong = dict(state)
    del wrong["Mixed_5b.branch1x1.bn.running_var"]
    wrong["fc.weight"] = np.zeros((1000, 2048), np.float32)
    wrong["AuxLogits.fc.weight"] = np.zeros(3)
    wrong["Mixed_5b.branch1x1.bn.num_batches_tracked"] = np.array(3)
    with pytest.raises(ValueError, match="convert_inception_state_dict: state_dict does not fit") as error:
        convert_inception_state_dict(wrong)
    for part in (
        "missing Mixed_5b.branch1x1.bn.running_var;",
        "unexpected AuxLogits.fc.weight",
        "fc.weight has shape (1000, 2048) instead of (1008, 2048)",
    ):
        assert part in str(error.value)
    assert "num_batches_tracked" not in str(error.value)


def test_loading_takes_the_digest_of_the_file(state, tmp_path):
    path = tmp_path / "inception.pth"
    write_pth(path, state, legacy=True)
    weights = load_inception(path)
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and not weights.pinned
    jax.tree.map(np.testing.assert_array_equal, weights.params, convert_inception_state_dict(state))
    saved = Saved()
    saved.write(path, {"model": saved.tensors(state), "epoch": 3})
    assert weights.params["Mixed_7c.branch1x1"].kernel.shape == (1, 1, 2048, 320)
    assert load_inception(path, key="model").sha256 != weights.sha256


def test_only_the_pinned_digest_is_pinned():
    # The file's name carries the digest's first eight digits.
    assert len(PINNED_SHA256) == 64 and PINNED_SHA256.startswith("6726825d")
    assert InceptionWeights({}, PINNED_SHA256).pinned
    assert not InceptionWeights({}, PINNED_SHA256[:-1] + "3").pinned


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_to_uint8_rounds_and_clips(dtype):
    levels = np.arange(256)
    images = jnp.asarray(levels / 127.5 - 1, "float32")
    if dtype == "float32":
        np.testing.assert_array_equal(to_uint8(images), levels)
        np.testing.assert_array_equal(to_uint8(images + 0.49 / 127.5)[:-1], levels[:-1])
        np.testing.assert_array_equal(to_uint8(images - 0.49 / 127.5)[1:], levels[1:])
    ends = jnp.asarray([-1e4, -1.0, 0.0, 1.0, 1e4, jnp.inf, -jnp.inf], dtype)
    assert to_uint8(ends).tolist() == [0, 0, 128, 255, 255, 255, 0]
    assert to_uint8(ends).dtype == jnp.uint8


def test_to_uint8_leaves_bytes_and_refuses_other_integers():
    pixels = jnp.arange(256, dtype=jnp.uint8)
    np.testing.assert_array_equal(to_uint8(pixels), pixels)
    with pytest.raises(ValueError, match="to_uint8: images has dtype int32"):
        to_uint8(jnp.arange(3))


@pytest.mark.parametrize(
    "shape, size", [((5, 7), (11, 4)), ((3, 3), (3, 3)), ((8, 2), (3, 9)), ((1, 6), (4, 1)), ((4, 4), 7)]
)
def test_resize_equals_the_loop(shape, size, x64):
    image = np.random.default_rng(0).normal(size=(*shape, 2))
    expected = oracle.resize(image, *(size if isinstance(size, tuple) else (size, size)))
    actual = resize_tf1(jnp.asarray(image)[None], size)[0]
    np.testing.assert_allclose(actual, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("length, size", [(32, 299), (299, 299), (600, 299), (10, 4)])
def test_resize_of_a_ramp_in_closed_form(length, size):
    """Pixel i of the output lies at i * in / out, and nothing lies beyond the last input pixel."""
    ramp = jnp.broadcast_to(jnp.arange(length, dtype=jnp.float32), (1, 2, length))[..., None]
    expected = np.minimum(np.arange(size) * length / size, length - 1)
    actual = resize_tf1(ramp, (3, size))[0, :, :, 0]
    np.testing.assert_allclose(actual, np.broadcast_to(expected, (3, size)), rtol=1e-6, atol=1e-6)


def test_resize_is_not_the_one_with_aligned_centres():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 8, 8, 3)), jnp.float32)
    aligned = jax.image.resize(x, (1, 20, 20, 3), "bilinear", antialias=False)
    assert np.abs(resize_tf1(x, 20) - aligned).max() > 0.3


@pytest.mark.parametrize("size", [0, (3, 0), 2.5, (3, 3, 3), True])
def test_resize_refuses_sizes(size):
    with pytest.raises(ValueError, match="resize_tf1: size"):
        resize_tf1(jnp.zeros((1, 4, 4, 3)), size)
    with pytest.raises(ValueError, match="resize_tf1: images"):
        resize_tf1(jnp.zeros((1, 0, 4, 3)), 3)


def test_input_is_eight_bits_then_299_then_scaled():
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (2, 5, 6, 3), dtype=np.uint8)
    enlarged = np.stack([oracle.resize(image.astype(float), 299, 299) for image in pixels])
    np.testing.assert_allclose(inception_input(pixels), (enlarged - 128) / 128, atol=1e-6)
    np.testing.assert_allclose(inception_input(pixels, scaling="symmetric"), 2 * enlarged / 255 - 1, atol=1e-6)
    near = pixels / 127.5 - 1 + rng.uniform(-0.4, 0.4, pixels.shape) / 127.5
    np.testing.assert_array_equal(inception_input(near.astype(np.float32)), inception_input(pixels))


def test_input_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="inception_input: scaling is 'imagenet'"):
        inception_input(jnp.zeros((1, 4, 4, 3)), scaling="imagenet")
    with pytest.raises(ValueError, match="inception_input: images has shape"):
        inception_input(jnp.zeros((1, 4, 4, 1)))

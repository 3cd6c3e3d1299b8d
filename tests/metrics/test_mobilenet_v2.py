import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.metrics import load_mobilenet_v2, mobilenet_v2_features
from jaxdiv.metrics.mobilenet_v2 import Layer, _depthwise, mobilenet_v2_of_arrays
from tests.metrics import network_oracles as oracle
from tests.metrics.real_data import cifar10_test, weights  # noqa: F401


@pytest.fixture(scope="module")
def arrays():
    return oracle.random_mobilenet(np.random.default_rng(0))


@pytest.fixture(scope="module")
def params(arrays):
    return mobilenet_v2_of_arrays(arrays)


def images(count, side=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3)).astype(np.uint8)


@pytest.mark.parametrize("side", [32, 45])
def test_agrees_with_a_numpy_network(arrays, params, side):
    found = jax.jit(mobilenet_v2_features)(params, images(2, side))
    for mine, theirs in zip(found, oracle.mobilenet(arrays, images(2, side)), strict=True):
        assert mine.dtype == jnp.float32
        np.testing.assert_allclose(mine, theirs, rtol=2e-5, atol=2e-5)


def test_every_block_matters(arrays, params):
    """No layer is skipped or fed twice: a change of any kernel moves the features."""
    apply = jax.jit(mobilenet_v2_features)
    before = apply(params, images(1))[1]
    for name in arrays:
        if name.endswith("kernel"):
            changed = mobilenet_v2_of_arrays(arrays | {name: arrays[name] * 1.3})
            assert jnp.abs(apply(changed, images(1))[1] - before).max() > 1e-5, name


@pytest.mark.parametrize(("side", "stride"), [(8, 1), (8, 2), (7, 1), (7, 2)])
def test_depthwise_is_the_grouped_convolution(side, stride):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, side, side, 5)), jnp.float32)
    layer = Layer(jnp.asarray(rng.normal(size=(3, 3, 5)), jnp.float32), jnp.asarray(rng.normal(size=5), jnp.float32))
    expected = jax.lax.conv_general_dilated(
        x,
        layer.kernel[:, :, None],
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=5,
        precision="highest",
    )
    np.testing.assert_allclose(_depthwise(x, layer, stride), expected + layer.bias, rtol=1e-5, atol=1e-5)


def test_float_pixels_are_the_same_pixels(params):
    apply = jax.jit(mobilenet_v2_features)
    found = [apply(params, images(1).astype(dtype))[0] for dtype in (np.uint8, np.float32)]
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_loads_from_disk(tmp_path, arrays, params):
    np.savez(tmp_path / "w.npz", **arrays)
    jax.tree.map(np.testing.assert_array_equal, load_mobilenet_v2(tmp_path / "w.npz"), params)
    with pytest.raises(ValueError, match="no file"):
        load_mobilenet_v2(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"Conv.bias": None}, "path has no Conv.bias"),
        ({"expanded_conv_5.expand.kernel": None}, "path has no expanded_conv_5.expand.kernel"),
        ({"expanded_conv.expand.kernel": np.zeros(1)}, r"path also has \['expanded_conv.expand.kernel'\]"),
        ({"Conv.kernel": np.zeros((3, 3, 1, 4))}, r"Conv.kernel has shape \(3, 3, 1, 4\); expected"),
        ({"expanded_conv.depthwise.bias": np.zeros(3)}, r"expanded_conv.depthwise.bias has shape \(3,\); expected"),
    ],
)
def test_other_weights_are_refused(arrays, change, match):
    changed = {name: value for name, value in (arrays | change).items() if value is not None}
    with pytest.raises(ValueError, match=f"load_mobilenet_v2: {match}"):
        mobilenet_v2_of_arrays(changed)


@pytest.mark.parametrize(("shape", "match"), [((1, 225, 32, 3), "sides from 1 to 224"), ((1, 32, 32, 1), "shape")])
def test_bad_images_are_refused(params, shape, match):
    with pytest.raises(ValueError, match=f"mobilenet_v2_features: images has shape .*{match}"):
        mobilenet_v2_features(params, np.zeros(shape, np.uint8))


def test_real_weights_see_horses(weights, cifar10_test):  # noqa: F811
    """Horses of CIFAR-10 are called sorrels, a word that one of a thousand classes has."""
    params = load_mobilenet_v2(weights("mobilenet_v2_imagenet_dequant.npz"))
    x, y = cifar10_test
    features, logits = jax.jit(mobilenet_v2_features)(params, x[y == 7][:40])
    assert features.shape == (40, 1280) and logits.shape == (40, 1001)
    # The network's class 0 is background.
    assert (logits.argmax(1) == 339 + 1).mean() > 0.2

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.metrics import load_resnet_cifar, resnet_cifar_features
from jaxdiv.metrics.resnet_cifar import fold_resnet_cifar
from tests.metrics import network_oracles as oracle
from tests.metrics.real_data import cifar10_test, weights  # noqa: F401


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)


@pytest.mark.parametrize("blocks", [1, 2])
def test_agrees_with_the_network_before_folding(blocks):
    arrays = oracle.random_resnet(np.random.default_rng(blocks), blocks=blocks)
    params = fold_resnet_cifar(arrays)
    assert params.depth == 6 * blocks + 2
    found = jax.jit(resnet_cifar_features)(params, images(3))
    for mine, theirs in zip(found, oracle.resnet(arrays, images(3), blocks=blocks), strict=True):
        assert mine.dtype == jnp.float32
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


def test_float_pixels_are_the_same_pixels():
    params = fold_resnet_cifar(oracle.random_resnet(np.random.default_rng(0)))
    found = [resnet_cifar_features(params, images(2).astype(dtype))[1] for dtype in (np.uint8, np.float32)]
    np.testing.assert_array_equal(*found)


def test_float32_weights_in_a_float64_session(x64):
    params = fold_resnet_cifar(oracle.random_resnet(np.random.default_rng(0)))
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    assert resnet_cifar_features(params, images(2))[0].dtype == jnp.float32


def test_each_image_is_seen_by_itself():
    params = fold_resnet_cifar(oracle.random_resnet(np.random.default_rng(0)))
    apply = jax.jit(resnet_cifar_features)
    together = apply(params, images(3))[0]
    alone = jnp.concatenate([apply(params, images(3)[i : i + 1])[0] for i in range(3)])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)


def test_differentiable_in_the_pixels():
    params = fold_resnet_cifar(oracle.random_resnet(np.random.default_rng(0)))
    gradient = jax.jit(jax.grad(lambda x: resnet_cifar_features(params, x)[0].sum()))(
        jnp.asarray(images(1), jnp.float32)
    )
    assert jnp.isfinite(gradient).all() and jnp.abs(gradient).max() > 0


def test_loads_from_disk(tmp_path):
    arrays = oracle.random_resnet(np.random.default_rng(0))
    np.savez(tmp_path / "w.npz", **arrays, **{"bn1.num_batches_tracked": np.array(7)})
    loaded, expected = load_resnet_cifar(tmp_path / "w.npz"), fold_resnet_cifar(arrays)
    jax.tree.map(np.testing.assert_array_equal, loaded, expected)
    with pytest.raises(ValueError, match="no file"):
        load_resnet_cifar(tmp_path / "none.npz")


def test_pickles_are_refused(tmp_path):
    np.savez(tmp_path / "w.npz", allow_pickle=True, **{"conv1.weight": np.array([{}], object)})
    with pytest.raises(ValueError, match="allow_pickle"):
        load_resnet_cifar(tmp_path / "w.npz")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda a: a.pop("layer2.0.bn2.running_var"), "path has no layer2.0.bn2.running_var"),
        (lambda a: a.update({"conv1.weight": a["conv1.weight"][:, :2]}), r"conv1.weight has shape \(4, 2, 3, 3\)"),
        (lambda a: a.update({"bn1.bias": np.zeros(5)}), r"bn1.bias has shape \(5,\); expected shape \(4\)"),
        (lambda a: a.update({"linear.bias": np.zeros(3)}), r"linear.bias has shape \(3,\); expected shape \(10\)"),
        (lambda a: a.update({"fc.weight": np.zeros(3)}), r"path also has \['fc.weight'\]"),
        (lambda a: a.pop("layer3.0.conv1.weight"), r"path has \[1, 1, 0\] blocks in its stages"),
    ],
)
def test_other_weights_are_refused(change, match):
    arrays = oracle.random_resnet(np.random.default_rng(0))
    change(arrays)
    with pytest.raises(ValueError, match=f"load_resnet_cifar: {match}"):
        fold_resnet_cifar(arrays)


def test_bad_images_are_refused():
    params = fold_resnet_cifar(oracle.random_resnet(np.random.default_rng(0)))
    with pytest.raises(ValueError, match="resnet_cifar_features: images has dtype int32"):
        resnet_cifar_features(params, np.zeros((1, 32, 32, 3), np.int32))


def top1(path, images, labels):
    params, apply = load_resnet_cifar(path), jax.jit(resnet_cifar_features)
    logits = [apply(params, images[i : i + 100])[1] for i in range(0, len(images), 100)]
    return 100 * float((np.concatenate(logits).argmax(1) == labels).mean())


def test_real_weights_know_real_images(weights, cifar10_test):  # noqa: F811
    x, y = cifar10_test
    assert top1(weights("cifar10_resnet20.npz"), x[:500], y[:500]) > 88


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "expected"), [(20, 91.73), (56, 93.39)])
def test_published_accuracy(weights, cifar10_test, depth, expected):  # noqa: F811
    assert abs(top1(weights(f"cifar10_resnet{depth}.npz"), *cifar10_test) - expected) < 0.015

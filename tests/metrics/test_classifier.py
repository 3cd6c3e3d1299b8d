"""The small classifier: what it computes, that it learns, that it is deterministic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiv.metrics import SmallClassifier, train_classifier


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3), (9, 7, 2)])
def test_shapes_of_features_and_logits(shape):
    model = SmallClassifier(shape, 5, rngs=nnx.Rngs(0))
    features, logits = model(jnp.zeros((3, *shape)))
    assert features.shape == (3, 32) and logits.shape == (3, 5)


def test_the_network_equals_the_convolutional_one_written_with_lax():
    model = SmallClassifier((8, 8, 2), 4, rngs=nnx.Rngs(1))
    model.conv1.bias[...] = jnp.linspace(-1.0, 1.0, 16)  # zero at the start, where a wrong use would not show
    images = jax.random.normal(jax.random.key(0), (3, 8, 8, 2))

    def layer(x, linear):
        kernel = linear.kernel[...].reshape(3, 3, x.shape[-1], -1)
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x = jax.nn.silu(x + linear.bias[...])
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")

    x = layer(layer(images, model.conv1), model.conv2).reshape(3, -1)
    expected = jax.nn.silu(x @ model.hidden.kernel[...] + model.hidden.bias[...])
    features, logits = model(images)
    np.testing.assert_allclose(features, expected, atol=1e-5)
    np.testing.assert_allclose(logits, expected @ model.head.kernel[...] + model.head.bias[...], atol=1e-5)


def test_digits_are_learned(trained):
    assert trained.accuracy >= 0.98
    assert trained.losses.shape == (600,)
    np.testing.assert_allclose(trained.losses[0], np.log(10), rtol=0.2)
    assert trained.losses[-20:].mean() < 0.25  # on noisy images


def test_accuracy_is_that_of_the_returned_functions(trained, digits):
    images, labels = digits[0][1397:], digits[1][1397:]
    logits = trained.logits_fn(trained.params, images)
    np.testing.assert_allclose((np.asarray(logits).argmax(1) == labels).mean(), trained.accuracy, rtol=1e-6)
    features = trained.features_fn(trained.params, images)
    assert features.shape == (400, 32)
    assert features.min() >= -0.2785  # SiLU's minimum
    head = trained.params["head"]
    np.testing.assert_allclose(features @ head["kernel"][...] + head["bias"][...], logits, atol=1e-4)


def short(digits, **changes):
    images, labels = digits
    settings = {
        "images": images[:64],
        "labels": labels[:64],
        "heldout_images": images[64:96],
        "heldout_labels": labels[64:96],
        "num_classes": 10,
        "key": jax.random.key(0),
        "num_steps": 3,
        "batch_size": 8,
    } | changes
    return train_classifier(settings.pop("images"), settings.pop("labels"), **settings)


def test_deterministic_by_key(digits):
    first, again, other = short(digits), short(digits), short(digits, key=jax.random.key(1))
    for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.losses, other.losses)


def test_noise_is_on_the_training_images_only(digits):
    noisy = short(digits, noise_scale=2.0)
    assert noisy.losses[0] != short(digits).losses[0]
    logits = noisy.logits_fn(noisy.params, digits[0][64:96])
    np.testing.assert_allclose((np.asarray(logits).argmax(1) == digits[1][64:96]).mean(), noisy.accuracy, rtol=1e-6)


def test_held_out_images_do_not_enter_training(digits):
    images, labels = digits
    other = short(digits, heldout_images=images[200:240], heldout_labels=labels[200:240])
    np.testing.assert_array_equal(short(digits).losses, other.losses)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"images": np.zeros((64, 8, 8), np.float32)}, r"images has shape \(64, 8, 8\)"),
        ({"images": np.zeros((64, 8, 8, 1), np.uint8)}, "images has dtype uint8"),
        ({"images": np.zeros((64, 2, 8, 1), np.float32)}, r"images has shape \(64, 2, 8, 1\); expected .* 4x4"),
        ({"images": np.full((64, 8, 8, 1), np.nan, np.float32)}, "images holds NaN"),
        ({"labels": np.zeros(63, int)}, r"labels has shape \(63,\)"),
        ({"labels": np.full(64, 10)}, "labels has dtype .* values from 10 to 10; expected integers in"),
        ({"labels": np.zeros(64)}, "labels has dtype float"),
        ({"heldout_labels": np.full(32, -1)}, "heldout_labels has dtype .* from -1 to -1"),
        ({"heldout_images": np.zeros((32, 8, 8, 3), np.float32)}, r"heldout_images has shape \(32, 8, 8, 3\)"),
        ({"num_steps": 0}, "num_steps is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"noise_scale": -1.0}, "noise_scale is -1.0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
    ],
)
def test_errors_name_what_came(digits, changes, message):
    with pytest.raises(ValueError, match="train_classifier: " + message):
        short(digits, **changes)

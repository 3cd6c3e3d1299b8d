"""Networks, training and measures of the information plane, each against something independent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.information_plane.autoencoder import fit_autoencoder
from experiments.information_plane.measure import (
    BITS_ESTIMATORS,
    binned,
    from_neighbors,
    label_entropy,
    make_bits_measure,
    make_digits_measure,
    mixture_information,
    pairwise,
)
from experiments.information_plane.models import BIT_WIDTHS, convolutional, convolve, init_weights, perceptron
from experiments.information_plane.task import icosahedral_task
from experiments.information_plane.training import snapshot_epochs, train_networks
from jaxdiv.information import kolchinsky_tracey_bounds

TASK = icosahedral_task()


def test_weights_have_the_deviation_of_a_cut_normal():
    (layer,) = init_weights(jax.random.key(0), [(400, 300)])
    kernel = np.asarray(layer["kernel"]) * 400**0.5
    assert np.abs(kernel).max() <= 2.0 and kernel.std() == pytest.approx(0.8796, abs=0.005)
    assert not layer["bias"].any()


def test_the_perceptron_is_its_matrices():
    model = perceptron("relu")
    params = model.init_fn(jax.random.key(1))
    x = TASK.patterns[:50]
    logits, layers = model.apply_fn(params, x, jax.random.key(0))
    expected = x
    for layer, found in zip(params[:-1], layers, strict=False):
        expected = np.maximum(expected @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]), 0.0)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert [layer.shape[1] for layer in layers] == list(BIT_WIDTHS)
    odds = np.exp(np.asarray(logits))
    np.testing.assert_allclose(layers[-1], odds / odds.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_convolution_is_that_of_the_compiler(stride):
    x, kernel = (jax.random.normal(jax.random.key(n), shape) for n, shape in enumerate([(2, 8, 8, 3), (3, 3, 3, 5)]))
    expected = jax.lax.conv_general_dilated(
        jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), kernel, (stride, stride), "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    np.testing.assert_allclose(convolve(x, kernel, stride=stride), expected, atol=1e-4)


def test_every_hidden_layer_carries_the_noise():
    model = convolutional("tanh", noise=0.1)
    params = model.init_fn(jax.random.key(0))
    x = jnp.ones((300, 8, 8, 1))  # equal images: what differs is noise
    _, layers = model.apply_fn(params, x, jax.random.key(1))
    assert [layer.shape[1:] for layer in layers] == [(8, 8, 8), (4, 4, 16), (32,)] and len(model.layer_names) == 3
    assert float(jnp.std(layers[0], axis=0).mean()) == pytest.approx(0.1, abs=0.003)
    assert all(float(jnp.std(layer, axis=0).mean()) > 0.1 for layer in layers[1:])  # and that of the layers before
    _, again = model.apply_fn(params, x, jax.random.key(2))
    assert all(bool(jnp.all(a != b)) for a, b in zip(layers, again, strict=True))


def test_snapshots_are_in_equal_ratios():
    assert snapshot_epochs(1000, 4) == [0, 1, 32, 1000]
    assert snapshot_epochs(2, 50) == [0, 1, 2]
    assert snapshot_epochs(1, 3) == [0, 1]


@pytest.fixture(scope="module")
def snapshots():
    settings = {"seeds": (0, 1), "learning_rate": 3e-3, "batch_size": 512}
    model = perceptron("tanh")
    return list(train_networks(model, TASK.patterns, TASK.labels, epochs=[0, 5, 60], **settings))


def test_training_brings_the_loss_down_and_leaves_a_fifth_out(snapshots):
    first, middle, last = snapshots
    assert [snapshot.epoch for snapshot in snapshots] == [0, 5, 60]
    assert (last.loss < 0.5 * first.loss).all() and (middle.loss < first.loss).all()
    assert (last.test_accuracy > 0.8).all() and (last.train_accuracy > 0.85).all()
    assert first.loss[0] != first.loss[1] and first.layers[0].shape == (2, 4096, 10)
    for snapshot in snapshots:  # both parts together are the accuracy on all
        right = np.mean(np.argmax(snapshot.layers[-1], axis=2) == TASK.labels, axis=1)
        parts = (3276 * snapshot.train_accuracy + 820 * snapshot.test_accuracy) / 4096
        np.testing.assert_allclose(parts, right, atol=1e-5)


def test_a_seed_does_not_depend_on_its_neighbours_or_on_the_stops(snapshots):
    settings = {"learning_rate": 3e-3, "batch_size": 512}
    (alone,) = train_networks(perceptron("tanh"), TASK.patterns, TASK.labels, seeds=(1,), epochs=[5], **settings)
    np.testing.assert_allclose(alone.layers[3][0], snapshots[1].layers[3][1], atol=1e-4)


def test_bins_of_distinct_inputs_count_patterns():
    layer = np.array([[-0.9, 0.1], [-0.8, 0.2], [0.9, 0.1], [7.0, 0.1]], np.float32)
    labels = jnp.array([0, 0, 1, 1])
    found = binned(jnp.asarray(layer), labels, jnp.array([-1.0, 0.0, 1.0]))
    np.testing.assert_allclose(found, [1.5 * np.log(2), np.log(2)], rtol=1e-6)  # two together; 7 is above, on its own


def test_pairwise_measures_are_those_with_labels():
    layer = jax.random.normal(jax.random.key(0), (300, 3))
    labels = np.asarray(layer[:, 0] > 0.3).astype(np.int32)
    found = pairwise(layer, [np.flatnonzero(labels == c) for c in (0, 1)], 0.1)
    plain = [float(bound) for bound in kolchinsky_tracey_bounds(layer, variance=0.1)]
    lower, upper = kolchinsky_tracey_bounds(layer, variance=0.1, labels=labels)
    np.testing.assert_allclose(found["kde_lower"], [plain[0], float(lower)], atol=1e-4)
    np.testing.assert_allclose(found["kde_upper"], [plain[1], float(upper)], atol=1e-4)
    np.testing.assert_allclose(found["kde"], [plain[1], float(upper.info["same_bound"])], atol=1e-4)


def test_noisy_information_of_a_line_is_that_of_the_channel():
    """T of N(0, 1) and noise of variance 0.1: half log 11, by neighbours and by Monte Carlo."""
    key, noise_key = jax.random.split(jax.random.key(0))
    layer = jax.random.normal(key, (4000, 1))
    labels = jnp.asarray(np.arange(4000) % 2)  # independent of the layer
    noisy = layer + 0.1**0.5 * jax.random.normal(noise_key, layer.shape)
    truth = 0.5 * np.log(11)
    np.testing.assert_allclose(from_neighbors(noisy, labels, variance=0.1, k=5), [truth, 0.0], atol=0.05)
    np.testing.assert_allclose(mixture_information(layer, labels, variance=0.1, key=key), [truth, 0.0], atol=0.05)


def test_a_layer_of_the_label_alone_has_its_entropy_by_every_estimator():
    """T = +-1 by the label, noise of variance 0.01: I(X; T') and I(T'; Y) are both H(Y)."""
    measure = make_bits_measure(TASK.labels, bins=30, variance=0.01, k=5, widest=4)
    layer = jnp.asarray(2.0 * TASK.labels[:, None] - 1.0, jnp.float32)
    found = measure(layer, jax.random.key(0), True)
    assert set(found) == set(BITS_ESTIMATORS)
    for name, pair in found.items():
        np.testing.assert_allclose(pair, label_entropy(TASK.labels), atol=0.05, err_msg=name)
    assert "mixture" not in measure(layer, jax.random.key(0), False)


def test_measures_keep_their_bounds_on_a_trained_network(snapshots):
    measure = make_bits_measure(TASK.labels, bins=30, variance=0.1, k=5, widest=10)
    for layer in (snapshots[-1].layers[2][0], snapshots[0].layers[2][1]):
        found = measure(layer, jax.random.key(1), True)
        entropy, size = label_entropy(TASK.labels), np.log(4096)
        for name in ("bins", "range_bins"):
            assert found[name][0] <= size + 1e-4 and found[name][1] <= entropy + 1e-4
        for number in (0, 1):
            assert found["kde_lower"][number] - 0.03 <= found["mixture"][number] <= found["kde_upper"][number] + 0.03
        np.testing.assert_allclose(found["neighbors"], found["mixture"], atol=0.1)
        assert found["mixture"][1] <= min(found["mixture"][0], entropy) + 0.02
        assert found["kde"][0] == found["kde_upper"][0] and found["kde"][1] < found["kde_upper"][1]


def test_values_above_the_last_edge_are_one_symbol_and_their_range_tells_them_apart():
    """What truncation does to a rectified layer: labels that are plain above 1 are lost to bins on [-1, 1]."""
    measure = make_bits_measure(TASK.labels, bins=30, variance=0.1, k=5, widest=4)
    layer = jnp.asarray(2.0 + 3.0 * TASK.labels[:, None], jnp.float32)
    found = measure(layer, jax.random.key(0), False)
    assert found["bins"] == pytest.approx([0.0, 0.0], abs=1e-6)
    assert found["range_bins"] == pytest.approx([label_entropy(TASK.labels)] * 2, abs=1e-5)
    constant = measure(jnp.full((4096, 2), 3.0), jax.random.key(0), False)
    assert constant["range_bins"] == pytest.approx([0.0, 0.0], abs=1e-6)


def test_codes_tell_of_images_and_classes():
    """Layers of the images' first components with little noise and with nothing but noise; classes by a threshold."""
    keys = jax.random.split(jax.random.key(0), 3)
    images = jax.random.normal(keys[0], (600, 4, 1)) * jnp.array([3.0, 2.0, 0.01, 0.01])[:, None]
    labels = np.asarray(images[:, 0, 0] > 0).astype(np.int32)
    seen = images[:, :2, 0] + 0.1 * jax.random.normal(keys[1], (600, 2))
    blind = jax.random.normal(keys[2], (600, 2))
    for encode_fn in (None, lambda flat: flat[:, :2]):
        measure = make_digits_measure(np.asarray(images), labels, code_dims=2, k=3, encode_fn=encode_fn)
        with_input, with_label = measure(seen, keys[0], False)["latent"]
        assert with_input > 3.0 and 0.55 < with_label < 0.72
        assert np.abs(measure(blind, keys[0], False)["latent"]).max() < 0.15


def test_the_autoencoder_beats_components_on_a_curve():
    angle = np.random.default_rng(0).uniform(-2.5, 2.5, 300)
    x = np.stack([np.cos(angle), np.sin(angle), np.cos(2 * angle)], axis=1).astype(np.float32)
    encode_fn, explained = fit_autoencoder(jax.random.key(0), x, code_dims=1, steps=800)
    values = np.linalg.eigvalsh(np.cov(x.T))
    assert explained > 0.9 > values[-1] / values.sum()
    codes = encode_fn(jnp.asarray(x))
    assert codes.shape == (300, 1) and bool(jnp.isfinite(codes).all())

"""Networks, training and measures of the information plane, each against something independent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.information_plane.measure import (
    BITS_ESTIMATORS,
    binned,
    label_entropy,
    make_bits_measure,
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
    params = jax.jit(model.init_fn)(jax.random.key(1))
    x = TASK.patterns[:50]
    logits, layers = jax.jit(model.apply_fn)(params, x, jax.random.key(0))
    expected = x
    for layer, found in zip(params[:-1], layers, strict=False):
        expected = np.maximum(expected @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"]), 0.0)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert [layer.shape[1] for layer in layers] == list(BIT_WIDTHS)
    odds = np.exp(np.asarray(logits))
    np.testing.assert_allclose(layers[-1], odds / odds.sum(1, keepdims=True), rtol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_convolution_is_that_of_the_compiler(stride):
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=shape).astype(np.float32) for shape in [(2, 8, 8, 3), (3, 3, 3, 5)])
    expected = jax.lax.conv_general_dilated(
        np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), kernel, (stride, stride), "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )  # fmt: skip
    found = jax.jit(convolve, static_argnames="stride")(x, kernel, stride=stride)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_every_hidden_layer_carries_the_noise():
    model = convolutional("tanh", noise=0.1)
    params = jax.jit(model.init_fn)(jax.random.key(0))
    x = jnp.ones((300, 8, 8, 1))  # equal images: what differs is noise
    apply_fn = jax.jit(model.apply_fn)
    layers, again = (jax.tree.map(np.asarray, apply_fn(params, x, jax.random.key(n))[1]) for n in (1, 2))
    assert [layer.shape[1:] for layer in layers] == [(8, 8, 8), (4, 4, 16), (32,)] and len(model.layer_names) == 3
    assert float(np.std(layers[0], axis=0).mean()) == pytest.approx(0.1, abs=0.003)
    assert all(float(np.std(layer, axis=0).mean()) > 0.1 for layer in layers[1:])  # and that of the layers before
    assert all(bool(np.all(a != b)) for a, b in zip(layers, again, strict=True))


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
    layer = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    labels = np.asarray(layer[:, 0] > 0.3).astype(np.int32)
    found = jax.jit(lambda x: pairwise(x, [np.flatnonzero(labels == c) for c in (0, 1)], 0.1))(layer)
    bounds = jax.jit(kolchinsky_tracey_bounds)
    plain = [float(bound) for bound in bounds(layer, variance=0.1)]
    lower, upper = bounds(layer, variance=0.1, labels=labels)
    np.testing.assert_allclose(found["kde_lower"], [plain[0], float(lower)], atol=1e-4)
    np.testing.assert_allclose(found["kde_upper"], [plain[1], float(upper)], atol=1e-4)
    np.testing.assert_allclose(found["kde"], [plain[1], float(upper.info["same_bound"])], atol=1e-4)


def test_a_class_of_one_pattern_tells_nothing_within_it():
    layer = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    labels = (np.arange(20) == 7).astype(np.int32)
    found = jax.jit(lambda x: pairwise(x, [np.flatnonzero(labels == c) for c in (0, 1)], 0.1))(layer)
    lower, upper = jax.jit(kolchinsky_tracey_bounds)(layer, variance=0.1, labels=labels)
    assert found["kde_lower"][1] == pytest.approx(float(lower), abs=1e-5)
    assert found["kde_upper"][1] == pytest.approx(float(upper), abs=1e-5)
    assert found["kde"][1] == pytest.approx(float(upper.info["same_bound"]), abs=1e-5)


@pytest.fixture(scope="module")
def measure():
    """All layers below have three columns: compiled once."""
    return make_bits_measure(TASK.labels, bins=30, variance=0.1, k=5, widest=4)


def columns(values) -> jax.Array:
    """A layer ``[4096, 3]`` with the values in its first column and 0 in the others."""
    return jnp.pad(jnp.asarray(values, jnp.float32)[:, None], ((0, 0), (0, 2)))


def test_noisy_information_of_a_line_is_that_of_the_channel(measure):
    """T of N(0, 1) and noise of variance 0.1 have half log 11 together, and nothing with labels that T ignores."""
    found = measure(columns(jax.random.normal(jax.random.key(0), (4096,))), jax.random.key(1), True)
    truth = 0.5 * np.log(11)
    for name in ("neighbors", "mixture"):
        np.testing.assert_allclose(found[name], [truth, 0.0], atol=0.06, err_msg=name)
    assert found["kde_lower"][0] < truth < found["kde_upper"][0]
    assert found["kde_lower"][1] < 0 < found["kde_upper"][1] and abs(found["kde"][1]) < 0.01


def test_a_layer_of_the_label_alone_has_its_entropy_by_every_estimator(measure):
    """T = (+-1, +-1, +-1) by the label: I(X; T') and I(T'; Y) are both H(Y)."""
    layer = jnp.tile(2.0 * jnp.asarray(TASK.labels, jnp.float32)[:, None] - 1.0, (1, 3))
    found = measure(layer, jax.random.key(0), True)
    assert set(found) == set(BITS_ESTIMATORS)
    for name, pair in found.items():
        np.testing.assert_allclose(pair, label_entropy(TASK.labels), atol=0.08, err_msg=name)
    assert "mixture" not in measure(layer, jax.random.key(0), False)


def test_measures_keep_their_bounds_on_a_trained_network(measure, snapshots):
    entropy, size = label_entropy(TASK.labels), np.log(4096)
    for layer in (snapshots[-1].layers[4][0], snapshots[0].layers[4][1]):
        found = measure(layer, jax.random.key(1), True)
        for name in ("bins", "range_bins"):
            assert found[name][0] <= size + 1e-4 and found[name][1] <= entropy + 1e-4
        for number in (0, 1):
            assert found["kde_lower"][number] - 0.05 <= found["mixture"][number] <= found["kde_upper"][number] + 0.05
        np.testing.assert_allclose(found["neighbors"], found["mixture"], atol=0.1)
        assert found["mixture"][1] <= min(found["mixture"][0], entropy) + 0.05
        assert found["kde"][0] == found["kde_upper"][0] and found["kde"][1] < found["kde_upper"][1]


def test_what_lies_above_the_last_edge_is_one_symbol_but_not_in_the_layers_own_range(measure):
    """What truncation does to a rectified layer: a label that is plain above 1 is lost to bins on [-1, 1]."""
    found = measure(columns(2.0 + 3.0 * TASK.labels), jax.random.key(0), False)
    assert found["bins"] == pytest.approx([0.0, 0.0], abs=1e-6)
    assert found["range_bins"] == pytest.approx([label_entropy(TASK.labels)] * 2, abs=1e-5)


def test_a_constant_layer_tells_nothing(measure):
    found = measure(jnp.full((4096, 3), 3.0, jnp.float32), jax.random.key(0), False)  # strongly typed as the others
    for name in ("bins", "range_bins", "kde_lower", "kde_upper", "kde"):
        assert found[name] == pytest.approx([0.0, 0.0], abs=1e-4), name
    np.testing.assert_allclose(found["neighbors"], [0.0, 0.0], atol=0.06)


def test_columns_of_zero_change_no_bins_and_no_distances(measure):
    """A layer filled up to the widest one has the measures of its own columns; see `make_bits_measure`."""
    layer = jax.random.normal(jax.random.key(3), (4096, 3)) * 0.5
    found = measure(layer, jax.random.key(0), False)
    plain = binned(layer, jnp.asarray(TASK.labels), jnp.linspace(-1.0, 1.0, 31))
    np.testing.assert_allclose(found["bins"], plain, atol=1e-4)
    digits = np.digitize(np.asarray(layer), np.linspace(-1, 1, 31, dtype=np.float32))
    counts = np.unique(digits, axis=0, return_counts=True)[1] / 4096
    assert found["bins"][0] == pytest.approx(-np.sum(counts * np.log(counts)), abs=2e-3)


def test_the_noise_is_a_function_of_the_key(measure):
    layer = columns(np.linspace(-1, 1, 4096))
    first, again, other = (measure(layer, jax.random.key(n), False) for n in (0, 0, 1))
    assert first == again and first["neighbors"] != other["neighbors"] and first["bins"] == other["bins"]

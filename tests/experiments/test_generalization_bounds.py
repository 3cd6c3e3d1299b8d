"""The networks of the generalization experiment: data, training, and what is measured."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits as reference_digits

from experiments.generalization_bounds.config import Config
from experiments.generalization_bounds.digits import load_digits
from experiments.generalization_bounds.learn import Group, learn_group, learn_network
from experiments.generalization_bounds.networks import (
    Layer,
    apply_network,
    draw_noise,
    expected_losses,
    init_network,
    losses,
)
from experiments.generalization_bounds.quantities import (
    VARIANCE_FLOOR,
    baselines,
    layer_information,
    measure_group,
    parameter_information,
)
from experiments.generalization_bounds.records import is_saturated, layer_measures, make_records
from jaxdiv.information import encoder_information, posterior_information

SMALL = {  # those of test_generalization_bounds_run, so that both files train by one program of the cache
    "depths": (1, 2),
    "widths": (4, 6),
    "weight_decays": (0.0, 1.0),
    "num_draws": 2,
    "num_seeds": 2,
    "num_train": 200,
    "steps": 30,
    "average_steps": 10,
    "noise_draws": 2,
    "resamples": 30,
    "trials": 200,
}
CONFIG = Config(**SMALL)


# Compiled once per shape: operation by operation they are dozens of programs.
noise_of = jax.jit(draw_noise, static_argnums=2)
losses_of = jax.jit(losses)
encoder_of = jax.jit(encoder_information, static_argnames="bound")
posterior_of = jax.jit(posterior_information)


@pytest.fixture(scope="module")
def learned():
    return learn_group(CONFIG, load_digits(CONFIG), depth=2, width=4)


def test_training_sets_are_apart_from_the_test_set():
    config = Config(num_draws=4, num_train=50, label_noise=0.0)
    digits = load_digits(config)
    images, labels = reference_digits(return_X_y=True)
    known = {tuple(image): label for image, label in zip(images, labels, strict=True)}
    test = {tuple(row) for row in 8.0 * (digits.test_images + 1.0)}
    assert digits.train_images.shape == (4, 50, 64) and len(digits.test_images) == 797
    for rows, truth in zip(8.0 * (digits.train_images + 1.0), digits.train_labels, strict=True):
        assert len({tuple(row) for row in rows}) == 50 and not {tuple(row) for row in rows} & test
        assert [known[tuple(row)] for row in rows] == truth.tolist()
    assert (digits.train_images[0] != digits.train_images[1]).any()


def test_noisy_labels_belong_to_images_and_are_as_many_as_said():
    noisy, clean = (load_digits(Config(num_draws=3, num_train=900, label_noise=p)) for p in (0.5, 0.0))
    np.testing.assert_array_equal(noisy.train_images, clean.train_images)
    for found, truth in ((noisy.train_labels, clean.train_labels), (noisy.test_labels, clean.test_labels)):
        assert np.mean(found != truth) == pytest.approx(0.45, abs=0.06)  # a tenth of the random labels are right
    seen = {}
    for image, label in zip(noisy.train_images.reshape(-1, 64), noisy.train_labels.reshape(-1), strict=True):
        assert seen.setdefault(image.tobytes(), label) == label
    other = load_digits(Config(num_draws=3, num_train=900, seed=1))
    assert (other.test_images != clean.test_images).any()


def test_the_network_is_the_one_of_the_docstring():
    params = init_network(jax.random.key(0), inputs=64, depth=2, width=50, outputs=10)
    assert [layer.kernel.shape for layer in params] == [(64, 50), (50, 50), (50, 10)]
    for layer in params:
        assert np.std(np.asarray(layer.kernel)) == pytest.approx(len(layer.kernel) ** -0.5, rel=0.1)
    images = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    noise = np.asarray(noise_of(jax.random.key(1), params, 3, 0.5))
    logits, means = jax.jit(apply_network)(params, images, noise)
    kernels = [np.asarray(layer.kernel) for layer in params]
    first = np.tanh(images @ kernels[0])
    second = np.tanh((first + noise[0]) @ kernels[1])
    np.testing.assert_allclose(means, [first, second], atol=1e-5)
    np.testing.assert_allclose(logits, (second + noise[1]) @ kernels[2], atol=1e-5)
    assert np.std(np.asarray(noise_of(jax.random.key(1), params, 200, 0.5))) == pytest.approx(0.5, rel=0.02)

    labels = np.array([0, 3, 9])
    loss, wrong = losses_of(params, images, labels, noise)
    logits = np.asarray(logits)
    log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(loss, -log_probs[range(3), labels], atol=1e-5)
    np.testing.assert_array_equal(wrong, np.argmax(logits, 1) != labels)
    keys = jax.random.split(jax.random.key(2), 3)
    each = [losses_of(params, images, labels, noise_of(k, params, 3, 0.5)) for k in keys]
    found = jax.jit(lambda p: expected_losses(p, images, labels, key=jax.random.key(2), scale=0.5, draws=3))(params)
    np.testing.assert_allclose(found, np.mean(each, axis=0), atol=1e-5)


def test_a_network_of_the_group_is_the_network_alone(learned):
    group, digits = Group.of(CONFIG), load_digits(CONFIG)
    assert len(set(zip(*group, strict=True))) == len(group.seed) == 8
    keys = jax.random.split(jax.random.key(CONFIG.seed), CONFIG.num_seeds)
    alone_fn = jax.jit(lambda *a: learn_network(CONFIG, *a, depth=2, width=4))
    learned = jax.tree.map(np.asarray, learned)
    for g in (1, 6):
        images, labels = digits.train_images[group.draw[g]], digits.train_labels[group.draw[g]]
        alone = alone_fn(images, labels, group.weight_decay[g], keys[group.seed[g]])
        for one, many in zip(jax.tree.leaves(alone), jax.tree.leaves(learned), strict=True):
            np.testing.assert_allclose(one, many[g], rtol=1e-3, atol=1e-5)
    assert (learned.params[0].kernel[0] != learned.params[0].kernel[1]).any()


def test_weight_decay_makes_kernels_smaller(learned):
    group = Group.of(CONFIG)
    size = np.square(np.asarray(learned.params[0].kernel)).sum((1, 2))
    pairs = size.reshape(2, 2, 2)  # seed, weight decay, draw
    assert (pairs[:, 1] < pairs[:, 0]).all() and group.weight_decay.reshape(2, 2, 2)[0, 1, 0] == 1.0


def test_moments_are_those_of_the_last_iterates():
    digits = load_digits(CONFIG)
    arguments = (digits.train_images[0], digits.train_labels[0], 0.1, jax.random.key(3))

    def after(steps, average):
        config = dataclasses.replace(CONFIG, steps=steps, average_steps=average)
        return jax.jit(lambda *a: learn_network(config, *a, depth=1, width=4))(*arguments)

    # Rows of a shorter run are other rows, so the iterates come from runs of one length, by their means.
    whole, pair = after(6, 6), after(6, 2)
    last = np.asarray(pair.params[0].kernel)
    before = 2.0 * np.asarray(pair.mean[0].kernel) - last
    np.testing.assert_allclose(pair.variance[0].kernel, np.square(last - before) / 2.0, rtol=1e-2, atol=1e-9)
    np.testing.assert_array_equal(whole.params[0].kernel, last)
    assert np.abs(before - last).max() <= 1.1 * CONFIG.learning_rate + 1e-6  # a step of Adam apart
    assert (np.asarray(whole.variance[0].bias) > 0).all()


def test_layer_information_is_the_encoders_at_known_noise():
    rng = np.random.default_rng(0)
    params = init_network(jax.random.key(4), inputs=5, depth=3, width=6, outputs=2)
    images, labels = rng.normal(size=(30, 5)).astype(np.float32), rng.integers(0, 2, 30)
    key = jax.random.key(5)
    found, apart = jax.jit(
        lambda p: [layer_information(p, images, labels, key=key, scale=scale) for scale in (0.5, 1e-4)]
    )(params)
    shared, *keys = jax.random.split(key, 4)
    noise = np.asarray(noise_of(shared, params, 1, 0.5))
    log_variances = np.full((30, 6), np.log(0.25), np.float32)
    z = images
    for layer in range(3):
        mean = np.tanh(z @ np.asarray(params[layer].kernel) + np.asarray(params[layer].bias))
        for bound in ("lower", "upper"):
            one = encoder_of(mean, log_variances, labels, key=keys[layer], bound=bound)
            np.testing.assert_allclose(found[bound][layer], one.value, rtol=1e-4)
        z = mean + noise[layer]
    sizes = np.bincount(labels)
    np.testing.assert_allclose(found["ceiling"], (sizes * np.log(sizes)).sum() / 30, rtol=1e-5)
    np.testing.assert_allclose(apart["lower"][0], apart["ceiling"][0], rtol=1e-4)


def test_baselines_by_hand():
    rng = np.random.default_rng(1)
    kernels = [rng.normal(size=shape) for shape in ((3, 4), (4, 4), (4, 2))]
    found = jax.jit(baselines)([Layer(jnp.asarray(k, jnp.float32), jnp.zeros(k.shape[1])) for k in kernels])
    frobenius = [np.square(k).sum() for k in kernels]
    assert found["squared weights"] == pytest.approx(sum(frobenius), rel=1e-5)
    assert found["log Frobenius product"] == pytest.approx(np.log(np.prod(frobenius)) / 2, rel=1e-5)
    spectral = [np.linalg.svd(k, compute_uv=False)[0] for k in kernels]
    assert found["log spectral product"] == pytest.approx(np.log(np.prod(spectral)), rel=1e-4)
    paths = np.einsum("ij,jk,kl->ijkl", *kernels)
    assert found["log path norm"] == pytest.approx(np.log(np.square(paths).sum()), rel=1e-4)
    assert found["parameters"] == 3 * 4 + 4 + 4 * 4 + 4 + 4 * 2 + 2


def test_parameter_information_is_the_posteriors(learned):
    found = parameter_information(CONFIG, learned)
    assert found["parameters"].shape == (8, 2)
    for first in (0, 6):  # the two draws of one setting
        for layers in (1, 2):
            mean, variance = (
                np.stack([np.concatenate([np.ravel(np.asarray(leaf)[g]) for leaf in jax.tree.leaves(tree[:layers])])
                          for g in (first, first + 1)])
                for tree in (learned.mean, learned.variance)
            )  # fmt: skip
            estimate = posterior_of(mean, np.log(np.maximum(variance, VARIANCE_FLOOR)))
            for g in (first, first + 1):
                np.testing.assert_allclose(found["parameters"][g, layers - 1], estimate.value, rtol=1e-4)
                divergence = np.mean(estimate.info["divergences"])
                np.testing.assert_allclose(found["divergences"][g, layers - 1], divergence, rtol=1e-3)


def test_measured_losses_are_those_of_the_splits(learned):
    digits = load_digits(CONFIG)
    quiet = dataclasses.replace(CONFIG, noise=1e-6)
    group, measured = Group.of(quiet), measure_group(quiet, digits, learned)
    records = make_records(quiet, measured, parameter_information(quiet, learned), depth=2, width=4)
    for g in (0, 5):
        params = jax.tree.map(lambda leaf, g=g: np.asarray(leaf)[g], learned.params)
        for split, images, labels in (
            ("train", digits.train_images[group.draw[g]], digits.train_labels[group.draw[g]]),
            ("test", digits.test_images, digits.test_labels),
        ):
            loss, wrong = losses_of(params, images, labels, np.zeros((2, 1, 4), np.float32))
            assert records[g][f"{split} loss"] == pytest.approx(float(np.mean(loss)), rel=1e-4)
            assert records[g][f"{split} error"] == pytest.approx(float(np.mean(wrong)), abs=0.01)
    assert [record["draw"] for record in records] == group.draw.tolist()
    assert records[5]["weight_decay"] == group.weight_decay[5] and records[5]["seed"] == group.seed[5]


def test_terms_of_the_bounds_by_hand():
    layers = {
        "lower": np.array([3.0, 1.0]),
        "upper": np.array([9.0, 12.0]),
        "parameters": np.array([0.5, 1.0]),
        "divergences": np.array([7.0, 88.0]),
        "ceiling": np.array([3.02, 3.02]),
    }
    found = layer_measures(layers, 100)
    squares = {name: 100 * float(value) ** 2 for name, value in found.items()}
    assert squares == pytest.approx(
        {
            "encoder lower, first": 3.0,
            "encoder lower, last": 1.0,
            "encoder lower, least": 1.0,
            "encoder upper, first": 9.0,
            "encoder upper, last": 12.0,
            "encoder upper, least": 9.0,
            "parameters lower": 1.0,
            "parameters upper": 88.0,
            "both lower, least": 2.0,
            "both upper, least": 16.0,
        },
        rel=1e-5,
    )
    assert is_saturated(layers) == [True, False]
    assert layer_measures(layers | {"lower": np.array([-0.1, 1.0])}, 100)["encoder lower, least"] == 0.0

"""The digits in the information plane: the real run in small, compression to codes, and the autoencoder."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.information_plane.autoencoder import fit_autoencoder
from experiments.information_plane.config import Config
from experiments.information_plane.measure import make_digits_measure
from experiments.information_plane.models import convolutional
from experiments.information_plane.run import build_experiment, run
from experiments.information_plane.training import train_networks

SMALL = {"task": "digits", "num_seeds": 1, "epochs": 3, "snapshots": 3, "learning_rate": 3e-3, "code_dims": 2}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    return directory, run(Config(directory=directory, activations=("tanh",), **SMALL))


def test_a_run_writes_records_tables_and_pictures(finished):
    directory, records = finished
    assert [json.loads(line) for line in (directory / "snapshots.jsonl").read_text().splitlines()] == records
    assert [record["epoch"] for record in records] == [0, 1, 3]
    table = (directory / "table.md").read_text()
    for word in ("| tanh | 3: dense 32 |", "H(Y) = 3.3218 bits; seeds: 1,", "noise 0.1; 2 components"):
        assert word in table


def test_the_network_learns_and_its_last_layer_tells_more_of_the_class(finished):
    _, records = finished
    first, _, last = records
    assert last["test_accuracy"] > first["test_accuracy"] + 0.3 and last["loss"] < first["loss"]
    before, after = (record["information"][2]["latent"][1] for record in (first, last))
    assert before < after < np.log(10)


def test_images_are_scaled_and_shared_by_both_networks():
    experiment = build_experiment(Config(task="digits"))
    assert experiment.x.shape == (1797, 8, 8, 1) and experiment.x.dtype == np.float32
    assert experiment.x.min() == -1.0 and experiment.x.max() == 1.0
    names = [experiment.model_fn(activation).layer_names for activation in ("tanh", "relu")]
    assert names[0] == names[1] and set(experiment.panels) == set(experiment.estimators) == {"latent"}


def test_the_encoder_may_be_learned(monkeypatch):
    def constant(key, x, *, code_dims):
        assert x.shape == (1797, 64) and code_dims == 3
        return (lambda flat: flat[:, 20:23]), 0.25

    monkeypatch.setattr("experiments.information_plane.run.fit_autoencoder", constant)
    experiment = build_experiment(Config(task="digits", encoder="autoencoder", code_dims=3))
    assert "explain 0.25 of the images' variance" in experiment.note


@pytest.mark.slow  # a compilation of the training by itself
def test_noise_is_drawn_anew_at_every_snapshot():
    x, y = np.ones((60, 8, 8, 1), np.float32), np.arange(60) % 10
    model = convolutional("relu", noise=0.5)
    settings = {"seeds": (0,), "learning_rate": 1e-9, "batch_size": 16}
    first, second = train_networks(model, x, y, epochs=[0, 1], **settings)
    assert not np.any(first.layers[0] == second.layers[0])
    np.testing.assert_allclose(first.layers[0].mean(1), second.layers[0].mean(1), atol=0.5)


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

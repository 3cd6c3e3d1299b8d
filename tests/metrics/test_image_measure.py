import json

import jax
import numpy as np
import pytest

from jaxdiv.data import unscale_images
from jaxdiv.metrics import (
    frechet_distance_from_features,
    image_measure,
    load_mobilenet_v2,
    load_resnet_cifar,
    make_image_measure,
    mobilenet_v2_features,
    precision_recall,
    resnet_cifar_features,
)
from tests.metrics import network_oracles as oracle

TRAIN, TEST = 60, 40
BATCHES = {"resnet_batch": 32, "mobilenet_batch": 20}


def smooth_images(count, seed):
    """Blobs of random colours: images on which a random network gives more than one class."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 4, 4, 3)).repeat(8, 1).repeat(8, 2)
    return np.clip(coarse + rng.normal(0, 10, coarse.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def sets():
    labels = np.arange(TRAIN) % 10
    return {"train_images": smooth_images(TRAIN, 0), "train_labels": labels, "test_images": smooth_images(TEST, 1)}


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("weights"), np.random.default_rng(0)
    np.savez(folder / "resnet.npz", **oracle.random_resnet(rng, width=4))
    np.savez(folder / "mobilenet.npz", **oracle.random_mobilenet(rng))
    return {"resnet_path": folder / "resnet.npz", "mobilenet_path": folder / "mobilenet.npz"}


@pytest.fixture(scope="module")
def measure(sets, paths):
    return make_image_measure(**sets, **paths, **BATCHES)


@pytest.fixture(scope="module")
def resnet_only(sets, paths, tmp_path_factory):
    """``make(**changes)``: a quick measure."""

    def make(**changes):
        return make_image_measure(**(sets | {"resnet_path": paths["resnet_path"]} | BATCHES | changes))

    return make


def test_numbers_are_those_of_the_parts(measure, sets, paths):
    samples = smooth_images(30, 2)
    row = measure(samples)
    assert json.loads(json.dumps(row)) == row
    resnet, mobilenet = load_resnet_cifar(paths["resnet_path"]), load_mobilenet_v2(paths["mobilenet_path"])
    (x, logits), (y, _) = (jax.jit(resnet_cifar_features)(resnet, images) for images in (samples, sets["train_images"]))
    np.testing.assert_allclose(row["fd_resnet8"], frechet_distance_from_features(x, y), rtol=1e-4)
    apply = jax.jit(mobilenet_v2_features)
    u, v = (apply(mobilenet, images)[0] for images in (samples, sets["train_images"]))
    np.testing.assert_allclose(row["fd_mobilenet_v2"], frechet_distance_from_features(u, v), rtol=1e-4)
    pairs = precision_recall(x, y[:30])
    assert {name: row[name] for name in pairs._fields} == pytest.approx(pairs._asdict())
    counts = np.bincount(logits.argmax(1), minlength=10)
    assert row["class_counts"] == counts.tolist()
    assert row["missing_classes"] == np.flatnonzero(counts == 0).tolist()
    assert row["class_histogram_distance"] == pytest.approx(0.5 * np.abs(counts / 30 - 0.1).sum())
    assert (row["num_samples"], row["nearest_samples"], row["precision_recall_samples"]) == (30, 30, 30)
    assert row["measure"] == measure.digest and len(measure.digest) == 12


def test_nearest_neighbours_are_those_of_all_pairs(measure, sets):
    def distances(images):
        apart = images[:, None].astype(float) - sets["train_images"][None]
        return np.sqrt(np.square(apart).mean((2, 3, 4)).min(1))

    samples = smooth_images(30, 2)
    row, ours, test = measure(samples), distances(samples), distances(sets["test_images"])
    assert row["nearest_train_pixels_median"] == pytest.approx(np.median(ours), rel=1e-5)
    assert row["nearest_train_pixels_close"] == pytest.approx((ours < np.quantile(test, 0.05)).mean())
    assert measure.floor["nearest_train_pixels_median"] == pytest.approx(np.median(test), rel=1e-5)


def test_the_training_set_is_seen_to_be_copied(measure, sets):
    row = measure(sets["train_images"])
    assert row["fd_resnet8"] < 1e-6 > row["fd_mobilenet_v2"]
    assert row["precision"] == row["recall"] == row["coverage"] == 1
    assert row["nearest_train_median"] == row["nearest_train_pixels_median"] == 0
    assert row["nearest_train_close"] == row["nearest_train_pixels_close"] == 1


def test_the_floor_is_the_test_set(measure, sets):
    assert measure(sets["test_images"]) == measure.floor
    assert measure.floor["nearest_train_close"] == measure.floor["nearest_train_pixels_close"] == 0.05


def test_worse_images_measure_worse(measure):
    noise = np.random.default_rng(0).integers(0, 256, (40, 32, 32, 3)).astype(np.uint8)
    row = measure(noise)
    for name in ("fd_resnet8", "fd_mobilenet_v2", "nearest_train_median", "nearest_train_pixels_median"):
        assert row[name] > measure.floor[name], name
    assert row["precision"] < measure.floor["precision"]


def test_quantised_as_a_viewer_does(resnet_only, sets):
    measure, samples = resnet_only(), sets["test_images"]
    scaled = samples / np.float32(127.5) - 1
    assert measure(unscale_images(scaled, half_range=127.5)) == measure.floor


def test_a_network_may_be_left_out(measure, resnet_only, sets, paths):
    resnet = resnet_only()
    mobilenet = make_image_measure(**sets, mobilenet_path=paths["mobilenet_path"], **BATCHES)
    assert set(measure.floor) == set(resnet.floor) | set(mobilenet.floor)
    assert "fd_mobilenet_v2" not in resnet.floor and "precision" not in mobilenet.floor
    for part in (resnet, mobilenet):
        assert {k: v for k, v in part.floor.items() if k != "measure"}.items() <= measure.floor.items()
    assert len({measure.digest, resnet.digest, mobilenet.digest}) == 3


def test_counts_limit_the_pairs(resnet_only):
    measure = resnet_only(num_precision_recall=10, num_nearest=5, num_neighbors=2)
    assert (measure.floor["precision_recall_samples"], measure.floor["nearest_samples"]) == (10, 5)
    assert measure.floor["num_samples"] == TEST


def test_the_cache_saves_the_work(resnet_only, tmp_path, monkeypatch):
    first = resnet_only(cache=tmp_path)
    names = sorted(path.name.rsplit("-", 1)[0] for path in tmp_path.iterdir())
    assert names == ["floor", "train-resnet8"]

    def refuse(*args, **keywords):
        raise AssertionError("computed again")

    samples = smooth_images(20, 3)
    row = first(samples)
    with monkeypatch.context() as patch:
        patch.setattr(image_measure, "embed_images", refuse)
        again = resnet_only(cache=tmp_path)
    assert again.floor == first.floor and again(samples) == row
    assert resnet_only().floor == first.floor


def test_the_cache_knows_what_it_was_computed_from(resnet_only, sets, tmp_path):
    measures = [resnet_only(cache=tmp_path)]
    changed = sets["train_images"].copy()
    changed[0, 0, 0, 0] ^= 1
    measures.append(resnet_only(cache=tmp_path, train_images=changed))
    measures.append(resnet_only(cache=tmp_path, test_images=sets["test_images"][1:]))
    measures.append(resnet_only(cache=tmp_path, num_neighbors=4))
    measures.append(resnet_only(cache=tmp_path, train_labels=sets["train_labels"] // 2))
    assert len({measure.digest for measure in measures}) == len(measures)
    assert len(list(tmp_path.glob("train-*"))) == 2 and len(list(tmp_path.glob("floor-*"))) == 5


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"train_images": np.zeros((9, 32, 32, 3), np.float32)}, "train_images has dtype float32; .*unscale_images"),
        ({"test_images": np.zeros((9, 28, 28, 1), np.uint8)}, "test_images has shape"),
        ({"test_images": np.zeros((3, 32, 32, 3), np.uint8)}, "test_images has 3 images; expected more than"),
        ({"train_labels": np.zeros(5, int)}, r"train_labels has shape \(5,\); expected shape \(60\)"),
        ({"train_labels": np.zeros(60)}, "train_labels has dtype float"),
        ({"train_labels": np.full(60, 10)}, r"train_labels has labels from 10 to 10; expected labels in \[0, 9\]"),
        ({"train_labels": np.full(60, -1)}, "train_labels has labels from -1"),
        ({"resnet_path": None}, "resnet_path and mobilenet_path are None"),
        ({"num_neighbors": 0}, "num_neighbors is 0"),
        ({"num_precision_recall": 3}, "num_precision_recall is 3"),
        ({"num_nearest": 0}, "num_nearest is 0"),
        ({"resnet_batch": 0}, "resnet_batch is 0"),
        ({"mobilenet_batch": 0}, "mobilenet_batch is 0"),
    ],
)
def test_bad_settings_are_refused(resnet_only, changes, match):
    with pytest.raises(ValueError, match=f"make_image_measure: {match}"):
        resnet_only(**changes)


def test_missing_weights_are_named(resnet_only, tmp_path):
    with pytest.raises(FileNotFoundError, match="none.npz"):
        resnet_only(resnet_path=tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("samples", "match"),
    [
        (np.zeros((9, 32, 32, 3), np.float32), "dtype float32; expected uint8 pixels; jaxdiv.data.unscale_images"),
        (np.zeros((9, 16, 16, 3), np.uint8), "shape"),
        (np.zeros((3, 32, 32, 3), np.uint8), "3 images; expected more than num_neighbors = 3"),
    ],
)
def test_bad_samples_are_refused(measure, samples, match):
    with pytest.raises(ValueError, match=f"ImageMeasure: samples has {match}"):
        measure(samples)

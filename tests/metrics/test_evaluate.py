"""The table row: each entry equals the metric called alone, and says what it should on real digits."""

import json

import numpy as np
import pytest

from jaxdiv.metrics import (
    class_histogram_distance,
    evaluate_samples,
    frechet_distance_from_features,
    make_reference,
    nearest_neighbor_distance,
    precision_recall,
)


@pytest.fixture(scope="module")
def reference(digits, trained):
    return make_reference(digits[0][:500], digits[1][:500], classifier=trained)


@pytest.fixture(scope="module")
def held_out_row(digits, trained, reference):
    return evaluate_samples(digits[0][1397:], reference=reference, classifier=trained)


def test_entries_equal_the_metrics_called_alone(digits, trained, reference, held_out_row):
    samples = digits[0][1397:]
    features = trained.features_fn(trained.params, samples)
    row = held_out_row
    # Embedding in batches may round differently by an ulp or so.
    np.testing.assert_allclose(
        row["frechet_distance"], frechet_distance_from_features(features, reference.features), rtol=1e-4
    )
    neighbors = precision_recall(features, reference.features[:400])
    for name, value in neighbors._asdict().items():
        np.testing.assert_allclose(row[name], value, atol=0.006)
    logits = np.asarray(trained.logits_fn(trained.params, samples))
    expected = class_histogram_distance(logits, digits[1][:500], num_classes=10)
    np.testing.assert_allclose(row["class_histogram_distance"], expected.distance, atol=1e-9)
    nearest = np.median(nearest_neighbor_distance(samples, digits[0][:500]))
    np.testing.assert_allclose(row["median_nearest_neighbor_distance"], nearest, rtol=1e-6)


def test_held_out_digits_are_good_samples(held_out_row):
    assert held_out_row["precision"] > 0.8 and held_out_row["recall"] > 0.8
    assert held_out_row["missing_classes"] == [] and held_out_row["class_histogram_distance"] < 0.15
    assert held_out_row["clipped_fraction"] == 0.0 and held_out_row["num_samples"] == 400


def test_row_is_json(held_out_row):
    assert json.loads(json.dumps(held_out_row)) == held_out_row


def test_copies_show_in_the_nearest_neighbour_distance(digits, trained, reference, held_out_row):
    row = evaluate_samples(digits[0][:400], reference=reference, classifier=trained)
    assert row["median_nearest_neighbor_distance"] == 0.0 < held_out_row["median_nearest_neighbor_distance"]
    assert row["precision"] == 1.0
    assert row["frechet_distance"] < held_out_row["frechet_distance"]


def test_dropped_classes_show(digits, trained, reference, held_out_row):
    images, labels = digits
    kept = images[1397:][labels[1397:] < 5]
    row = evaluate_samples(kept, reference=reference, classifier=trained)
    assert set(row["missing_classes"]) <= {5, 6, 7, 8, 9} and row["class_histogram_distance"] > 0.3
    assert row["recall"] < 0.7 < row["precision"]
    assert row["frechet_distance"] > 3 * held_out_row["frechet_distance"]


def test_noise_is_neither_precise_nor_near(digits, trained, reference, held_out_row):
    noise = np.random.default_rng(0).normal(size=(400, 8, 8, 1)).astype(np.float32)
    row = evaluate_samples(noise, reference=reference, classifier=trained)
    assert row["precision"] < 0.3
    assert row["frechet_distance"] > 10 * held_out_row["frechet_distance"]
    assert row["median_nearest_neighbor_distance"] > 2 * held_out_row["median_nearest_neighbor_distance"]
    np.testing.assert_allclose(row["clipped_fraction"], 0.317, atol=0.02)  # P(|normal| > 1)
    clipped = evaluate_samples(np.clip(noise, -1, 1), reference=reference, classifier=trained)
    assert clipped == row | {"clipped_fraction": 0.0}


def test_pixel_distance_where_asked(digits, trained, held_out_row):
    images, labels = digits
    reference = make_reference(images[:500], labels[:500], classifier=trained, with_pixels=True)
    row = evaluate_samples(images[1397:], reference=reference, classifier=trained)
    expected = frechet_distance_from_features(images[1397:].reshape(400, -1), images[:500].reshape(500, -1))
    np.testing.assert_allclose(row.pop("pixel_frechet_distance"), expected, rtol=1e-9)
    assert row == held_out_row


@pytest.mark.parametrize(
    "samples, message",
    [
        (np.zeros((10, 8, 8), np.float32), r"samples has shape \(10, 8, 8\)"),
        (np.zeros((10, 8, 8, 3), np.float32), r"samples has shape \(10, 8, 8, 3\)"),
        (np.zeros((3, 8, 8, 1), np.float32), "samples has 3 images; expected more than num_neighbors = 3"),
        (np.full((10, 8, 8, 1), np.nan, np.float32), "samples holds NaN"),
        (np.zeros((10, 8, 8, 1), np.uint8), "samples has dtype uint8"),
    ],
)
def test_errors_name_what_came(trained, reference, samples, message):
    with pytest.raises(ValueError, match="evaluate_samples: " + message):
        evaluate_samples(samples, reference=reference, classifier=trained)


def test_reference_errors(digits, trained):
    with pytest.raises(ValueError, match=r"make_reference: labels has shape \(4,\)"):
        make_reference(digits[0][:5], digits[1][:4], classifier=trained)
    with pytest.raises(ValueError, match="make_reference: images holds NaN"):
        make_reference(digits[0][:5] * np.nan, digits[1][:5], classifier=trained)

"""Class histograms: total variation, counts, missing classes."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.metrics import class_histogram_distance


@pytest.mark.parametrize(
    "labels, reference, distance, missing",
    [
        ([0, 1, 2], [2, 1, 0], 0.0, ()),
        ([0, 0, 0, 0], [1, 1], 1.0, (1,)),
        ([0, 0, 1, 1], [0, 1, 2, 2], 0.5, (2,)),
        ([0, 1] * 7, [0, 1], 0.0, ()),
        ([0, 0, 0, 1], [0, 1], 0.25, ()),
        ([3], [0, 1, 2, 3], 0.75, (0, 1, 2)),
        ([0, 1, 3], [0, 1], 1 / 3, ()),  # a class that the reference lacks is counted, not missing
    ],
)
def test_small_cases_by_hand(labels, reference, distance, missing):
    result = class_histogram_distance(np.array(labels), np.array(reference), num_classes=4)
    np.testing.assert_allclose(result.distance, distance, rtol=1e-12)
    assert result.missing_classes == missing
    np.testing.assert_array_equal(result.counts, [labels.count(c) for c in range(4)])
    np.testing.assert_array_equal(result.reference_counts, [reference.count(c) for c in range(4)])


def test_probabilities_and_logits_count_their_most_probable_class():
    logits = np.random.default_rng(0).normal(size=(50, 5)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    reference = np.arange(50) % 5
    by_label = class_histogram_distance(logits.argmax(1), reference, num_classes=5)
    for scores in (logits, jnp.asarray(probabilities)):
        result = class_histogram_distance(scores, reference, num_classes=5)
        assert result.distance == by_label.distance
        np.testing.assert_array_equal(result.counts, by_label.counts)


def test_distance_is_symmetric_and_between_zero_and_one():
    rng = np.random.default_rng(1)
    for _ in range(20):
        a, b = rng.integers(0, 6, 30), rng.integers(0, 3, 17)
        forwards = class_histogram_distance(a, b, num_classes=6).distance
        assert 0.0 <= forwards <= 1.0
        np.testing.assert_allclose(class_histogram_distance(b, a, num_classes=6).distance, forwards, rtol=1e-12)


@pytest.mark.parametrize(
    "samples, reference, num_classes, message",
    [
        (
            np.array([0, 3]),
            np.array([0]),
            3,
            r"probabilities_or_labels has labels from 0 to 3; expected labels in \[0, 2\]",
        ),
        (np.array([0]), np.array([-1]), 3, "reference_labels has labels from -1 to -1"),
        (np.array([0.0, 1.0]), np.array([0]), 3, r"probabilities_or_labels has shape \(2,\) and dtype float64"),
        (np.zeros((2, 4)), np.array([0]), 3, r"probabilities_or_labels has shape \(2, 4\)"),
        (np.zeros((2, 3), int), np.array([0]), 3, "probabilities_or_labels has dtype int"),
        (np.full((2, 3), np.nan), np.array([0]), 3, "probabilities_or_labels holds NaN"),
        (np.zeros((0, 3)), np.array([0]), 3, r"probabilities_or_labels has shape \(0,\)"),
        (np.array([0]), np.zeros((1, 3)), 3, r"reference_labels has shape \(1, 3\)"),
        (np.array([0]), np.array([0]), 0, "num_classes is 0"),
    ],
)
def test_errors_name_what_came(samples, reference, num_classes, message):
    with pytest.raises(ValueError, match="class_histogram_distance: .*" + message):
        class_histogram_distance(samples, reference, num_classes=num_classes)

"""Precision, recall, density and coverage against loops; nearest neighbours against a k-d tree."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree

from jaxdiv.metrics import nearest_neighbor_distance, precision_recall


def by_loops(samples, reference, k):
    """The definitions, one pair at a time in float64."""
    samples, reference = samples.astype(np.float64), reference.astype(np.float64)

    def radii(points):
        return [
            sorted(np.linalg.norm(p - q) for j, q in enumerate(points) if j != i)[k - 1] for i, p in enumerate(points)
        ]

    reference_radii, sample_radii = radii(reference), radii(samples)
    holding = [
        sum(np.linalg.norm(s - r) <= radius for r, radius in zip(reference, reference_radii, strict=True))
        for s in samples
    ]
    recalled = [
        any(np.linalg.norm(s - r) <= radius for s, radius in zip(samples, sample_radii, strict=True)) for r in reference
    ]
    covered = [
        min(np.linalg.norm(s - r) for s in samples) <= radius
        for r, radius in zip(reference, reference_radii, strict=True)
    ]
    return np.mean([h > 0 for h in holding]), np.mean(recalled), np.sum(holding) / (k * len(samples)), np.mean(covered)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_agrees_with_loops(k, shift):
    rng = np.random.default_rng(k)
    samples = (0.8 * rng.normal(size=(70, 4)) + shift).astype(np.float32)
    reference = rng.normal(size=(65, 4)).astype(np.float32)
    np.testing.assert_allclose(precision_recall(samples, reference, num_neighbors=k), by_loops(samples, reference, k))


def two_modes(num, seed, centers=(-10.0, 10.0)):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(num, 2)) + np.resize(centers, num)[:, None]).astype(np.float32)


def test_a_dropped_mode_costs_recall_and_no_precision():
    result = precision_recall(two_modes(200, 0, centers=(10.0,)), two_modes(200, 1))
    assert result.precision > 0.9
    assert 0.4 < result.recall <= 0.5
    assert result.coverage <= 0.5


def test_an_invented_mode_costs_precision_and_no_recall():
    result = precision_recall(two_modes(200, 0), two_modes(200, 1, centers=(10.0,)))
    assert 0.4 < result.precision <= 0.5
    assert result.recall > 0.9


def test_far_samples_have_nothing():
    reference = two_modes(50, 1)
    assert precision_recall(reference + np.float32(1e3), reference) == (0.0, 0.0, 0.0, 0.0)


def test_identical_sets_have_everything():
    x = two_modes(64, 2)
    precision, recall, density, coverage = precision_recall(x, x)
    assert (precision, recall, coverage) == (1.0, 1.0, 1.0)
    assert density > 1.0  # each point lies in its own ball and in those of its neighbours


def test_one_law_gives_high_values_and_density_near_one():
    rng = np.random.default_rng(3)
    result = precision_recall(*rng.normal(size=(2, 400, 2)).astype(np.float32), num_neighbors=5)
    assert result.precision > 0.95 and result.recall > 0.95 and result.coverage > 0.95
    assert 0.85 < result.density < 1.15


def test_copies_of_one_reference_have_precision_without_recall():
    reference = two_modes(40, 4)
    result = precision_recall(np.tile(reference[:1], (40, 1)), reference)
    assert result.precision == 1.0
    assert result.recall == 1 / 40  # balls of radius 0: only the copied example itself
    assert result.density >= 1 / 3


def test_density_discounts_an_outlier_that_inflates_precision():
    # One reference outlier has a huge ball; samples near it count fully in precision and by 1/k in density.
    rng = np.random.default_rng(5)
    reference = np.concatenate([0.1 * rng.normal(size=(50, 2)), [[20.0, 0.0]]]).astype(np.float32)
    samples = (0.1 * rng.normal(size=(50, 2)) + [25.0, 0.0]).astype(np.float32)
    result = precision_recall(samples, reference, num_neighbors=5)
    assert result.precision == 1.0
    np.testing.assert_allclose(result.density, 1 / 5)


def test_swapping_the_sets_swaps_precision_and_recall():
    a, b = two_modes(60, 6, centers=(10.0,)), two_modes(60, 7)
    forwards, backwards = precision_recall(a, b), precision_recall(b, a)
    assert forwards.precision == backwards.recall and forwards.recall == backwards.precision


def test_a_large_common_offset_does_not_cancel():
    rng = np.random.default_rng(8)
    grid = rng.integers(0, 64, size=(2, 60, 3)).astype(np.float32)  # exact in float32 with the offset too
    assert precision_recall(grid[0] + 2.0**17, grid[1] + 2.0**17) == precision_recall(grid[0], grid[1])


@pytest.mark.parametrize("num, size", [(1, 1), (63, 2), (64, 5), (65, 5), (200, 16)])
def test_nearest_neighbor_agrees_with_a_tree(num, size):
    rng = np.random.default_rng(num)
    x, reference = rng.normal(size=(num, size)).astype(np.float32), rng.normal(size=(90, size)).astype(np.float32)
    expected = cKDTree(reference).query(x)[0]
    actual = nearest_neighbor_distance(x, reference)
    assert actual.shape == (num,) and actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


def test_nearest_neighbor_of_long_vectors_looks_into_every_block_of_the_reference():
    rng = np.random.default_rng(3)
    reference = rng.normal(size=(201, 4096)).astype(np.float32)  # blocks of 64 vectors, the last one not full
    chosen = [0, 63, 64, 191, 192, 200]
    samples = reference[chosen] + 0.5 / 64
    np.testing.assert_allclose(nearest_neighbor_distance(samples, reference), 0.5, rtol=1e-4)


def test_nearest_neighbor_flattens_images_and_finds_copies_exactly():
    images = 1000 + np.random.default_rng(9).normal(size=(20, 4, 4, 1)).astype(np.float32)
    np.testing.assert_array_equal(nearest_neighbor_distance(images[3:7], images), 0.0)
    moved = images[:2] + np.array([0.0, 0.25], np.float32)[:, None, None, None]
    np.testing.assert_allclose(nearest_neighbor_distance(moved, images), [0.0, 1.0], rtol=1e-3)


def test_low_precision_inputs_are_measured_in_float32():
    x = jnp.asarray(np.random.default_rng(10).normal(size=(30, 4)), jnp.bfloat16)
    distance = nearest_neighbor_distance(x[:10], x[10:])
    assert distance.dtype == jnp.float32
    np.testing.assert_allclose(
        distance, cKDTree(np.asarray(x[10:], float)).query(np.asarray(x[:10], float))[0], rtol=1e-5
    )


FINE = np.zeros((5, 2), np.float32)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: precision_recall(FINE[:3], FINE), r"precision_recall: samples has shape \(3, 2\); expected .* >= 4"),
        (lambda: precision_recall(FINE, FINE[:3]), r"precision_recall: reference has shape \(3, 2\)"),
        (lambda: precision_recall(FINE, FINE, num_neighbors=5), "samples has shape"),
        (lambda: precision_recall(FINE, FINE, num_neighbors=0), "precision_recall: num_neighbors is 0"),
        (lambda: precision_recall(FINE, np.zeros((5, 3))), r"samples has shape \(5, 2\); expected shape \(any, 3\)"),
        (lambda: precision_recall(FINE + np.nan, FINE), "samples holds NaN or infinity"),
        (lambda: precision_recall(FINE, FINE + np.inf), "reference holds NaN or infinity"),
        (lambda: precision_recall(FINE.astype(int), FINE), "samples has dtype int"),
        (lambda: nearest_neighbor_distance(np.zeros(3), FINE), r"nearest_neighbor_distance: x has shape \(3,\)"),
        (lambda: nearest_neighbor_distance(FINE, FINE[:0]), r"reference has shape \(0, 2\)"),
        (lambda: nearest_neighbor_distance(FINE, np.zeros((5, 3))), r"x has shape \(5, 2\)"),
        (lambda: nearest_neighbor_distance(FINE * np.nan, FINE), "x holds NaN or infinity"),
    ],
)
def test_errors_name_what_came(call, message):
    with pytest.raises(ValueError, match=message):
        call()

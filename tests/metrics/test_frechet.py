"""Frechet distance against scipy's matrix square root and closed forms; the statistics against numpy."""

import numpy as np
import pytest
import scipy.linalg

from jaxdiv.metrics import FeatureStatistics, frechet_distance, frechet_distance_from_features


def from_moments(mean, covariance):
    """Statistics whose mean and unbiased covariance are exactly the given ones."""
    return FeatureStatistics(101, np.asarray(mean, float), 100.0 * np.asarray(covariance, float))


def random_covariance(rng, size, rank=None):
    factor = rng.normal(size=(size, rank or size))
    return factor @ factor.T


def batch(features):
    return FeatureStatistics.empty(features.shape[1]).update(features)


@pytest.mark.parametrize("size", [1, 3, 16, 40])
def test_agrees_with_the_matrix_square_root(size):
    rng = np.random.default_rng(size)
    mean_a, mean_b = rng.normal(size=(2, size))
    cov_a, cov_b = random_covariance(rng, size), random_covariance(rng, size)
    root = np.real(scipy.linalg.sqrtm(cov_a @ cov_b))
    expected = np.sum((mean_a - mean_b) ** 2) + np.trace(cov_a + cov_b - 2 * root)
    actual = frechet_distance(from_moments(mean_a, cov_a), from_moments(mean_b, cov_b))
    np.testing.assert_allclose(actual, expected, rtol=1e-8)


@pytest.mark.parametrize("seed", range(3))
def test_diagonal_gaussians_in_closed_form(seed):
    rng = np.random.default_rng(seed)
    mean_a, mean_b = rng.normal(size=(2, 6))
    std_a, std_b = rng.uniform(0.1, 3.0, size=(2, 6))
    expected = np.sum((mean_a - mean_b) ** 2) + np.sum((std_a - std_b) ** 2)
    a, b = from_moments(mean_a, np.diag(std_a**2)), from_moments(mean_b, np.diag(std_b**2))
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-12)


def test_commuting_covariances_share_the_rotation():
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    std_a, std_b = rng.uniform(0.1, 3.0, size=(2, 5))
    a = from_moments(np.zeros(5), rotation @ np.diag(std_a**2) @ rotation.T)
    b = from_moments(np.zeros(5), rotation @ np.diag(std_b**2) @ rotation.T)
    np.testing.assert_allclose(frechet_distance(a, b), np.sum((std_a - std_b) ** 2), rtol=1e-10)


def test_two_by_two_rotated_in_closed_form():
    # In two dimensions tr sqrt(AB) = sqrt(tr(AB) + 2 sqrt(det A det B)).
    angle = 0.7
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    cov_a = np.diag([4.0, 0.25])
    cov_b = rotation @ cov_a @ rotation.T
    trace_root = np.sqrt(np.trace(cov_a @ cov_b) + 2 * np.sqrt(np.linalg.det(cov_a) * np.linalg.det(cov_b)))
    actual = frechet_distance(from_moments([0, 0], cov_a), from_moments([0, 0], cov_b))
    np.testing.assert_allclose(actual, 2 * 4.25 - 2 * trace_root, rtol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_streaming_equals_batch_and_numpy(offset):
    features = np.random.default_rng(1).normal(size=(503, 7)) + offset
    streamed = FeatureStatistics.empty(7)
    for start in range(0, 503, 61):
        streamed = streamed.update(features[start : start + 61])
    whole = batch(features)
    assert streamed.count == whole.count == 503
    np.testing.assert_allclose(streamed.mean, whole.mean, rtol=1e-12)
    # A large offset is itself rounded to eps * offset; one running sum of x x^T would lose eps * offset^2.
    np.testing.assert_allclose(streamed.scatter, whole.scatter, rtol=0, atol=1e-12 * 503 * (1 + 1e-2 * offset))
    np.testing.assert_allclose(whole.covariance(), np.cov(features.T), rtol=1e-9, atol=1e-12 * (1 + offset))


def test_merge_is_associative_and_commutative():
    features = np.random.default_rng(2).normal(size=(90, 4)) * [1, 10, 100, 1] + [0, 5, 0, -1e3]
    a, b, c = batch(features[:7]), batch(features[7:60]), batch(features[60:])
    ways = [a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b)]
    for way in ways:
        assert way.count == 90
        np.testing.assert_allclose(way.mean, features.mean(0), rtol=1e-12)
        np.testing.assert_allclose(way.covariance(), np.cov(features.T), rtol=1e-10, atol=1e-9)


def test_empty_statistics_are_neutral():
    a = batch(np.arange(6.0).reshape(3, 2))
    empty = FeatureStatistics.empty(2)
    for merged in (a.merge(empty), empty.merge(a), a.update(np.zeros((0, 2)))):
        assert merged.count == 3
        np.testing.assert_array_equal(merged.scatter, a.scatter)


def test_update_does_not_change_its_input():
    a = batch(np.arange(6.0).reshape(3, 2))
    before = a.mean.copy(), a.scatter.copy()
    a.update(np.ones((5, 2)))
    np.testing.assert_array_equal(a.mean, before[0])
    np.testing.assert_array_equal(a.scatter, before[1])


def test_low_precision_features_are_accumulated_in_float64():
    features = np.random.default_rng(3).normal(size=(50, 3)).astype(np.float32)
    stats = batch(features)
    assert stats.mean.dtype == stats.scatter.dtype == np.float64
    np.testing.assert_allclose(stats.mean, features.astype(np.float64).mean(0), rtol=1e-14)


@pytest.mark.parametrize("rank_a, rank_b", [(2, 2), (2, 6), (6, 2), (1, 6)])
def test_singular_covariances(rank_a, rank_b):
    rng = np.random.default_rng(10 * rank_a + rank_b)
    cov_a, cov_b = random_covariance(rng, 6, rank_a), random_covariance(rng, 6, rank_b)
    # A little noise makes both regular: the distance is continuous, with a square-root modulus.
    noise = 1e-10 * np.eye(6)
    root = np.real(scipy.linalg.sqrtm((cov_a + noise) @ (cov_b + noise)))
    expected = np.trace(cov_a + cov_b - 2 * root)
    actual = frechet_distance(from_moments(np.zeros(6), cov_a), from_moments(np.zeros(6), cov_b))
    np.testing.assert_allclose(actual, expected, rtol=1e-3)


def test_singular_supports_that_are_orthogonal():
    a, b = from_moments([0, 0], np.diag([4.0, 0.0])), from_moments([0, 0], np.diag([0.0, 9.0]))
    np.testing.assert_allclose(frechet_distance(a, b), 13.0, rtol=1e-12)


def test_constant_sets_leave_the_mean_term():
    assert frechet_distance_from_features(np.zeros((4, 3)), np.full((2, 3), 2.0)) == 12.0


@pytest.mark.parametrize("num, size", [(200, 8), (5, 30), (2, 4)])
def test_identical_sets_are_at_zero(num, size):
    x = 100.0 * np.random.default_rng(4).normal(size=(num, size))
    # The singular values give rounding of the trace itself; roots of eigenvalues would leave 1e-8 of it.
    assert 0.0 <= frechet_distance_from_features(x, x) <= 1e-11 * np.trace(np.cov(x.T))


def test_symmetric_and_invariant_under_rigid_motions():
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(60, 5)), 2 * rng.normal(size=(40, 5)) + 1
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    distance = frechet_distance_from_features(x, y)
    np.testing.assert_allclose(frechet_distance_from_features(y, x), distance, rtol=1e-12)
    moved = frechet_distance_from_features(x @ rotation + 7, y @ rotation + 7)
    np.testing.assert_allclose(moved, distance, rtol=1e-10)
    np.testing.assert_allclose(frechet_distance_from_features(3 * x, 3 * y), 9 * distance, rtol=1e-12)


def test_root_satisfies_the_triangle_inequality():
    rng = np.random.default_rng(6)
    sets = [batch(rng.normal(size=(20, 4)) * s + s) for s in (1.0, 2.0, 0.3)]
    a, b, c = (np.sqrt(frechet_distance(p, q)) for p, q in ((sets[0], sets[1]), (sets[1], sets[2]), (sets[0], sets[2])))
    assert c <= a + b and a <= b + c and b <= a + c


def test_small_sample_bias_falls_about_as_one_over_n():
    rng = np.random.default_rng(7)
    bias = [
        np.mean([frechet_distance_from_features(*rng.normal(size=(2, n, 8))) for _ in range(30)])
        for n in (50, 200, 800)
    ]
    assert bias[0] > 3 * bias[1] > 9 * bias[2] > 0
    assert bias[2] > 8 * 2 / 800  # the means alone contribute tr(S) (1/n + 1/n)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: batch(np.zeros((3, 2, 2))), r"FeatureStatistics.update: features has shape \(3, 2, 2\)"),
        (lambda: FeatureStatistics.empty(3).update(np.zeros((4, 2))), r"update: features has shape \(4, 2\)"),
        (lambda: batch(np.array([[0.0], [np.nan]])), "update: features holds NaN or infinity in 1 rows, first row 1"),
        (lambda: FeatureStatistics.empty(0), "FeatureStatistics.empty: num_features is 0"),
        (lambda: FeatureStatistics.empty(2).merge(FeatureStatistics.empty(3)), r"merge: other.mean has shape \(3,\)"),
        (lambda: FeatureStatistics.empty(2).covariance(), "covariance: count is 0; expected at least 2"),
        (
            lambda: frechet_distance(batch(np.zeros((3, 2))), batch(np.zeros((1, 2)))),
            "b.count is 1; expected at least 2",
        ),
        (lambda: frechet_distance(batch(np.zeros((3, 2))), batch(np.zeros((3, 1)))), r"b.mean has shape \(1,\)"),
        (
            lambda: frechet_distance_from_features(np.zeros((1, 2)), np.zeros((3, 2))),
            "x has 1 rows; expected at least 2",
        ),
        (lambda: frechet_distance_from_features(np.zeros((3, 2)), np.zeros((3, 4))), r"y has shape \(3, 4\)"),
        (lambda: frechet_distance_from_features(np.zeros((3, 1)), np.full((3, 1), np.inf)), "y holds NaN or infinity"),
        (lambda: frechet_distance_from_features(np.zeros(3), np.zeros((3, 1))), r"x has shape \(3,\)"),
    ],
)
def test_errors_name_what_came(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""What may be called FID, statistics that stream, and published references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.metrics import (
    FeatureStatistics,
    fid,
    frechet_distance,
    inception_distance,
    inception_input,
    inception_statistics,
    read_fid_reference,
)
from jaxdiv.metrics.inception_weights import PINNED_SHA256, InceptionWeights

UNPINNED = InceptionWeights({"scale": jnp.float32(3.0)}, "0" * 64)
PINNED = UNPINNED._replace(sha256=PINNED_SHA256)


def statistics(num_features, seed, count=20):
    rng = np.random.default_rng(seed)
    return FeatureStatistics.empty(num_features).update(rng.normal(size=(count, num_features)) + seed)


@pytest.fixture
def network(monkeypatch):
    """A network of one multiplication in place of Inception, and the shapes that it was traced with."""
    traced = []

    def features(params, images):
        traced.append(images.shape)
        mean = images.mean((1, 2)) * params["scale"]
        return jnp.concatenate([mean, images[:, 7, 11], jnp.zeros((len(images), 2042))], 1)

    monkeypatch.setattr(inception_distance, "inception_features", features)
    jax.clear_caches()
    yield traced
    jax.clear_caches()


def expected_statistics(pixels, scaling="tensorflow"):
    images = np.asarray(inception_input(pixels, scaling=scaling), np.float64)
    rows = np.concatenate([images.mean((1, 2)) * 3, images[:, 7, 11], np.zeros((len(images), 2042))], 1)
    return FeatureStatistics.empty(2048).update(rows)


def assert_close(actual, expected):
    assert actual.count == expected.count
    np.testing.assert_allclose(actual.mean, expected.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(actual.scatter, expected.scatter, rtol=1e-4, atol=1e-5)


def test_the_distance_is_frechets_and_the_label_is_honest():
    a, b = statistics(5, 0), statistics(5, 1, count=31)
    result = fid(a, b, UNPINNED)
    assert result.value == frechet_distance(a, b) > 1
    assert result.label == "FD-Inception (unpinned weights)"
    assert (result.num_samples, result.num_reference) == (20, 31)
    # The pinned file's other features are no FID either.
    assert fid(a, b, PINNED).label == "FD-Inception (unpinned weights)"


def test_fid_is_2048_features_of_the_pinned_file(monkeypatch):
    monkeypatch.setattr(inception_distance, "frechet_distance", lambda a, b: 1.5)
    a = FeatureStatistics(50_000, np.zeros(2048), np.eye(2048))
    assert fid(a, a, PINNED) == (1.5, "FID", 50_000, 50_000)
    assert fid(a, a, UNPINNED).label == "FD-Inception (unpinned weights)"
    assert fid(a, a, PINNED._replace(sha256="6726825d" + "0" * 56)).label == "FD-Inception (unpinned weights)"


def test_fid_refuses_what_does_not_fit():
    a = statistics(3, 0)
    with pytest.raises(ValueError, match="fid: reference.mean has shape"):
        fid(a, statistics(4, 0), UNPINNED)
    with pytest.raises(ValueError, match="fid: samples is"):
        fid(np.zeros((4, 3)), a, UNPINNED)
    with pytest.raises(ValueError, match="fid: weights is"):
        fid(a, a, "weights.pth")
    with pytest.raises(ValueError, match="at least 2 vectors"):
        fid(a, statistics(3, 0, count=1), UNPINNED)


@pytest.mark.parametrize("cuts", [[], [4], [1, 2, 3, 9], [0, 5, 5, 10]])
def test_pieces_of_any_length_and_one_program(network, cuts):
    pixels = np.random.default_rng(0).integers(0, 256, (11, 6, 5, 3), dtype=np.uint8)
    pieces = np.split(pixels, cuts)
    actual = inception_statistics(UNPINNED, iter(pieces), batch_size=4)
    assert_close(actual, expected_statistics(pixels))
    assert network == [(4, 299, 299, 3)]  # traced once, for one size, whatever the pieces


def test_padding_counts_for_nothing(network):
    pixels = np.random.default_rng(1).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    small, large = (inception_statistics(UNPINNED, pixels, batch_size=size) for size in (5, 64))
    assert_close(large, small)
    assert small.count == 5


def test_floats_are_rounded_to_bytes(network):
    pixels = np.random.default_rng(2).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    floats = jnp.asarray(pixels / 127.5 - 1 + 0.3 / 127.5, jnp.float32)
    of_bytes, of_floats = (inception_statistics(UNPINNED, images, batch_size=3) for images in (pixels, [floats]))
    np.testing.assert_array_equal(of_floats.scatter, of_bytes.scatter)


def test_the_scaling_is_part_of_it(network):
    pixels = np.random.default_rng(3).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    actual = inception_statistics(UNPINNED, pixels, batch_size=2, scaling="symmetric")
    assert_close(actual, expected_statistics(pixels, "symmetric"))
    assert np.abs(actual.mean - expected_statistics(pixels).mean).max() > 1e-3


def test_many_rows_are_added_up_in_blocks(network, monkeypatch):
    monkeypatch.setattr(inception_distance, "_ROWS", 6)
    pixels = np.random.default_rng(4).integers(0, 256, (23, 3, 3, 3), dtype=np.uint8)
    assert_close(inception_statistics(UNPINNED, pixels, batch_size=3), expected_statistics(pixels))


@pytest.mark.parametrize(
    "images, message",
    [
        ([], "images has no image"),
        ([np.zeros((0, 4, 4, 3), np.uint8)], "images has no image"),
        ([np.zeros((1, 4, 4, 3), np.uint8), np.zeros((1, 5, 4, 3), np.uint8)], "images has shape"),
        (np.zeros((4, 4, 3), np.uint8), "images has shape"),
        (np.zeros((2, 4, 4, 1), np.uint8), "images has shape"),
        (np.full((2, 4, 4, 3), np.nan, np.float32), "images holds NaN or infinity"),
        (np.zeros((2, 4, 4, 3), np.int32), "dtype int32"),
    ],
)
def test_images_that_do_not_fit(network, images, message):
    with pytest.raises(ValueError, match=message):
        inception_statistics(UNPINNED, images, batch_size=2)


def test_settings_that_do_not_fit():
    image = np.zeros((1, 4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="inception_statistics: batch_size is 0"):
        inception_statistics(UNPINNED, image, batch_size=0)
    with pytest.raises(ValueError, match="inception_statistics: scaling is 'unit'"):
        inception_statistics(UNPINNED, image, scaling="unit")
    with pytest.raises(ValueError, match="inception_statistics: weights is"):
        inception_statistics({}, image)


@pytest.mark.parametrize("count", [2, 50_000])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_reference_has_the_stored_mean_and_covariance(tmp_path, count, dtype):
    stats = statistics(6, 3)
    mu, sigma = stats.mean.astype(dtype), stats.covariance().astype(dtype)
    np.savez(tmp_path / "cifar10-32x32.npz", mu=mu, sigma=sigma)
    reference = read_fid_reference(tmp_path / "cifar10-32x32.npz", count=count)
    assert reference.count == count and reference.scatter.dtype == np.float64
    np.testing.assert_allclose(reference.mean, mu, rtol=1e-12)
    np.testing.assert_allclose(reference.covariance(), sigma, rtol=1e-12)
    assert fid(stats, reference, UNPINNED).value < 1e-5
    other = statistics(6, 5)
    np.testing.assert_allclose(fid(other, reference, UNPINNED).value, frechet_distance(other, stats), rtol=1e-5)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"mu": np.zeros(3)}, "an .npz with mu and sigma"),
        ({"mu": np.zeros(3), "sigma": np.array([None])}, "an .npz with mu and sigma"),
        ({"mu": np.zeros((3, 1)), "sigma": np.eye(3)}, "mu has shape"),
        ({"mu": np.zeros(3), "sigma": np.eye(4)}, "sigma has shape"),
        ({"mu": np.full(3, np.nan), "sigma": np.eye(3)}, "NaN or infinity"),
        ({"mu": np.zeros(2), "sigma": np.array([[1.0, 2.0], [0.0, 1.0]])}, "is no covariance"),
        ({"mu": np.zeros(2), "sigma": -np.eye(2)}, "is no covariance"),
    ],
)
def test_references_that_are_none(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=f"read_fid_reference: .*{message}"):
        read_fid_reference(tmp_path / "a.npz")


def test_reference_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match="read_fid_reference: path"):
        read_fid_reference(tmp_path / "absent.npz")
    (tmp_path / "a.npz").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="read_fid_reference: path"):
        read_fid_reference(tmp_path / "a.npz")
    with pytest.raises(ValueError, match="read_fid_reference: count is 1"):
        read_fid_reference(tmp_path / "a.npz", count=1)

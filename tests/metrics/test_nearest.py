import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.metrics import find_nearest


def brute(x, reference):
    distances = np.linalg.norm(x[:, None].astype(np.float64) - reference[None].astype(np.float64), axis=-1)
    return distances.min(1), distances.argmin(1)


@pytest.mark.parametrize(("n", "m", "d"), [(1, 1, 1), (5, 7, 3), (300, 40, 16), (257, 513, 64)])
def test_agrees_with_all_pairs_in_float64(n, m, d):
    rng = np.random.default_rng(0)
    x, reference = (rng.normal(3.0, 1.0, (k, d)).astype(np.float32) for k in (n, m))
    distance, index = find_nearest(x, reference)
    expected, where = brute(x, reference)
    assert (distance.dtype, index.dtype) == (jnp.float32, jnp.int32)
    np.testing.assert_array_equal(index, where)
    np.testing.assert_allclose(distance, expected, rtol=1e-6)


def test_pixels():
    rng = np.random.default_rng(0)
    x, reference = (rng.integers(0, 256, (k, 3072)).astype(np.uint8) for k in (20, 90))
    np.testing.assert_allclose(find_nearest(x, reference)[0], brute(x, reference)[0], rtol=1e-6)


@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_copies_are_at_zero_and_near_copies_near(offset):
    rng = np.random.default_rng(0)
    reference = (offset + rng.normal(size=(500, 32))).astype(np.float32)
    distance, index = find_nearest(reference[::7], reference)
    assert (distance == 0).all()
    np.testing.assert_array_equal(index, np.arange(0, 500, 7))
    close = reference[:50].copy()
    close[:, 3] += np.float32(0.0625)
    # The shift is exact in float32 at either offset up to the rounding of the data itself.
    expected = np.abs(close[:, 3].astype(np.float64) - reference[:50, 3])
    distance, index = find_nearest(close, reference)
    np.testing.assert_array_equal(index, np.arange(50))
    np.testing.assert_allclose(distance, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("x", "reference", "match"),
    [
        (np.zeros((2, 3, 1)), np.zeros((2, 3)), "x has shape"),
        (np.zeros((2, 3)), np.zeros((2, 4)), r"reference has shape \(2, 4\); expected shape \(any, 3\)"),
        (np.zeros((0, 3)), np.zeros((2, 3)), "x is empty"),
        (np.zeros((2, 3)), np.zeros((0, 3)), "reference is empty"),
        (np.zeros((2, 3), bool), np.zeros((2, 3)), "x has dtype bool"),
    ],
)
def test_bad_input_is_refused(x, reference, match):
    with pytest.raises(ValueError, match=f"find_nearest: {match}"):
        find_nearest(x, reference)

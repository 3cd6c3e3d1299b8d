"""The GPU's neighbours and counts: interpreted on the CPU, lowered for CUDA, and run on a GPU."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.information import count_within, find_neighbors, ksg
from jaxdiv.information.neighbors import kernels
from jaxdiv.information.neighbors.pairs import fits_kernels

SIZES = [(64, 1, 1), (33, 2, 3), (100, 5, 8), (5, 3, 4)]  # rows, features, k: whole tiles, ragged ones, one tile


def _samples(count, num_features):
    data = np.random.default_rng(count).normal(size=(count, num_features)) + 3.0
    data[1] = data[0]  # duplicates
    return jnp.asarray(data, jnp.float32)


def _distances(data):
    data = np.asarray(data)
    distances = np.abs(data[:, None] - data).max(-1)
    np.fill_diagonal(distances, np.inf)
    return distances


def _check_nearest(found, data, k):
    distances, index = (np.asarray(value) for value in found)
    expected = _distances(data)
    np.testing.assert_array_equal(distances, np.sort(expected, axis=1)[:, :k])
    np.testing.assert_array_equal(np.take_along_axis(expected, index, 1), distances)
    assert all(len(set(row)) == k for row in index.tolist())


def _check_counts(count_fn, data):
    distances = _distances(data)
    radius = np.sort(distances, axis=1)[:, 1]  # distances that occur, so that strict matters
    radius[2] = np.inf
    np.testing.assert_array_equal(count_fn(data, radius, True), (distances < radius[:, None]).sum(1))
    others = (distances <= radius[:, None]).sum(1)
    others[2] -= 1  # the diagonal is at infinity in the expected distances
    np.testing.assert_array_equal(count_fn(data, radius, False), others)
    np.testing.assert_array_equal(count_fn(data, np.zeros_like(radius), False)[:2], [1, 1])


@pytest.mark.parametrize(("count", "num_features", "k"), SIZES)
def test_nearest_interpreted(count, num_features, k):
    data = _samples(count, num_features)
    _check_nearest(kernels.nearest(data, k, interpret=True), data, k)


@pytest.mark.parametrize(("count", "num_features", "k"), SIZES)
def test_counts_interpreted(count, num_features, k):
    def count_fn(data, radius, strict):
        return np.asarray(kernels.count_others(data, jnp.asarray(radius), strict, interpret=True))

    _check_counts(count_fn, _samples(count, num_features))


def test_batches_interpreted():
    """Under vmap the batch is one more axis of programs."""
    data = jnp.stack([_samples(40, 2), 2.0 * _samples(40, 2) + 1.0])
    distances, index = jax.vmap(functools.partial(kernels.nearest, k=3, interpret=True))(data)
    for i in range(2):
        _check_nearest((distances[i], index[i]), data[i], 3)


@pytest.mark.parametrize("num_features", [1, 8, 64])
def test_lowers_for_cuda(num_features, hopper):
    data = jax.ShapeDtypeStruct((1000, num_features), jnp.float32)
    radius = jax.ShapeDtypeStruct((1000,), jnp.float32)
    lowered = jax.jit(functools.partial(kernels.nearest, k=8)).trace(data).lower(lowering_platforms=("cuda",))
    assert "nearest_neighbors" in lowered.as_text(debug_info=True)
    counting = jax.jit(lambda data, radius: kernels.count_others(data, radius, True))
    assert "count_neighbors" in counting.trace(data, radius).lower(lowering_platforms=("cuda",)).as_text(
        debug_info=True
    )


def test_other_calls_keep_to_xla(monkeypatch):
    """The kernels take float32, the maximum norm, few neighbours and features, on a single GPU."""
    data = jnp.zeros((9, 8))
    assert not fits_kernels(data, "chebyshev", 3)  # no GPU here
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    assert fits_kernels(data, "chebyshev", 3)
    assert not fits_kernels(np.zeros((9, 8)), "chebyshev", 3)
    assert not fits_kernels(data, "euclidean", 3)
    assert not fits_kernels(jnp.zeros((9, 65)), "chebyshev", 3)
    assert not fits_kernels(data, "chebyshev", 9)
    monkeypatch.setattr(jax, "device_count", lambda: 2)
    assert not fits_kernels(data, "chebyshev", 3)


@pytest.mark.accelerator
@pytest.mark.parametrize(("count", "num_features", "k"), [*SIZES, (3000, 8, 3), (2047, 64, 8)])
def test_on_a_gpu(count, num_features, k):
    data = _samples(count, num_features)
    found = jax.jit(functools.partial(find_neighbors, k=k))([data])
    _check_nearest(found, data, k)
    if num_features > 1:
        counting = jax.jit(count_within, static_argnames="strict")
        _check_counts(lambda data, radius, strict: np.asarray(counting(data, radius, strict=strict)), data)


@pytest.mark.accelerator
def test_infinite_and_missing_values_on_a_gpu():
    data = _samples(100, 3)
    found = find_neighbors([data.at[4, 1].set(jnp.nan)], k=2)
    assert bool(jnp.all(jnp.isnan(found.distances)))
    assert not bool(jnp.isfinite(ksg(data[:, :2].at[0].set(jnp.inf), data[:, 2], k=2).value))

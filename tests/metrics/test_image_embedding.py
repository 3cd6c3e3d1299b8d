import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiv.metrics import FeatureStatistics, embed_images, frechet_distance
from jaxdiv.metrics.image_embedding import sum_statistics


def images(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3)).astype(np.uint8)


def network(params, x):
    """Features with a large offset, correlated and of very different scales; logits are the first three."""
    flat = x.reshape(x.shape[0], -1).astype(jnp.float32) / 255
    features = jax.nn.relu(jnp.matmul(flat, params["kernel"], precision="highest") + params["bias"])
    return features, features[:, :3]


def make_params(width, offset=0.5, seed=1):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(48, width)) * np.geomspace(1e-2, 1, width)
    return {"kernel": jnp.asarray(kernel, jnp.float32), "bias": jnp.full(width, offset, jnp.float32)}


@pytest.mark.parametrize("count", [1, 7, 8, 9, 20])
def test_every_image_counts_once(count):
    params = make_params(5)
    seen = embed_images(network, params, images(count), batch_size=8)
    features, logits = network(params, images(count))
    np.testing.assert_allclose(seen.features, features, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(seen.labels, logits.argmax(-1))
    assert seen.features.dtype == np.float32 and seen.labels.dtype == np.int32
    expected = FeatureStatistics.empty(5).update(seen.features)
    assert seen.statistics.count == count and type(seen.statistics.count) is int
    np.testing.assert_allclose(seen.statistics.mean, expected.mean, rtol=1e-6)
    np.testing.assert_allclose(seen.statistics.scatter, expected.scatter, atol=1e-6 * max(1, expected.scatter.max()))


@pytest.mark.parametrize("offset", [0.5, 100.0])
def test_agrees_with_float64_on_the_host(offset):
    """The measure's case: 1280 features, here of 3000 images in blocks of 250, to a millionth."""
    params = make_params(1280, offset)
    seen = embed_images(network, params, images(3000), batch_size=250)
    expected = FeatureStatistics.empty(1280).update(seen.features)
    deviations = np.sqrt(np.diag(expected.covariance()))
    assert (np.abs(seen.statistics.mean - expected.mean) <= 1e-6 * deviations + 1e-12).all()
    error = np.linalg.norm(seen.statistics.scatter - expected.scatter) / np.linalg.norm(expected.scatter)
    assert error < 1e-6
    np.testing.assert_allclose(np.trace(seen.statistics.scatter), np.trace(expected.scatter), rtol=1e-6)


def test_the_distance_agrees_with_float64_on_the_host():
    params = make_params(320)
    found = [embed_images(network, params, images(1000, seed), batch_size=128) for seed in (0, 1)]
    exact = [FeatureStatistics.empty(320).update(seen.features) for seen in found]
    ours, theirs = frechet_distance(found[0].statistics, found[1].statistics), frechet_distance(*exact)
    assert theirs > 0
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_features_are_dropped_on_request():
    seen = embed_images(network, make_params(5), images(9), batch_size=4, keep_features=False)
    assert seen.features.shape == (0, 5) and seen.labels.shape == (9,) and seen.statistics.count == 9


def test_one_program_for_all_batches():
    traces = []

    def counting(params, x):
        traces.append(x.shape)
        return network(params, x)

    for count in (3, 8, 19):
        embed_images(counting, make_params(5), images(count), batch_size=8)
    assert traces == [(8, 4, 4, 3)]


def test_sum_statistics_is_the_merge_of_its_blocks():
    rng = np.random.default_rng(0)
    rows = rng.normal(50.0, 1.0, (30, 4))
    blocks = [FeatureStatistics.empty(4).update(rows[i:j]) for i, j in ((0, 5), (5, 6), (6, 30))]
    total, expected = sum_statistics(iter(blocks)), FeatureStatistics.empty(4).update(rows)
    assert total.count == 30
    np.testing.assert_allclose(total.mean, expected.mean, rtol=1e-14)
    np.testing.assert_allclose(total.scatter, expected.scatter, rtol=1e-10)


def test_summing_leaves_the_blocks_alone():
    block = (2, np.zeros(1), np.ones((1, 1)))
    sum_statistics([block, block])
    assert block[2] == 1


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="embed_images: images is empty"):
        embed_images(network, make_params(5), images(0), batch_size=4)
    with pytest.raises(ValueError, match="embed_images: batch_size is 0"):
        embed_images(network, make_params(5), images(3), batch_size=0)
    with pytest.raises(ValueError, match="embed_images: images has shape"):
        embed_images(network, make_params(5), images(3)[0], batch_size=2)
    with pytest.raises(ValueError, match="embed_images: features_fn gave NaN or infinity"):
        embed_images(network, make_params(5, np.nan), images(3), batch_size=2)
    with pytest.raises(ValueError, match="sum_statistics: blocks is empty"):
        sum_statistics([])

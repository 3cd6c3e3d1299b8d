"""Batches drawn on the device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.speedrun.pixels import SHAPE, Pixels, balanced_labels, draw_batch, load_pixels
from tests.data.binary_files import write_binary_cifar10

NUM = 11


@pytest.fixture(scope="module")
def pixels():
    """Image i has the grey level 10 i on its left half and 10 i + 1 on its right."""
    images = np.zeros((NUM, *SHAPE), np.uint8) + 10 * np.arange(NUM, dtype=np.uint8)[:, None, None, None]
    images[:, :, 16:] += 1
    return Pixels(images, np.arange(NUM, dtype=np.int32))


def batch(pixels, step, seed=0, size=4):
    return draw_batch(pixels, jax.random.key(seed), jnp.int32(step), batch_size=size)


def test_an_epoch_shows_no_image_twice_and_the_next_another_order(pixels):
    epochs = [np.concatenate([batch(pixels, step)[1] for step in steps]) for steps in ((0, 1), (2, 3))]
    assert all(len(set(epoch.tolist())) == 8 for epoch in epochs)
    assert epochs[0].tolist() != epochs[1].tolist()


def test_images_are_scaled_mirrored_half_of_the_time_and_keep_their_label(pixels):
    mirrored = 0
    for step in range(40):
        images, labels = batch(pixels, step)
        levels = np.rint((np.asarray(images) + 1) * 127.5).astype(int)
        np.testing.assert_array_equal(levels.min((1, 2, 3)), 10 * np.asarray(labels))
        mirrored += int((levels[:, 0, 0, 0] > levels[:, 0, -1, 0]).sum())
    assert 50 < mirrored < 110  # 80 expected of 160, deviation 6.3


def test_a_batch_is_a_function_of_seed_and_step(pixels):
    for a, b in zip(batch(pixels, 5), batch(pixels, 5), strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(batch(pixels, step)[1].tolist() != batch(pixels, step, seed=1)[1].tolist() for step in range(3))


def test_a_batch_larger_than_the_set_is_refused(pixels):
    with pytest.raises(ValueError, match=r"batch_size is 12; expected at most the 11 images"):
        batch(pixels, 0, size=12)


def test_labels_are_balanced():
    assert np.asarray(balanced_labels(14, 30)).tolist() == [4, 5, 6, 7, 8, 9, *range(10), *range(10), 0, 1, 2, 3]


def test_a_folder_without_the_data_set_is_refused(tmp_path):
    with pytest.raises(ValueError, match="data_dir .* has no folder cifar10; expected one as docs/speedrun.md"):
        load_pixels(tmp_path)


def test_the_published_form_is_read(tmp_path, pixels):
    folder = tmp_path / "cifar10"
    folder.mkdir()
    write_binary_cifar10(folder, (pixels.images, pixels.labels % 10), (pixels.images[:3], pixels.labels[:3]))
    train, test = load_pixels(tmp_path)
    np.testing.assert_array_equal(train.images, pixels.images)
    np.testing.assert_array_equal(test.labels, [0, 1, 2])

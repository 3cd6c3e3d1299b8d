"""The data in memory."""

import numpy as np
import pytest

from experiments.one_step_image.images import load_images
from tests.experiments.small import contents


def test_digits_are_loaded_and_scaled(tmp_path):
    images = load_images("digits", data_dir=tmp_path)
    assert images.shape == (8, 8, 1) and images.num_classes == 10 and not images.flip
    assert len(images.train["image"]) == 1397 and len(images.test["image"]) == 400
    scaled = images.scaled("train")
    assert scaled.dtype == np.float32 and scaled.min() == -1 and scaled.max() == 1
    assert images.sigma_data == pytest.approx(scaled.std(), rel=1e-4)
    batch = images.batches(batch_size=7, seed=0).at(3)
    assert batch["image"].shape == (7, 8, 8, 1)


def test_a_missing_data_set_is_named_and_nothing_is_written(tmp_path):
    with pytest.raises(FileNotFoundError, match="data set 'mnist' is not in .*; prepare it with `python -m"):
        load_images("mnist", data_dir=tmp_path)
    with pytest.raises(ValueError, match="name is 'nonsense'; expected one of 'digits'"):
        load_images("nonsense", data_dir=tmp_path)
    assert contents(tmp_path) == {}

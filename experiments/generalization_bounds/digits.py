"""Training sets of few digits, and the test set that all of them share."""

from typing import NamedTuple

import numpy as np

from experiments.generalization_bounds.config import NUM_TEST, Config

NUM_CLASSES = 10


class Digits(NamedTuple):
    """K training sets and one test set of 8 x 8 images, scaled to [-1, 1]."""

    train_images: np.ndarray
    """``[K, n, 64]`` float32."""
    train_labels: np.ndarray
    """``[K, n]`` int32."""
    test_images: np.ndarray
    """``[m, 64]``."""
    test_labels: np.ndarray
    """``[m]``."""


def load_digits(config: Config) -> Digits:
    """Scikit-learn's digits: 797 test images, and training sets drawn from the other 1000, each without replacement.

    Labels are noisy in both, so that test and training images have one law: the gap is then what the theorems bound. A
    noisy label belongs to the image, and is the same in every training set that has the image.
    """
    from sklearn import datasets

    images, labels = datasets.load_digits(return_X_y=True)
    rng = np.random.default_rng([config.seed, 0])
    order = rng.permutation(len(labels))
    images, labels = (images[order] / 8.0 - 1.0).astype(np.float32), labels[order].astype(np.int32)
    noisy = rng.random(len(labels)) < config.label_noise
    labels = np.where(noisy, rng.integers(0, NUM_CLASSES, len(labels), np.int32), labels)
    pool = np.arange(NUM_TEST, len(labels))
    rows = np.stack([rng.choice(pool, config.num_train, replace=False) for _ in range(config.num_draws)])
    return Digits(images[rows], labels[rows], images[:NUM_TEST], labels[:NUM_TEST])

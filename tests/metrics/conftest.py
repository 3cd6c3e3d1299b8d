"""One small classifier on the handwritten digits, trained once for the folder."""

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from jaxdiv.metrics import train_classifier


@pytest.fixture(scope="session")
def digits():
    """``(images [1797, 8, 8, 1] in [-1, 1], labels)`` in a fixed random order."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return (data.images[order, :, :, None] / 8 - 1).astype(np.float32), data.target[order]


@pytest.fixture(scope="session")
def trained(digits):
    images, labels = digits
    held_out = {"heldout_images": images[1397:], "heldout_labels": labels[1397:]}
    return train_classifier(
        images[:1397], labels[:1397], **held_out, num_classes=10, key=jax.random.key(0), num_steps=600
    )

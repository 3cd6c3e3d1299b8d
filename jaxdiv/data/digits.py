"""Scikit-learn's handwritten digits as a tensorflow-datasets builder: real images that need no download.

1797 images of 8x8 pixels with values 0 to 16, from E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten
Digits" (UCI, 1998), as ``sklearn.datasets.load_digits`` ships them.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxdiv.data import builders, order

NUM_TRAIN = 1397
_SPLIT_SEED = 0


class Digits(tfds.core.GeneratorBasedBuilder):
    """Splits ``train`` (1397 images) and ``test`` (400), cut once from a permutation with a fixed seed."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Scikit-learn's handwritten digits, 8x8 pixels with values 0 to 16.",
            features=builders.image_features((8, 8, 1), tuple("0123456789")),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[Any]]:
        images, labels = load_digits()
        positions = order.epoch_order(len(images), seed=_SPLIT_SEED, epoch=0)
        rows = {"train": positions[:NUM_TRAIN], "test": positions[NUM_TRAIN:]}
        return {split: builders.records(images[chosen], labels[chosen]) for split, chosen in rows.items()}

    def _generate_examples(self) -> Iterator[Any]:
        raise RuntimeError("never called: _split_generators gives the generators of both splits")


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """All 1797 images, uint8 ``[1797, 8, 8, 1]`` with values 0 to 16, and their labels int32 ``[1797]``."""
    from sklearn import datasets  # most of a second, and needed only until the directory is prepared

    digits: Any = datasets.load_digits()
    return digits.images.astype(np.uint8)[..., None], digits.target.astype(np.int32)


def prepare_digits(data_dir: str | os.PathLike[str]) -> Path:
    """Write the digits below ``data_dir`` unless they are there; safe when several processes do so at once.

    Returns:
      The data set's directory.
    """
    return builders.publish(lambda folder: Digits(data_dir=folder, file_format=builders.FILE_FORMAT), data_dir)

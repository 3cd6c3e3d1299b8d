"""CIFAR-10 in memory straight from its files, with numpy alone."""

import os

import numpy as np

from jaxdiv.data import formats


def read_cifar10(directory: str | os.PathLike[str]) -> dict[str, dict[str, np.ndarray]]:
    """All images and labels from a folder of original files, without preparing a data set first.

    For machines without tensorflow-datasets and grain. Both forms of ``jaxdiv.data.formats`` are read: the xz form,
    whose pixels are checked against the manifest's sha256 (12 seconds for 60,000 images on one core), and the published
    binary form. Images keep the order of the files, which is not the same in the two.

    Args:
      directory: the folder with ``manifest.json`` and its shards, or with ``data_batch_1.bin``.

    Returns:
      Per split (``train``, ``test``) a dict as ``to_arrays`` gives it: ``image`` uint8 ``[N, 32, 32, 3]`` RGB and
      ``label`` int32 ``[N]``.

    Raises:
      FileNotFoundError: the folder has neither form, or a file is missing.
      ValueError: a file is damaged.
    """
    splits = formats.read_cifar10(directory)
    return {name: {"image": images, "label": labels} for name, (images, labels) in splits.items()}

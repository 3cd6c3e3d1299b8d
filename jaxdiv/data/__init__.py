"""Image data sets as batches by (seed, step), read from tensorflow-datasets directories without TensorFlow."""

import importlib
from typing import TYPE_CHECKING, Any

from jaxdiv.data.cifar10 import read_cifar10
from jaxdiv.data.order import epoch_order
from jaxdiv.data.pipeline import Batch, BatchSource, load_batches
from jaxdiv.data.sources import (
    DATASETS,
    DatasetInfo,
    dataset_info,
    default_data_dir,
    load_split,
    scale_images,
    to_arrays,
    unscale_images,
)

if TYPE_CHECKING:
    from jaxdiv.data.digits import Digits, prepare_digits
    from jaxdiv.data.prepare import prepare_dataset

# Digits loads tensorflow-datasets; prepare runs as a program of its own, which must not be loaded before it runs.
_ON_FIRST_USE = {"Digits": "digits", "prepare_digits": "digits", "prepare_dataset": "prepare"}


def __getattr__(name: str) -> Any:
    if name in _ON_FIRST_USE:
        return getattr(importlib.import_module(f"jaxdiv.data.{_ON_FIRST_USE[name]}"), name)
    raise AttributeError(f"module 'jaxdiv.data' has no attribute {name!r}")


__all__ = [
    "DATASETS",
    "Batch",
    "BatchSource",
    "DatasetInfo",
    "Digits",
    "dataset_info",
    "default_data_dir",
    "epoch_order",
    "load_batches",
    "load_split",
    "prepare_dataset",
    "prepare_digits",
    "read_cifar10",
    "scale_images",
    "to_arrays",
    "unscale_images",
]
